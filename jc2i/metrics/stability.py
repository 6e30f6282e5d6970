"""Whether nearby images get nearby maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, streaming
from jc2i.boundary import public
from jc2i.normalization import normalize as min_max


@public(stochastic=True)
def lipschitz(
    explainer: Callable,
    model: Callable,
    images: Float[Array, "batch height width channel"],
    targets: Int[Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    neighbours: int = 40,
    radius: float = 0.05,
    normalize: bool = True,
    shared_key: bool = False,
    batch_size: int | None = None,
    **options: Any,
) -> Float[Array, " batch"]:
    """Local Lipschitz estimate of an explainer: the largest change of map a change of image.

    L(x) = max_n |map(x) - map(x_n)|_2 / |x - x_n|_2 over neighbours x_n = x + r g/|g|, g Gaussian,
    r uniform in (0, radius] (C2I section 4.6; Alvarez-Melis and Jaakkola 2018). The target stays
    that of x. Cost: `neighbours` + 1 explanations.

    Args:
      explainer: a function `(model, images, targets, *, key, **options) -> maps`.
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: one key, or one for each image; required.
      neighbours: neighbours of each image, at least 1.
      radius: largest Euclidean distance of a neighbour, in the image's units.
      normalize: whether maps are min-max normalised before they are compared.
      shared_key: whether a stochastic explainer uses the same randomness for an image and all its
        neighbours, which leaves out its own noise; by default each draws its own.
      batch_size: most explanations in flight; None for one neighbour of the whole batch.
      **options: passed on to the explainer.

    Returns:
      One estimate an image; NaN where a map is not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    checks.require(callable(explainer), "explainer", repr(explainer), "an explainer function")
    checks.positive(neighbours=neighbours, radius=radius)
    assert key is not None  # `public` refuses that
    batch, *shape = images.shape

    def explain(images: Array, targets: Array, keys: Array) -> Array:
        maps = explainer(model, images, targets, key=keys, **options)
        return min_max(maps) if normalize else maps

    def neighbour(key: Array, index: Array) -> tuple[Array, Array]:
        direction_key, radius_key, own_key = jax.random.split(jax.random.fold_in(key, index), 3)
        # Drawn flat: the same numbers as in shape, which on CPU take five times as long to compile.
        direction = jax.random.normal(direction_key, (math.prod(shape),), images.dtype)
        # 1 - uniform lies in (0, 1].
        length = radius * (1 - jax.random.uniform(radius_key, (), images.dtype))
        step = length * direction / jnp.linalg.norm(direction)
        return step.reshape(shape), jax.random.fold_in(key, neighbours) if shared_key else own_key

    own = explain(images, targets, jax.vmap(jax.random.fold_in, (0, None))(key, neighbours))

    def ratios(index: Array) -> Array:
        chunk = len(index)
        steps, keys = jax.vmap(jax.vmap(neighbour, (None, 0)), (0, None))(key, index)
        near = (images[:, None] + steps).reshape(-1, *shape)
        maps = explain(near, jnp.repeat(targets, chunk), keys.reshape(-1))
        change = maps.reshape(batch, chunk, *maps.shape[1:]) - own[:, None]
        # The distance that float arithmetic left: x + s rounds, most where s is smallest.
        moved = near.reshape(steps.shape) - images[:, None]
        distance = _norm(moved)
        # A step can be too small for the image's floats: no neighbour, so no ratio.
        return jnp.where(distance > 0, _norm(change) / distance, 0)

    chunk = streaming.per_step(batch, batch_size)
    return streaming.collect(ratios, neighbours, chunk).max(axis=1)


def _norm(values: Array) -> Array:
    """Euclidean norm over all axes but batch and neighbour."""
    return jnp.sqrt(jnp.square(values).sum(axis=tuple(range(2, values.ndim))))

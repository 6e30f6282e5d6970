"""Whether nearby images get nearby maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, pytrees, streaming
from jc2i.normalization import normalize as min_max
from jc2i.options import Number, Scalar
from jc2i.query import Cost, metric


@metric(
    # Of explanations, each of which has a cost of its own.
    cost=lambda shape, options: Cost(forward=options["neighbours"] + 1),
    stochastic=True,
    radius=Number(above=0, takes="a number above 0"),
)
def lipschitz(
    explainer: Callable,
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    neighbours: int = 40,
    radius: Scalar = 0.05,
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
    assert key is not None  # the decorator refuses that
    batch, *shape = images.shape
    chunk = streaming.per_step(batch, batch_size)

    arrays, rest = pytrees.split((model, targets, options))

    def explain(arrays: list[Array], variants: Array, keys: Array) -> Array:
        """Maps of several variants of each image: [batch, chunk, ...]."""
        model, targets, options = pytrees.join(arrays, rest)
        together = variants.shape[1]
        flat, repeated = variants.reshape(-1, *shape), jnp.repeat(targets, together)
        maps = explainer(model, flat, repeated, key=keys.reshape(-1), **options)
        maps = min_max(maps) if normalize else maps
        return maps.reshape(batch, together, *maps.shape[1:])

    def neighbour(key: Array, index: Array) -> tuple[Array, Array]:
        """The step to a neighbour, none for index 0, and the explainer's key there."""
        one = jnp.maximum(index - 1, 0)
        direction_key, radius_key, own_key = jax.random.split(jax.random.fold_in(key, one), 3)
        # Drawn flat: the same numbers as in shape, which on CPU take five times as long to compile.
        direction = jax.random.normal(direction_key, (math.prod(shape),), images.dtype)
        # 1 - uniform lies in (0, 1].
        length = radius * (1 - jax.random.uniform(radius_key, (), images.dtype))
        step = length * direction / jnp.linalg.norm(direction)
        clean_key = jax.random.fold_in(key, neighbours)
        drawn = clean_key if shared_key else jax.lax.select(index == 0, clean_key, own_key)
        return jnp.where(index == 0, jnp.zeros_like(step), step).reshape(shape), drawn

    # Index 0 is the image itself, so that the explainer is in the program once; its map is carried
    # to its neighbours'.
    def compare(state: tuple[Array, Array], index: Array, counted: Array) -> tuple[Array, Array]:
        own, largest = state
        steps, keys = streaming.each(
            lambda key: streaming.each(lambda i: neighbour(key, i), index), key
        )
        near = images[:, None] + steps
        maps = explain(arrays, near, keys)
        own = jnp.where(index[0] == 0, maps[:, 0], own)
        # The distance that float arithmetic left: x + s rounds, most where s is smallest.
        distance = _norm(near - images[:, None])
        # A step can be too small for the image's floats: no neighbour, so no ratio.
        moved = counted[None] & (index > 0)[None] & (distance > 0)
        ratios = _norm(maps - own[:, None]) / jnp.where(moved, distance, 1)
        return own, jnp.maximum(largest, jnp.where(moved, ratios, 0).max(axis=1))

    count = neighbours + 1
    together = streaming.step_size(count, chunk)
    like = jax.eval_shape(
        explain,
        arrays,
        jax.ShapeDtypeStruct((batch, together, *shape), images.dtype),
        jax.ShapeDtypeStruct((batch, together), key.dtype),
    )
    start = (jnp.zeros((batch, *like.shape[2:]), like.dtype), jnp.zeros(batch, like.dtype))
    own, largest = streaming.fold(compare, start, count, chunk)
    finite = jnp.isfinite(own).reshape(batch, -1).all(axis=1)
    return jnp.where(finite, largest, jnp.nan)


def _norm(values: Array) -> Array:
    """Euclidean norm over all axes but batch and neighbour."""
    return jnp.sqrt(jnp.square(values).sum(axis=tuple(range(2, values.ndim))))

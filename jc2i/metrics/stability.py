"""Whether nearby images get nearby maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, pytrees, streaming
from jc2i.normalization import length
from jc2i.normalization import normalize as min_max
from jc2i.options import Number, Scalar
from jc2i.query import Cost, Explained, metric


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

    def step(key: Array) -> tuple[Array, Array]:
        direction_key, radius_key, own_key = jax.random.split(key, 3)
        # Drawn flat: the same numbers as in shape, which on CPU take five times as long to compile.
        direction = jax.random.normal(direction_key, (math.prod(images.shape[1:]),), images.dtype)
        # 1 - uniform lies in (0, 1].
        length = radius * (1 - jax.random.uniform(radius_key, (), images.dtype))
        return direction * length / jnp.linalg.norm(direction), own_key

    def change(near: _Neighbours) -> Array:
        # The distance that float arithmetic left: x + s rounds, most where s is smallest.
        distance = _norm(near.images - images[:, None])
        # A step can be too small for the image's floats: no neighbour, so no ratio.
        moved = near.counted & (distance > 0)
        ratios = _changes(near) / jnp.where(moved, distance, 1)
        return jnp.where(moved, ratios, 0)

    around = _Around(neighbours, normalize, shared_key, batch_size)
    return _largest(change, step, around, explainer, model, images, targets, key, options)


@metric(
    cost=lambda shape, options: Cost(forward=options["samples"] + 1),
    stochastic=True,
    radius=Number(above=0, takes="a number above 0"),
)
def max_sensitivity(
    explainer: Callable,
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    samples: int = 10,
    radius: Scalar = 0.2,
    relative: bool = True,
    normalize: bool = False,
    shared_key: bool = False,
    batch_size: int | None = None,
    **options: Any,
) -> Float[Array, " batch"]:
    """Max-sensitivity of an explainer: the largest change of map under noise on the image.

    max_n |map(x + e_n) - map(x)|_2 / |map(x)|_2, every value of e_n uniform in [-radius, radius].
    Yeh et al. (2019) define it without the denominator, `relative=False`; with it, it is that of
    the library Quantus, whose noise and number of samples are the defaults (Opti-CAM, table 4).
    Lower is more stable. The target stays that of x. Cost: `samples` + 1 explanations.

    Args:
      explainer: a function `(model, images, targets, *, key, **options) -> maps`.
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise; noise may leave that range.
      targets: class whose score is explained, one an image.
      key: one key, or one for each image; required.
      samples: draws of noise for each image, at least 1.
      radius: largest absolute value of the noise, in the image's units.
      relative: whether changes are divided by the length of the image's own map.
      normalize: whether maps are min-max normalised before they are compared.
      shared_key: whether a stochastic explainer uses the same randomness for an image and all its
        samples, which leaves out its own noise; by default each draws its own.
      batch_size: most explanations in flight; None for one sample of the whole batch.
      **options: passed on to the explainer.

    Returns:
      One value an image; NaN where a map is not finite, and with `relative` where the image's own
      map is zero throughout.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    assert key is not None  # the decorator refuses that

    def step(key: Array) -> tuple[Array, Array]:
        noise_key, own_key = jax.random.split(key)
        shape = (math.prod(images.shape[1:]),)
        return jax.random.uniform(noise_key, shape, images.dtype, -1, 1) * radius, own_key

    def change(near: _Neighbours) -> Array:
        changes = _changes(near)
        if relative:
            length = _norm(near.own[:, None])
            some = length > 0
            changes = jnp.where(some, changes / jnp.where(some, length, 1), jnp.nan)
        return jnp.where(near.counted, changes, 0)

    around = _Around(samples, normalize, shared_key, batch_size)
    return _largest(change, step, around, explainer, model, images, targets, key, options)


class _Around(NamedTuple):
    """How many neighbours, and how their maps are made."""

    count: int
    normalize: bool
    shared_key: bool
    batch_size: int | None


class _Neighbours(NamedTuple):
    """Several neighbours of each image [batch, chunk, ...]."""

    images: Array
    maps: Array
    own: Array  # the maps of the images themselves, without the axis of neighbours
    counted: Array  # which are neighbours, and not the image or a surplus index


def _largest(
    change: Callable[[_Neighbours], Array],
    step: Callable[[Array], tuple[Array, Array]],
    around: _Around,
    explainer: Callable,
    model: Callable,
    images: checks.Array,
    targets: checks.Array,
    key: Array,
    options: dict[str, Any],
) -> Float[Array, " batch"]:
    """The largest change over the neighbours of each image.

    Args:
      change: neighbours -> how much their maps changed, 0 for those that do not count.
      step: a key -> the step to a neighbour, flat, and the explainer's own key there.
      around: how many, and how.
      explainer: see `lipschitz`.
      model: see `lipschitz`.
      images: see `lipschitz`.
      targets: see `lipschitz`.
      key: one key for each image.
      options: passed on to the explainer.

    Returns:
      One value an image; NaN where a map is not finite.
    """
    batch, *shape = images.shape
    chunk = streaming.per_step(batch, around.batch_size)

    arrays, rest = pytrees.split((model, targets, options))

    def explain(arrays: list[Array], variants: Array, keys: Array) -> Array:
        """Maps of several variants of each image: [batch, chunk, ...]."""
        model, targets, options = pytrees.join(arrays, rest)
        together = variants.shape[1]
        flat, repeated = variants.reshape(-1, *shape), jnp.repeat(targets, together)
        # What a metric's decorator hands on.
        each, options = cast("Explained", explainer).of_several(together, options)
        maps = each(model, flat, repeated, key=keys.reshape(-1), **options)
        if around.normalize:
            got = f"one that returns {checks.describe(maps)}"
            takes = "one that returns maps[batch, height, width], or normalize=False"
            checks.require(maps.ndim == 3, "explainer", got, takes)
            maps = min_max(maps)
        return maps.reshape(batch, together, *maps.shape[1:])

    def neighbour(key: Array, index: Array) -> tuple[Array, Array]:
        """The step to a neighbour, none for index 0, and the explainer's key there."""
        there, own_key = step(jax.random.fold_in(key, jnp.maximum(index - 1, 0)))
        clean_key = jax.random.fold_in(key, around.count)
        drawn = clean_key if around.shared_key else jax.lax.select(index == 0, clean_key, own_key)
        return jnp.where(index == 0, jnp.zeros_like(there), there).reshape(shape), drawn

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
        changes = change(_Neighbours(near, maps, own, (counted & (index > 0))[None]))
        return own, jnp.maximum(largest, changes.max(axis=1))

    count = around.count + 1
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


def _changes(near: _Neighbours) -> Array:
    """How far each neighbour's map is from the image's; NaN where it is not finite."""
    changes = _norm(near.maps - near.own[:, None])
    return jnp.where(jnp.isfinite(changes), changes, jnp.nan)


def _norm(values: Array) -> Array:
    """Euclidean norm over all axes but batch and neighbour."""
    return length(values, tuple(range(2, values.ndim)))

"""Whether the pixels a map calls important are those that the model uses."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, removal, scores, streaming
from jc2i.boundary import public

TIE_SEED = 0
"""Seed of the permutation that breaks ties when no `tie_key` is given."""


@public
def deletion_curve(
    model: Callable,
    images: Float[Array, "batch height width channel"],
    targets: Int[Array, " batch"],
    maps: Float[Array, "batch height width"],
    *,
    steps: int = 100,
    baseline: removal.Baseline = "blur",
    normalize: bool = True,
    tie_key: Key[Array, ""] | None = None,
    batch_size: int | None = None,
) -> Float[Array, "batch steps"]:
    """Deletion curve: the target's score as the most important pixels are removed first.

    Column k is F(x with the k/steps most important pixels replaced)_c / F(x)_c, k = 1..steps (C2I
    section 4.4; Petsiuk et al. 2018). Pixels of equal importance go in the order of one random
    permutation, the same for every image and map, so that two maps are compared like for like.
    Cost: `steps` + 1 evaluations; memory does not grow with them.

    Args:
      model: callable pytree, images -> scores[batch, classes]; usually probabilities.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is followed, one an image.
      maps: saliency maps; larger = removed earlier.
      steps: points of the curve, at least 1.
      baseline: what a removed pixel becomes: a number, one a channel, an image array, `"blur"`
        (11x11 Gaussian, sigma 10).
      normalize: whether curves are divided by the score of the clean image.
      tie_key: key of the permutation that breaks ties; None for a fixed one.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      The curves; NaN for an image whose map is not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    position = removal_order(maps, tie_key)
    return _curve(model, images, targets, position, steps, baseline, normalize, batch_size, True)


@public
def insertion_curve(
    model: Callable,
    images: Float[Array, "batch height width channel"],
    targets: Int[Array, " batch"],
    maps: Float[Array, "batch height width"],
    *,
    steps: int = 224,
    baseline: removal.Baseline = "blur",
    normalize: bool = False,
    tie_key: Key[Array, ""] | None = None,
    batch_size: int | None = None,
) -> Float[Array, "batch steps"]:
    """Insertion curve: the target's score as the most important pixels appear first.

    Column k is F(baseline with the k/steps most important pixels of x)_c, k = 1..steps (Petsiuk et
    al. 2018: 224 steps from a blurred image). Cost: `steps` (+ 1 if normalised) evaluations.

    Args:
      model: callable pytree, images -> scores[batch, classes]; usually probabilities.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is followed, one an image.
      maps: saliency maps; larger = inserted earlier.
      steps: points of the curve, at least 1.
      baseline: what a pixel is before it is inserted: as in `deletion_curve`.
      normalize: whether curves are divided by the score of the clean image.
      tie_key: key of the permutation that breaks ties; None for a fixed one.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      The curves; NaN for an image whose map is not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    position = removal_order(maps, tie_key)
    return _curve(model, images, targets, position, steps, baseline, normalize, batch_size, False)


@public(stochastic=True)
def random_deletion_curve(
    model: Callable,
    images: Float[Array, "batch height width channel"],
    targets: Int[Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    segments: Int[Array, "batch height width"],
    orders: int = 5,
    steps: int = 100,
    baseline: removal.Baseline = "blur",
    normalize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, "batch steps"]:
    """The deletion curve of random superpixels, averaged over several random orders.

    What a map must beat to explain better than chance (C2I section 4.4). Whole superpixels are
    removed, by fraction of pixels: one is gone once more than half of it lies within the fraction.
    Cost: `orders` x (`steps` + 1) evaluations.

    Args:
      model: callable pytree, images -> scores[batch, classes]; usually probabilities.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is followed, one an image.
      key: one key, or one for each image; required.
      segments: superpixel of each pixel, from `superpixels(images)`: integers from 0.
      orders: random orders averaged, at least 1.
      steps: points of the curve, at least 1.
      baseline: what a removed pixel becomes: as in `deletion_curve`.
      normalize: whether curves are divided by the score of the clean image.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      The mean curves.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    checks.positive(orders=orders)
    integers = jnp.issubdtype(segments.dtype, jnp.integer)
    checks.require(integers, "segments", checks.describe(segments), "integers from 0")
    assert key is not None  # `public` refuses that

    def curve(order: Array) -> Array:
        keys = jax.vmap(jax.random.fold_in, (0, None))(key, order)
        position = jax.vmap(_segment_position)(keys, segments)
        return _curve(
            model, images, targets, position, steps, baseline, normalize, batch_size, True
        )

    return streaming.accumulate(lambda order: curve(order[0]), orders, 1) / orders


def area(curve: Float[checks.Array, "*batch steps"]) -> Float[Array, "*batch"]:
    """The area under a deletion or insertion curve: its mean over the steps.

    Args:
      curve: curves over equal steps.

    Returns:
      One area a curve.
    """
    return jnp.mean(jnp.asarray(curve), axis=-1)


def better_than_random(
    areas: Float[checks.Array, " batch"], random_areas: Float[checks.Array, " batch"]
) -> Float[Array, " batch"]:
    """Whether each image is explained better than by chance; its mean is the BTR ratio.

    1 where the deletion area is below that image's own random area, else 0 (C2I section 4.4).

    Args:
      areas: deletion areas of the maps.
      random_areas: areas of `random_deletion_curve` of the same images.

    Returns:
      1 or 0 an image; NaN where either area is.
    """
    areas, random_areas = jnp.asarray(areas), jnp.asarray(random_areas)
    scored = jnp.isfinite(areas) & jnp.isfinite(random_areas)
    return jnp.where(scored, (areas < random_areas).astype(areas.dtype), jnp.nan)


def removal_order(
    maps: Float[Array, "batch height width"], tie_key: Key[Array, ""] | None = None
) -> Float[Array, "batch height width"]:
    """When each pixel goes: the fraction of pixels more important than it, in [0, 1).

    Args:
      maps: saliency maps.
      tie_key: key of the one permutation that orders pixels of equal importance.

    Returns:
      Positions, 0 for the most important pixel; NaN throughout for a map that is not finite.
    """
    batch, height, width = maps.shape
    pixels = height * width
    key = jax.random.key(TIE_SEED) if tie_key is None else tie_key
    permutation = jax.random.permutation(key, pixels)
    # A stable sort of the permuted pixels leaves ties in the permutation's order.
    order = jnp.argsort(-maps.reshape(batch, pixels)[:, permutation], axis=1, stable=True)
    ranked = permutation[order]
    rank = jnp.zeros((batch, pixels)).at[jnp.arange(batch)[:, None], ranked].set(jnp.arange(pixels))
    finite = jnp.isfinite(maps).all(axis=(1, 2))[:, None]
    return jnp.where(finite, rank / pixels, jnp.nan).reshape(maps.shape)


def _segment_position(key: Array, segments: Array) -> Array:
    """The fraction of pixels in superpixels drawn earlier, plus half of the pixel's own."""
    flat = segments.reshape(-1)
    # There are at most as many superpixels as pixels; unused numbers weigh nothing.
    draw = jax.random.permutation(key, flat.size)
    sizes = jnp.zeros(flat.size).at[flat].add(1.0)
    by_draw = jnp.zeros(flat.size).at[draw].set(sizes)
    middle = jnp.cumsum(by_draw) - by_draw / 2
    return (middle[draw[flat]] / flat.size).reshape(segments.shape)


def _curve(
    model: Callable,
    images: Array,
    targets: Array,
    position: Array,
    steps: int,
    baseline: removal.Baseline,
    normalize: bool,
    batch_size: int | None,
    deletion: bool,
) -> Array:
    """Scores as the pixels with position below each fraction leave (or enter) the image."""
    checks.positive(steps=steps)
    batch = images.shape[0]
    fill = jnp.broadcast_to(removal.fill(images, baseline), images.shape)
    before, after = (images, fill) if deletion else (fill, images)

    def changed_scores(index: Array) -> Array:
        # Compared in whole pixels: k/steps of them, rounded, as fractions do not add up exactly.
        pixels = position.shape[1] * position.shape[2]
        number = jnp.round((index + 1) / steps * pixels)
        changed = position[:, None] * pixels < number[:, None, None] - 0.25
        variants = jnp.where(changed[..., None], after[:, None], before[:, None])
        values = model(variants.reshape(-1, *images.shape[1:]))
        return scores.of_targets(values, jnp.repeat(targets, len(index))).reshape(batch, -1)

    chunk = streaming.per_step(batch, batch_size)
    curve = streaming.collect(changed_scores, steps, chunk)
    if normalize:
        curve = curve / scores.of_targets(model(images), targets)[:, None]
    finite = jnp.isfinite(position).all(axis=(1, 2))
    return jnp.where(finite[:, None], curve, jnp.nan)

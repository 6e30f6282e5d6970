"""The score as pixels are removed from the image, or inserted, in the order of the map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, masking, removal, streaming
from jc2i.options import Fill, Maps, TieKey, Whole
from jc2i.precision import own_promotion
from jc2i.query import Cost, metric
from jc2i.segments import SEGMENTS, numbered, require_fits

TIE_SEED = 0
"""Seed of the permutation that breaks ties when no `tie_key` is given."""


def _cost(shape: tuple[int, ...], options: Mapping[str, Any]) -> Cost:
    curves = options.get("orders", 1)
    # A deletion curve starts at the clean score, which it may be divided by too.
    clean = options["normalize"] or options["start"]
    return Cost(forward=options["steps"] * curves + clean)


def _insertion_cost(shape: tuple[int, ...], options: Mapping[str, Any]) -> Cost:
    return Cost(forward=options["steps"] + options["normalize"] + options["start"])


@metric(cost=_cost, depends_on_scores=False, baseline=Fill(), maps=Maps(), tie_key=TieKey())
def deletion_curve(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    maps: Float[checks.Array, "batch height width"],
    *,
    steps: int = 100,
    baseline: removal.Baseline = "blur",
    normalize: bool = True,
    start: bool = False,
    tie_key: Key[Array, ""] | None = None,
    batch_size: int | None = None,
) -> Float[Array, "batch points"]:
    """Deletion curve: the target's score as the most important pixels are removed first.

    Column k is F(x with the k/steps most important pixels replaced)_c / F(x)_c, k = 1..steps (C2I
    section 4.4; Petsiuk et al. 2018). Pixels of equal importance go in the order of one random
    permutation, the same for every image and map, so that two maps are compared like for like.
    Petsiuk's deletion is `steps=224, baseline=0.0, normalize=False, start=True`, and its area the
    trapezoid. Cost: `steps` + 1 evaluations; memory does not grow with them.

    Args:
      model: callable pytree, images -> scores[batch, classes]; usually probabilities.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is followed, one an image.
      maps: saliency maps; larger = removed earlier.
      steps: points of the curve, at least 1.
      baseline: what a removed pixel becomes: a number, one a channel, an image array, `"blur"`
        (11x11 Gaussian, sigma 10).
      normalize: whether curves are divided by the score of the clean image.
      start: whether the point of k = 0, the clean score, comes first: `area`'s trapezoid
        needs it.
      tie_key: key of the permutation that breaks ties; None for a fixed one.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      The curves; NaN for an image whose map is not finite, and with `normalize` for one whose clean
      score is not positive: divided by it, a worse map would look better.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    position = removal_order(maps, tie_key)[:, None]
    fill = jnp.broadcast_to(removal.fill(images, baseline), images.shape)
    return curves_by_position(
        model, images, fill, True, targets, position, steps, normalize, start, batch_size
    )[:, 0]


@metric(
    cost=_insertion_cost, depends_on_scores=False, baseline=Fill(), maps=Maps(), tie_key=TieKey()
)
def insertion_curve(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    maps: Float[checks.Array, "batch height width"],
    *,
    steps: int = 224,
    baseline: removal.Baseline = "blur",
    normalize: bool = False,
    start: bool = False,
    tie_key: Key[Array, ""] | None = None,
    batch_size: int | None = None,
) -> Float[Array, "batch points"]:
    """Insertion curve: the target's score as the most important pixels appear first.

    Column k is F(baseline with the k/steps most important pixels of x)_c, k = 1..steps (Petsiuk et
    al. 2018: 224 steps from a blurred image). Theirs is `start=True` from their own narrower blur,
    `baseline=jc2i.removal.gaussian_blur(images, 11, 5.0)` (they pad it with zeros), and its area
    the trapezoid. Cost: `steps` (+ 1 if normalised, + 1 with `start`) evaluations.

    Args:
      model: callable pytree, images -> scores[batch, classes]; usually probabilities.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is followed, one an image.
      maps: saliency maps; larger = inserted earlier.
      steps: points of the curve, at least 1.
      baseline: what a pixel is before it is inserted: as in `deletion_curve`.
      normalize: whether curves are divided by the score of the clean image.
      start: whether the point of k = 0, the score of the baseline alone, comes first:
        `area`'s trapezoid needs it.
      tie_key: key of the permutation that breaks ties; None for a fixed one.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      The curves; NaN for an image whose map is not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    position = removal_order(maps, tie_key)[:, None]
    fill = jnp.broadcast_to(removal.fill(images, baseline), images.shape)
    return curves_by_position(
        model, images, fill, False, targets, position, steps, normalize, start, batch_size
    )[:, 0]


@metric(
    cost=_cost,
    stochastic=True,
    depends_on_scores=False,
    baseline=Fill(),
    segments=SEGMENTS,
    orders=Whole(bounded=False, most=1000),  # the order of every pixel is held for each
)
def random_deletion_curve(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    segments: Int[checks.Array, "batch height width"],
    orders: int = 5,
    steps: int = 100,
    baseline: removal.Baseline = "blur",
    normalize: bool = True,
    start: bool = False,
    batch_size: int | None = None,
) -> Float[Array, "batch points"]:
    """The deletion curve of random superpixels, averaged over several random orders.

    What a map must beat to explain better than chance (C2I section 4.4). Whole superpixels are
    removed, by fraction of pixels: one is gone once more than half of it lies within the fraction.
    Cost: `orders` x `steps` + 1 evaluations.

    Args:
      model: callable pytree, images -> scores[batch, classes]; usually probabilities.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is followed, one an image.
      key: one key, or one for each image; required.
      segments: superpixel of each pixel, as from `superpixels(images)`: any integers, equal within
        one.
      orders: random orders averaged, at least 1.
      steps: points of the curve, at least 1.
      baseline: what a removed pixel becomes: as in `deletion_curve`.
      normalize: whether curves are divided by the score of the clean image.
      start: as in `deletion_curve`.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      The mean curves.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    assert key is not None  # the decorator refuses that
    require_fits(segments, images)
    dense = jax.vmap(numbered)(segments)

    def position(order: Array) -> Array:
        keys = jax.vmap(jax.random.fold_in, (0, None))(key, order)
        return jax.vmap(_segment_position)(keys, dense).astype(images.dtype)

    positions = jax.vmap(position, out_axes=1)(jnp.arange(orders))
    fill = jnp.broadcast_to(removal.fill(images, baseline), images.shape)
    curves = curves_by_position(
        model, images, fill, True, targets, positions, steps, normalize, start, batch_size
    )
    return curves.mean(axis=1)


@own_promotion()
def area(curve: Float[checks.Array, "*batch points"], rule: str = "mean") -> Float[Array, "*batch"]:
    """The area under a deletion or insertion curve over fractions of pixels from 0 to 1.

    `"mean"`: (1/K) sum_{k=1..K} y_k, a step function (C2I section 4.4). `"trapezoid"`: (1/K)
    (y_0/2 + y_1 + ... + y_{K-1} + y_K/2), the straight lines of Petsiuk et al. (2018). They need
    y_0, the clean image's point of a deletion and the baseline's of an insertion: of a curve
    without it they would leave out the first step. So each rule has its own curve.

    Args:
      curve: curves over equal steps: for `"mean"` without the point of no step, for `"trapezoid"`
        with it (`start=True`).
      rule: `"mean"` or `"trapezoid"`.

    Returns:
      One area a curve.

    Raises:
      ValueError: for curves that are no floats, for another rule, or for a trapezoid of fewer than
        two points.
    """
    checks.one_of("rule", rule, ("mean", "trapezoid"))
    curve = _floats("curve", curve, "curves[..., points], floats, of at least one point")
    if rule == "mean":
        return jnp.mean(curve, axis=-1)
    takes = "curves[..., points] of two points at least: `start=True`"
    checks.require(curve.shape[-1] > 1, "curve", checks.describe(curve), takes)
    return jnp.mean((curve[..., 1:] + curve[..., :-1]) / 2, axis=-1)


@own_promotion()
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

    Raises:
      ValueError: unless there is one of both for each image.
    """
    areas = _floats("areas", areas, "areas[batch], floats, one for each image", 1)
    takes = f"floats[batch], one for each of the {len(areas)} areas"
    random_areas = _floats("random_areas", random_areas, takes, 1)
    same = areas.shape == random_areas.shape
    checks.require(same, "random_areas", checks.describe(random_areas), takes)
    scored = jnp.isfinite(areas) & jnp.isfinite(random_areas)
    return jnp.where(scored, (areas < random_areas).astype(areas.dtype), jnp.nan)


def _floats(argument: str, value: Any, takes: str, rank: int | None = None) -> Array:
    """An array of floats, in float32 at least; NaN stays."""
    value = checks.array(argument, value, takes, shape=None if rank is None else (None,) * rank)
    checks.require(value.ndim > 0 and value.size > 0, argument, checks.describe(value), takes)
    value = jnp.asarray(checks.held(argument, value))
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def removal_order(
    maps: Float[checks.Array, "batch height width"], tie_key: Key[Array, ""] | None = None
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
    ranks = jnp.arange(pixels, dtype=maps.dtype)
    rank = jax.vmap(lambda pixel: jnp.zeros_like(ranks).at[pixel].set(ranks))(ranked)
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


def curves_by_position(
    model: Callable,
    images: checks.Array,
    fill: Array,
    deletion: bool,
    targets: checks.Array,
    positions: Float[Array, "batch orders height width"],
    steps: int,
    normalize: bool,
    start: bool,
    batch_size: int | None,
) -> Float[Array, "batch orders points"]:
    """Scores as the pixels with position below each fraction leave (or enter) the image.

    Args:
      model: images -> scores[batch, classes].
      images: the images.
      fill: what removed pixels are.
      deletion: whether pixels leave the image rather than the fill.
      targets: class whose score is followed, one an image.
      positions: for each of several orders, the fraction of pixels before each pixel.
      steps: points of a curve, without the one of k = 0.
      normalize: whether curves are divided by the score of the clean image.
      start: whether the point of k = 0 comes first.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      The curves; NaN for an image with a position that is.
    """
    batch, orders, height, width = positions.shape
    pixels = height * width
    # A deletion curve starts at the clean score, an insertion curve at a point of its own.
    clean = int(normalize or (start and deletion))
    first = 0 if start and not deletion else 1
    points = steps + 1 - first

    def changed_scores(index: Array) -> Array:
        # Index 0 is the clean image, if it is asked for: the model is in the program once.
        point = jnp.maximum(index - clean, 0)
        # Compared in whole pixels: k/steps of them, rounded, as fractions do not add up exactly.
        number = jnp.round((point % points + first).astype(images.dtype) / steps * pixels)
        changed = positions[:, point // points] * pixels < number[None, :, None, None] - 0.25
        visible = ~changed if deletion else changed
        visible |= (index < clean)[None, :, None, None]
        variants = jnp.where(visible[..., None], images[:, None], fill[:, None])
        return masking.variant_scores(model, variants, targets)

    chunk = streaming.per_step(batch, batch_size)
    values = streaming.collect(changed_scores, orders * points + clean, chunk)
    curves = values[:, clean:].reshape(batch, orders, points)
    if start and deletion:
        clean_point = jnp.broadcast_to(values[:, :1, None], (batch, orders, 1))
        curves = jnp.concatenate([clean_point, curves], axis=2)
    if normalize:
        score = values[:, :1, None]
        curves = jnp.where(score > 0, curves / jnp.where(score > 0, score, 1), jnp.nan)
    finite = jnp.isfinite(positions).all(axis=(1, 2, 3))
    return jnp.where(finite[:, None, None], curves, jnp.nan)

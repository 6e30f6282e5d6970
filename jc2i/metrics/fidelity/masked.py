"""The score of an image seen through its saliency map, as a mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, masking, pytrees, removal, scores, streaming
from jc2i.metrics.similarity import pearson
from jc2i.normalization import normalize as min_max
from jc2i.options import Fill, Maps
from jc2i.query import Cost, metric

ADCC_PARTS = ("adcc", "coherency", "complexity", "average_drop")
"""What the columns of `adcc` are."""

OPTIONS: dict[str, Any] = {
    "cost": lambda shape, options: Cost(forward=2),
    "depends_on_scores": False,
    "baseline": Fill(),
    "maps": Maps(),
}


@metric(**OPTIONS)
def masked_scores(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    maps: Float[checks.Array, "batch height width"],
    *,
    baseline: removal.Baseline = 0.0,
    normalize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, "batch 2"]:
    """The target's score of each image, clean and seen through its map.

    (F(x)_c, F(x m + r (1 - m))_c), the p and o of Opti-CAM section 4, with m the map in [0, 1] and
    r the baseline. Cost: 2 evaluations.

    Args:
      model: callable pytree, images -> scores[batch, classes]; usually probabilities.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is taken, one an image.
      maps: saliency maps, larger = more of the pixel is kept.
      baseline: what a removed pixel becomes: a number, one a channel, an image array or `"blur"`.
        The paper multiplies normalised images: that is the model's mean, where the model
        normalises inside.
      normalize: whether maps are min-max normalised first; False for masks that are in [0, 1] as
        they come, a box for instance.
      key: not used: the metric is deterministic.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      The clean and the masked score; NaN for an image whose map is not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    return _masked(model, images, targets, maps, baseline, normalize, batch_size)[..., 0]


@metric(**OPTIONS)
def drop_increase_gain(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    maps: Float[checks.Array, "batch height width"],
    *,
    baseline: removal.Baseline = 0.0,
    normalize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, "batch 3"]:
    """What masking with the map loses, whether it gains, and what: AD, AI and AG at once.

    Of the target's probability p of the image and o of the masked image, in per cent: the drop
    [p - o]+ / p, the increase 1[p < o] and the gain [o - p]+ / (1 - p), whose means over images are
    AD (13), AI (14) and AG (15) of Opti-CAM, there at the ground-truth class. In float32 the 1 - p
    of an over-confident model would be rounding noise, or zero: where an image's scores sum to 1 it
    is the sum of the other classes' probabilities, which is exact however small. Cost: 2
    evaluations.

    Args:
      model: callable pytree, images -> probabilities[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose probability is compared, one an image.
      maps: as in `masked_scores`.
      baseline: what a removed pixel becomes: as in `masked_scores`.
      normalize: whether maps are min-max normalised first: as in `masked_scores`.
      key: not used: the metric is deterministic.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      Drop, increase and gain of each image, in [0, 100]; NaN where it is 0/0 (a drop from no
      probability, a gain on a certain one), and for a map that is not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    return _compared(model, images, targets, maps, baseline, normalize, batch_size)


@metric(**OPTIONS)
def average_drop(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    maps: Float[checks.Array, "batch height width"],
    *,
    baseline: removal.Baseline = 0.0,
    normalize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, " batch"]:
    """Average drop: the share of the target's probability that masking with the map loses.

    100 [p - o]+ / p (Opti-CAM (13); Chattopadhay et al. 2018); lower is better. One of three from
    the same scores: see `drop_increase_gain`. Cost: 2 evaluations.

    Args:
      model: callable pytree, images -> probabilities[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose probability is compared, one an image.
      maps: as in `masked_scores`.
      baseline: what a removed pixel becomes: as in `masked_scores`.
      normalize: whether maps are min-max normalised first: as in `masked_scores`.
      key: not used: the metric is deterministic.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      One drop an image in [0, 100]; NaN where the clean score is not positive, and for a map that
      is not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    return _compared(model, images, targets, maps, baseline, normalize, batch_size)[:, 0]


@metric(**OPTIONS)
def average_increase(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    maps: Float[checks.Array, "batch height width"],
    *,
    baseline: removal.Baseline = 0.0,
    normalize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, " batch"]:
    """Average increase: whether masking with the map raises the target's probability.

    100 where p < o, else 0 (Opti-CAM (14); Chattopadhay et al. 2018); higher is better. One of
    three from the same scores: see `drop_increase_gain`. Cost: 2 evaluations.

    Args:
      model: callable pytree, images -> probabilities[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose probability is compared, one an image.
      maps: as in `masked_scores`.
      baseline: what a removed pixel becomes: as in `masked_scores`.
      normalize: whether maps are min-max normalised first: as in `masked_scores`.
      key: not used: the metric is deterministic.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      0 or 100 an image; NaN for a map that is not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    return _compared(model, images, targets, maps, baseline, normalize, batch_size)[:, 1]


@metric(**OPTIONS)
def average_gain(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    maps: Float[checks.Array, "batch height width"],
    *,
    baseline: removal.Baseline = 0.0,
    normalize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, " batch"]:
    """Average gain: the share of the missing probability that masking with the map wins.

    100 [o - p]+ / (1 - p) (Opti-CAM (15)), with 1 - p exact where p saturates; higher is better.
    One of three from the same scores: see `drop_increase_gain`. Cost: 2 evaluations.

    Args:
      model: callable pytree, images -> probabilities[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose probability is compared, one an image.
      maps: as in `masked_scores`.
      baseline: what a removed pixel becomes: as in `masked_scores`.
      normalize: whether maps are min-max normalised first: as in `masked_scores`.
      key: not used: the metric is deterministic.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      One gain an image in [0, 100]; NaN where 1 - p is not positive (0/0), and for a map that is
      not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    return _compared(model, images, targets, maps, baseline, normalize, batch_size)[:, 2]


@metric(
    # Of explanations, each of which has a cost of its own; a score beside each is little.
    cost=lambda shape, options: Cost(forward=2),
    baseline=Fill(),
)
def adcc(
    explainer: Callable,
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    baseline: removal.Baseline = 0.0,
    **options: Any,
) -> Float[Array, "batch 4"]:
    """Average drop, coherency and complexity of an explainer as one number, and all three.

    ADCC = 3 / (1/Coh + 1/(1 - Com) + 1/(1 - AD)), the harmonic mean of the parts turned so that
    *higher is better* (Poppi et al. 2021; the arrow of Opti-CAM's table 4 points the other way).
    Coh = (Pearson(S(x), S(x m)) + 1)/2 of the maps of the image and of the masked image, Com the
    mean of m, AD = [p - o]+ / p, with m the map S(x) min-max normalised. Both maps explain the
    target, which is the class predicted of the clean image in the paper. Cost: 2 explanations and
    2 evaluations.

    Args:
      explainer: a function `(model, images, targets, *, key, **options) -> maps` of the images'
        size.
      model: callable pytree, images -> probabilities[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class that is explained and whose probability is compared, one an image.
      key: for a stochastic explainer one key, or one for each image.
      baseline: what a removed pixel becomes: as in `masked_scores`. An explainer's own option of
        this name is fixed with `functools.partial`.
      batch_size: most images explained at once; None for the whole batch.
      **options: passed on to the explainer.

    Returns:
      ADCC, coherency, complexity and average drop of each image in [0, 100] (`ADCC_PARTS`); ADCC is
      0 where a part is at its worst. A constant map correlates with nothing (coherency 50). NaN
      where a map is not finite; AD and ADCC also where the clean score is not positive.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    batch = images.shape[0]
    fill = removal.fill(images, baseline)
    arrays, rest = pytrees.split((model, targets, options))

    def explain(arrays: list[Array], variants: Array, keys: Array | None) -> Array:
        model, targets, options = pytrees.join(arrays, rest)
        return explainer(model, variants, targets, key=keys, **options)

    # Index 0 is the image itself, 1 the masked one: explainer and model are in the program once.
    def step(state: tuple[Array, Array], index: Array, counted: Array) -> tuple[Array, Array]:
        maps, values = state
        (place,) = index
        mask = jnp.where(place == 0, jnp.ones_like(maps[:, 0]), _mask(maps[:, 0]))
        variants = masking.blend(images, mask[..., None].astype(images.dtype), fill)
        keys = None if key is None else jax.vmap(jax.random.fold_in, (0, None))(key, place)
        found = explain(arrays, variants, keys)
        score = masking.variant_scores(model, variants[:, None], targets)[:, 0]
        return maps.at[:, place].set(found), values.at[:, place].set(score)

    like = jax.eval_shape(explain, arrays, images, key)
    takes = f"one whose maps have the images' size, {list(images.shape[:3])}"
    got = f"one that returns {list(like.shape)}"
    checks.require(like.shape == images.shape[:3], "explainer", got, takes)
    start = (
        jnp.zeros((batch, 2, *images.shape[1:3]), like.dtype),
        jnp.zeros((batch, 2), images.dtype),
    )
    maps, values = streaming.fold(step, start, 2, 1)
    first, second = maps[:, 0], maps[:, 1]
    coherency = (pearson(first, second) + 1) / 2
    complexity = min_max(first).mean(axis=(1, 2))
    drop = _share(values[:, 0] - values[:, 1], values[:, 0])
    good = jnp.stack([coherency, 1 - complexity, 1 - drop], axis=1)
    some = (good > 0).all(axis=1)
    harmonic = 3 / (1 / jnp.where(some[:, None], good, 1)).sum(axis=1)
    score = jnp.where(some, harmonic, jnp.where(jnp.isfinite(good).all(axis=1), 0, jnp.nan))
    finite = jnp.isfinite(maps).all(axis=(1, 2, 3))[:, None]
    parts = 100 * jnp.stack([score, coherency, complexity, drop], axis=1)
    return jnp.where(finite, parts, jnp.nan)


def _compared(
    model: Callable,
    images: checks.Array,
    targets: checks.Array,
    maps: checks.Array,
    baseline: removal.Baseline,
    normalize: bool,
    batch_size: int | None,
) -> Float[Array, "batch 3"]:
    """Drop, increase and gain, in per cent."""
    pairs = _masked(model, images, targets, maps, baseline, normalize, batch_size)
    (p, rest), (o, masked_rest) = pairs[:, 0].T, pairs[:, 1].T
    # Near 1 from the complements, whose difference is exact.
    rise = jnp.where(p + o > 1, rest - masked_rest, o - p)
    increase = jnp.where(jnp.isfinite(rise), (rise > 0).astype(rise.dtype), jnp.nan)
    return 100 * jnp.stack([_share(-rise, p), increase, _share(rise, rest)], axis=1)


def _masked(
    model: Callable,
    images: checks.Array,
    targets: checks.Array,
    maps: checks.Array,
    baseline: removal.Baseline,
    normalize: bool,
    batch_size: int | None,
) -> Float[Array, "batch 2 2"]:
    """(p, 1 - p) of each image, clean and masked."""
    batch = images.shape[0]
    finite = jnp.isfinite(maps).all(axis=(1, 2))
    mask = _mask(maps) if normalize else jnp.where(finite[:, None, None], maps, 0)
    mask = mask[:, None, :, :, None].astype(images.dtype)
    fill = removal.fill(images, baseline)[:, None]

    def evaluated(index: Array) -> Array:
        clean = (index == 0)[None, :, None, None, None]
        variants = masking.blend(images[:, None], jnp.where(clean, jnp.ones_like(mask), mask), fill)
        together = variants.shape[1]
        values = model(variants.reshape(-1, *images.shape[1:]))
        repeated = jnp.repeat(targets, together)
        own = scores.of_targets(values, repeated)
        pair = jnp.stack([own.astype(images.dtype), _complement(values, repeated, images.dtype)], 1)
        return pair.reshape(batch, together, 2)

    found = streaming.collect(evaluated, 2, streaming.per_step(batch, batch_size))
    return jnp.where(finite[:, None, None], found, jnp.nan)


def _mask(maps: Array) -> Array:
    """The maps in [0, 1]; one that is not finite hides everything."""
    return jnp.nan_to_num(min_max(maps))


def _complement(values: Array, targets: Array, dtype: Any) -> Array:
    """1 - p of each target's score: the sum of the others where all sum to 1."""
    classes = jnp.arange(values.shape[1])[None]
    wide = values.astype(jnp.promote_types(values.dtype, dtype))
    own = scores.of_targets(wide, targets)
    others = jnp.where(classes == targets[:, None], 0, wide).sum(axis=1)
    # What a softmax rounds to. Other scores hardly come that near: theirs are subtracted.
    rounding = min(16 * float(jnp.finfo(values.dtype).eps), 0.01)
    complete = jnp.abs(own + others - 1) <= rounding
    return jnp.where(complete, others, 1 - own).astype(dtype)


def _share(part: Array, whole: Array) -> Array:
    """What of the part is positive, by the whole."""
    some = whole > 0
    return jnp.where(some, jnp.maximum(part, 0) / jnp.where(some, whole, 1), jnp.nan)

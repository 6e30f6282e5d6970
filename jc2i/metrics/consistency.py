"""Whether explanations hold across models trained on different parts of the data.

k models are trained, each without one of k folds. Where two of them, one of which never saw the
image, are both right about it, their explanations should be near (MeGe); where one alone is right,
they should be further apart than that (ReCo). Fel et al., "How good is your explanation?
Algorithmic stability measures to assess the quality of explanations for deep neural networks".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Real

from jc2i import checks, streaming
from jc2i.metrics.similarity import DISTANCES, Distance
from jc2i.normalization import as_maps
from jc2i.options import TieKey

MapsByFold: TypeAlias = (
    Real[checks.Array, "fold batch height width"]
    | Bool[checks.Array, "fold batch height width"]
    | Sequence[Real[checks.Array, "batch height width"] | Bool[checks.Array, "batch height width"]]
)
"""The maps of the same images by the model of each fold: one array, or one for each fold."""

Between: TypeAlias = str | Callable[[Array, Array], Any]
"""A name in `DISTANCES`, or a function (maps[pairs, height, width], maps) -> distances[pairs]."""


class Pairs(NamedTuple):
    """Distances of explanations, in two arrays of one fixed shape.

    Row i is image i, column j the pair of the model that was trained without image i's fold and
    the model of fold j. NaN is no pair of that kind; infinity is one whose distance is undefined,
    as a map is not finite: `numpy.isinf(agreeing).sum()` counts them, and no measure does.

    Attributes:
      agreeing: S=, where both models are right.
      disagreeing: S≠, where one of them is.
    """

    agreeing: Float[Array, "batch fold"]
    disagreeing: Float[Array, "batch fold"]


def distances(
    maps_by_fold: MapsByFold,
    correct_by_fold: Bool[checks.Array, "fold batch"],
    fold_of_image: Int[checks.Array, " batch"],
    *,
    distance: Between = "spearman",
    pairs: str = "xor",
    batch_size: int = 256,
) -> Pairs:
    """Distances of the explanations of one image by two models, one of which never saw it.

    Algorithm 1 of MeGe. For an image of fold i and each other fold j: the distance of the maps by
    models i and j, agreeing where both are right, disagreeing where one is. `pair_distances` and
    then `split_pairs`: where several rules are asked about, the first need be called but once.

    Args:
      maps_by_fold: the maps of all images by each of the k models, whichever they were trained on.
      correct_by_fold: whether each model is right about each image.
      fold_of_image: the fold that holds the image, and whose model never saw it, in 0..k-1.
      distance: `"spearman"` (1 - |rho|) or another name in `DISTANCES`, or a function of two
        batches of maps.
      pairs: which pairs disagree: `"xor"`, those where exactly one model is right, as (4) says;
        `"algorithm1"`, those of them where it is the one that never saw the image, as Algorithm 1
        prints.
      batch_size: most images compared at once: the memory that is needed beyond the maps'.

    Returns:
      Both sets. Maps that are constant are compared as the distance says (|rho| is 0, so that
      `"spearman"` is 1, and `jc2i.is_constant` finds them); a pair with a map that is not finite
      is infinite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    maps = _by_fold(maps_by_fold)
    correct, folds = _answers(correct_by_fold, fold_of_image, len(maps), maps[0].shape[0])
    checks.one_of("pairs", pairs, PAIRS)
    found = pair_distances(maps, folds, distance=distance, batch_size=batch_size)
    return _split(found, correct, folds, pairs)


PAIRS = ("xor", "algorithm1")


def pair_distances(
    maps_by_fold: MapsByFold,
    fold_of_image: Int[checks.Array, " batch"],
    *,
    distance: Between = "spearman",
    batch_size: int = 256,
) -> Float[Array, "batch fold"]:
    """Distances of the explanations of one image by two models, whatever they answer.

    delta_x^(i,j) of MeGe (1), x in fold i. What a distance needs to know of a map, its ranks for
    instance, is computed once a map and not once a pair.

    Args:
      maps_by_fold: as in `distances`.
      fold_of_image: as in `distances`.
      distance: as in `distances`.
      batch_size: as in `distances`.

    Returns:
      One distance for each image and fold, as in `Pairs`: NaN in the column of the image's own
      fold, infinity where a map is not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    maps = _by_fold(maps_by_fold)
    count = maps[0].shape[0]
    folds = _fold_indices(fold_of_image, len(maps), count)
    between = _distance(distance)
    size = streaming.step_size(count, checks.whole("batch_size", batch_size))

    def stacked(rows: Any) -> Array:
        each = (as_maps(f"maps_by_fold[{i}]", one[rows]) for i, one in enumerate(maps))
        return jnp.stack(list(each), axis=1)

    if not checks.is_concrete(folds, *maps):
        parts = {"maps": stacked(slice(None)), "folds": folds}
        return streaming.over_images(lambda part: _compared(**part, between=between), parts, size)
    # Maps are brought to the device as they are needed: all of them may be more than it holds.
    compare = _compiled if between.compiled else _compared
    starts = range(0, count, size)
    rows = [np.minimum(np.arange(start, start + size), count - 1) for start in starts]
    found = [compare(stacked(part), jnp.asarray(folds)[part], between=between) for part in rows]
    return jnp.concatenate(found)[:count]


def split_pairs(
    distances: Float[checks.Array, "batch fold"],
    correct_by_fold: Bool[checks.Array, "fold batch"],
    fold_of_image: Int[checks.Array, " batch"],
    *,
    pairs: str = "xor",
) -> Pairs:
    """Sorts distances into those of pairs of models that agree and that disagree.

    (3) and (4) of MeGe; pairs that are both wrong are in neither set.

    Args:
      distances: those of `pair_distances`.
      correct_by_fold: as in `distances`.
      fold_of_image: as in `distances`.
      pairs: as in `distances`.

    Returns:
      Both sets.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    found = _of_pairs(distances)
    correct, folds = _answers(correct_by_fold, fold_of_image, found.shape[1], found.shape[0])
    checks.one_of("pairs", pairs, PAIRS)
    return _split(found, correct, folds, pairs)


def mege(agreeing: Float[checks.Array, ...]) -> Float[Array, ""]:
    """Mean generalizability: how near explanations stay when the image leaves the training set.

    (1 + mean of S=)^-1, MeGe (5). Higher is more general. It is in the unit of the distance: of
    distances in [0, 1] it is in [1/2, 1], however different the maps are, and of two distances the
    smaller gives the larger MeGe. Random maps of n pixels have a mean 1 - |rho| of about
    1 - sqrt(2 / (pi n)), so that "no better than chance" is just above 1/2. A product with the
    input makes maps alike whatever the models are (section 4.4).

    Args:
      agreeing: the distances of pairs that agree, of any shape; those not finite do not count.

    Returns:
      One number in (0, 1]; 1 for identical explanations; NaN if there is no pair.

    Raises:
      ValueError: if there are no numbers.
    """
    return _mege(_floats("agreeing", agreeing))


def reco(
    agreeing: Float[checks.Array, ...],
    disagreeing: Float[checks.Array, ...],
    *,
    rates: str = "usual",
) -> Float[Array, ""]:
    """Relative consistency: how well one distance tells pairs that agree from those that do not.

    The largest TPR(g) + TNR(g) - 1 over all distances g in S= and S≠, MeGe (6), in
    O(n log n) however many there are.

    `rates="usual"` takes the rates of a classifier: TPR, the part of S= at most g, and TNR, the
    part of S≠ above g. It is the one-sided Kolmogorov-Smirnov statistic of the two sets: 1 where
    they are apart with S= below, 0 where S= is nowhere ahead, and by chance about
    sqrt(ln 2 / 2 (1/|S=| + 1/|S≠|)) (its median for independent pairs; `reco_null` for those at
    hand). What MeGe's section 3.5 says in words, the maximal balanced accuracy, is this one; so is
    the authors' library but for thresholds left out and ties.

    `rates="printed"` takes the section's formulas: TPR, the part that S= has of all distances
    below g, and TNR, the part that S≠ has of all above g. Those are precisions. A threshold at
    which one of them is of nothing (0/0: the lowest and the highest distance) does not count.
    **It misleads**: near either end a rate is that of a handful of distances, so that the maximum
    is large by chance (.9 on identical sets), it moves with how many pairs disagree, and where S≠
    is below S= it is negative. For hand-worked sets and old tables alone.

    Args:
      agreeing: distances of pairs that agree, S=, of any shape; those not finite do not count.
      disagreeing: distances of pairs that disagree, S≠.
      rates: `"usual"` or `"printed"`.

    Returns:
      One number in [0, 1] (usual) or [-1, 1] (printed); NaN where a set is empty, or no threshold
      counts.

    Raises:
      ValueError: if there are no numbers; for other rates.
    """
    agreeing, disagreeing = _floats("agreeing", agreeing), _floats("disagreeing", disagreeing)
    checks.one_of("rates", rates, RATES)
    return _reco(agreeing, disagreeing, rates)


RATES = ("usual", "printed")


def reco_auc(
    agreeing: Float[checks.Array, ...],
    disagreeing: Float[checks.Array, ...],
    *,
    rates: str = "usual",
) -> Float[Array, ""]:
    """The mean over thresholds of the balanced accuracy whose maximum `reco` is.

    1/|S| sum over g in S of (TPR(g) + TNR(g) - 1), MeGe appendix D: g is every distance, one that
    occurs twice counts twice. With the usual rates it is at most one half, where the sets are
    apart: without ties it is the area under the ROC curve less one half, below zero where S≠ is
    the lower set. The printed rates mislead as in `reco`, though a mean less than a maximum does;
    thresholds at which one is 0/0 are left out of the mean.

    Args:
      agreeing: distances of pairs that agree, S=, of any shape; those not finite do not count.
      disagreeing: distances of pairs that disagree, S≠.
      rates: as in `reco`.

    Returns:
      One number, in [-1/2, 1/2] for the usual rates; NaN as in `reco`.

    Raises:
      ValueError: if there are no numbers; for other rates.
    """
    agreeing, disagreeing = _floats("agreeing", agreeing), _floats("disagreeing", disagreeing)
    checks.one_of("rates", rates, RATES)
    return _reco_auc(agreeing, disagreeing, rates)


def reco_null(
    distances: Float[checks.Array, "batch fold"],
    correct_by_fold: Bool[checks.Array, "fold batch"],
    fold_of_image: Int[checks.Array, " batch"],
    *,
    key: Key[Array, ""],
    draws: int = 1000,
    shuffle: str = "images",
    pairs: str = "xor",
    rates: str = "usual",
) -> Float[Array, " draws"]:
    """What ReCo is by chance: its values where distances and answers have nothing in common.

    Distances stay, and whether the models are right goes to other images at random, as often as
    there are draws. By `"images"` the answers of all models about an image go together to another
    image of the same fold: the k - 1 pairs of an image share a map and an answer, and stay as
    dependent as they are. By `"pairs"` each pair's "agree" or "disagree" goes to any other pair:
    the null of independent pairs, which is too narrow where an image's pairs are alike.

    A `reco` above all but a part p of the draws has the p-value
    (1 + number of draws at least as high) / (1 + draws); `numpy.quantile(draws, 0.95)` is what
    chance exceeds one time in twenty. Models are few, and taken as they are: this says nothing of
    other folds.

    Args:
      distances: those of `pair_distances`, also of pairs that are both wrong.
      correct_by_fold: as in `distances`.
      fold_of_image: as in `distances`.
      key: one key.
      draws: how many values, at least 1.
      shuffle: what is drawn as one, `"images"` or `"pairs"`.
      pairs: as in `distances`.
      rates: as in `reco`.

    Returns:
      One ReCo a draw, in no order; NaN where a set of that draw is empty.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    found = _of_pairs(distances)
    correct, folds = _answers(correct_by_fold, fold_of_image, found.shape[1], found.shape[0])
    checks.require(key is not None, "key", None, "one jax.random.key")
    key = TieKey().read("key", key, None)
    draws = checks.whole("draws", draws)
    checks.one_of("shuffle", shuffle, ("images", "pairs"))
    checks.one_of("pairs", pairs, PAIRS)
    checks.one_of("rates", rates, RATES)
    return _reco_null(found, correct, folds, key, draws, shuffle, pairs, rates)


def _by_fold(maps_by_fold: Any) -> list[Any]:
    """One array[batch, height, width] for each fold, all of one shape."""
    takes = "maps[fold, batch, height, width] of at least 2 folds, or one array for each fold"
    array = isinstance(maps_by_fold, jax.Array | np.ndarray)
    got = checks.describe(maps_by_fold)
    several = maps_by_fold.ndim == 4 if array else isinstance(maps_by_fold, list | tuple)
    checks.require(several, "maps_by_fold", got, takes)
    checks.require(len(maps_by_fold) > 1, "maps_by_fold", f"{len(maps_by_fold)} fold(s)", takes)
    maps = [checks.native(one) for one in maps_by_fold]
    for i, one in enumerate(maps):
        fits = isinstance(one, jax.Array | np.ndarray) and one.ndim == 3 and one.size > 0
        checks.require(fits, f"maps_by_fold[{i}]", checks.describe(one), takes)
        same = f"maps of the shape of fold 0's, {list(maps[0].shape)}"
        checks.require(one.shape == maps[0].shape, f"maps_by_fold[{i}]", checks.describe(one), same)
    return maps


def _fold_indices(fold_of_image: Any, folds: int, batch: int) -> Array:
    indices = checks.class_indices("fold_of_image", fold_of_image, batch, None)
    if checks.is_concrete(indices):
        low, high = int(indices.min()), int(indices.max())
        outside = f"fold {low if low < 0 else high}"
        takes = f"folds 0 to {folds - 1}"
        checks.require(0 <= low and high < folds, "fold_of_image", outside, takes)
    return indices


def _answers(correct: Any, fold_of_image: Any, folds: int, batch: int) -> tuple[Array, Array]:
    """Whether each model is right about each image, and the image's fold."""
    correct = checks.native(correct)
    takes = f"truth values[fold, batch] of shape {[folds, batch]}"
    fits = isinstance(correct, jax.Array | np.ndarray) and correct.dtype == np.bool_
    fits = fits and correct.shape == (folds, batch)
    checks.require(fits, "correct_by_fold", checks.describe(correct), takes)
    return jnp.asarray(correct), _fold_indices(fold_of_image, folds, batch)


def _of_pairs(distances: Any) -> Array:
    takes = "floats[batch, fold], those of pair_distances"
    fits = isinstance(distances, jax.Array | np.ndarray) and distances.ndim == 2
    fits = fits and jnp.issubdtype(distances.dtype, jnp.floating) and distances.shape[1] > 1
    checks.require(fits, "distances", checks.describe(distances), takes)
    return jnp.asarray(checks.native(distances))


def _distance(distance: Any) -> Distance:
    if isinstance(distance, Distance):
        return distance
    if isinstance(distance, str) or not callable(distance):
        checks.one_of("distance", distance, tuple(DISTANCES))
        return DISTANCES[distance]
    return Distance(_unchanged, distance, compiled=False)


def _unchanged(maps: Array) -> Array:
    return maps


def _compared(maps: Array, folds: Array, *, between: Distance) -> Array:
    """Distances of one chunk of images, whose maps are [batch, fold, height, width]."""
    batch, models = maps.shape[:2]
    described = between.describe(maps.reshape(-1, *maps.shape[2:]))
    image = jnp.arange(batch)[:, None]
    other = (folds[:, None] + jnp.arange(1, models)[None]) % models

    def taken(by_model: Array) -> tuple[Array, Array]:
        by_model = by_model.reshape(batch, models, *by_model.shape[1:])
        own, others = by_model[image, folds[:, None]], by_model[image, other]
        own = jnp.broadcast_to(own, others.shape)
        return own.reshape(-1, *own.shape[2:]), others.reshape(-1, *own.shape[2:])

    leaves, structure = jax.tree.flatten(described)
    owns, others = zip(*map(taken, leaves), strict=True)
    found = between.compare(structure.unflatten(owns), structure.unflatten(others))
    found = jnp.asarray(found)
    takes = f"a function that returns floats[pairs], here {[batch * (models - 1)]}"
    real = jnp.issubdtype(found.dtype, jnp.floating) and found.shape == (batch * (models - 1),)
    checks.require(real, "distance", f"one that returns {checks.describe(found)}", takes)
    found = jnp.where(jnp.isfinite(found), found, jnp.inf).reshape(batch, -1)
    return jnp.full((batch, models), jnp.nan, found.dtype).at[image, other].set(found)


_compiled = jax.jit(_compared, static_argnames="between")


@jax.jit(static_argnums=3)
def _split(distances: Array, correct: Array, folds: Array, pairs: str) -> Pairs:
    agree, disagree = _kinds(correct, folds, pairs)
    return Pairs(
        jnp.where(agree, distances, jnp.nan),
        jnp.where(disagree, distances, jnp.nan),
    )


def _kinds(correct: Array, folds: Array, pairs: str) -> tuple[Array, Array]:
    """Which pairs [batch, fold] agree, and which disagree."""
    models, batch = correct.shape
    others = folds[:, None] != jnp.arange(models)[None]
    own, other = correct[folds, jnp.arange(batch)][:, None], correct.T
    disagree = own & ~other if pairs == "algorithm1" else own ^ other
    return own & other & others, disagree & others


def _floats(argument: str, values: Any) -> Array:
    values = checks.native(values)
    real = isinstance(values, jax.Array | np.ndarray) and any(
        jnp.issubdtype(values.dtype, kind) for kind in (jnp.floating, jnp.integer)
    )
    checks.require(real, argument, checks.describe(values), "an array of distances")
    values = jnp.asarray(values).reshape(-1)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


@jax.jit
def _mege(agreeing: Array) -> Array:
    counted = jnp.isfinite(agreeing)
    total = _total(jnp.where(counted, agreeing, 0))
    count = counted.sum()
    mean = total / jnp.maximum(count, 1).astype(total.dtype)
    return jnp.where(count > 0, 1 / (1 + mean), jnp.nan)


def _total(values: Array) -> Array:
    """The sum of many numbers by blocks: one running sum of a million would lose digits."""
    side = max(1, math.isqrt(values.size))
    padded = jnp.pad(values, (0, -values.size % side))
    return padded.reshape(-1, side).sum(axis=1).sum()


@jax.jit(static_argnums=2)
def _reco(agreeing: Array, disagreeing: Array, rates: str) -> Array:
    return _largest(*_balanced_accuracy(agreeing, disagreeing, rates), rates)


def _largest(accuracy: Array, counted: Array, rates: str) -> Array:
    largest = jnp.where(counted, accuracy, -jnp.inf).max(initial=-jnp.inf)
    largest = jnp.maximum(largest, 0) if rates == "usual" else largest
    return jnp.where(counted.any(), largest, jnp.nan)


@jax.jit(static_argnums=(4, 5, 6, 7))
def _reco_null(
    distances: Array,
    correct: Array,
    folds: Array,
    key: Array,
    draws: int,
    shuffle: str,
    pairs: str,
    rates: str,
) -> Array:
    values = jnp.where(jnp.isfinite(distances), distances, jnp.inf).reshape(-1)
    order = jnp.argsort(values)  # the same for every draw
    values = values[order]

    def sorted_kinds(correct: Array) -> tuple[Array, Array]:
        agree, disagree = _kinds(correct, folds, pairs)
        return agree.reshape(-1)[order], disagree.reshape(-1)[order]

    agrees, disagrees = sorted_kinds(correct)
    of_a_set = jnp.isfinite(values) & (agrees | disagrees)

    def one(key: Array) -> Array:
        if shuffle == "pairs":
            drawn = agrees[_shuffled(key, of_a_set)]
            kinds = drawn & of_a_set, ~drawn & of_a_set
        else:
            kinds = sorted_kinds(correct[:, _shuffled(key, folds)])
        return _largest(*_accuracy_in_order(values, *kinds, rates), rates)

    return jax.lax.map(one, jax.random.split(key, draws))


def _shuffled(key: Array, groups: Array) -> Array:
    """A random order of places in which each stays within its group."""
    place = jnp.arange(groups.size)
    draw = jax.random.uniform(key, (groups.size,))
    *_, source = jax.lax.sort((groups, draw, place), num_keys=2)
    return jnp.zeros_like(place).at[jnp.argsort(groups)].set(source)


@jax.jit(static_argnums=2)
def _reco_auc(agreeing: Array, disagreeing: Array, rates: str) -> Array:
    accuracy, counted = _balanced_accuracy(agreeing, disagreeing, rates)
    count = counted.sum()
    mean = _total(jnp.where(counted, accuracy, 0)) / jnp.maximum(count, 1).astype(accuracy.dtype)
    return jnp.where(count > 0, mean, jnp.nan)


def _balanced_accuracy(agreeing: Array, disagreeing: Array, rates: str) -> tuple[Array, Array]:
    """TPR + TNR - 1 at each distance in ascending order, and at which both rates are defined."""
    dtype = jnp.promote_types(agreeing.dtype, disagreeing.dtype)
    values = jnp.concatenate([agreeing.astype(dtype), disagreeing.astype(dtype)])
    agrees = jnp.arange(values.size) < agreeing.size
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)  # those not counted come last
    values, agrees = jax.lax.sort((values, agrees), num_keys=1)
    return _accuracy_in_order(values, agrees, ~agrees, rates)


def _accuracy_in_order(
    values: Float[Array, " pairs"],
    agrees: Bool[Array, " pairs"],
    disagrees: Bool[Array, " pairs"],
    rates: str,
) -> tuple[Float[Array, " pairs"], Bool[Array, " pairs"]]:
    """TPR + TNR - 1 at each of the distances, which are in ascending order.

    Args:
      values: the distances; those that are not finite do not count.
      agrees: which of them are of S=.
      disagrees: which of them are of S≠.
      rates: as in `reco`.

    Returns:
      The accuracies, and at which distances both rates are defined.
    """
    counted = jnp.isfinite(values) & (agrees | disagrees)
    place = jnp.arange(values.size)
    changes = values[1:] != values[:-1]
    one = jnp.ones(min(values.size, 1), bool)
    # Equal distances are below or above a threshold together.
    first = jax.lax.cummax(jnp.where(jnp.concatenate([one, changes]), place, 0))
    last = jax.lax.cummin(
        jnp.where(jnp.concatenate([changes, one]), place, values.size), reverse=True
    )

    def counts(kind: Array) -> tuple[Array, Array, Array]:
        """How many of one set are below each distance, at most there, and in all."""
        kind = (kind & counted).astype(jnp.int32)
        up_to = jnp.cumsum(kind)
        return up_to[first] - kind[first], up_to[last], kind.sum()

    def share(some: Array, of: Array) -> Array:
        return some.astype(values.dtype) / jnp.maximum(of, 1).astype(values.dtype)

    below, at_most, total = counts(agrees)
    below_other, at_most_other, total_other = counts(disagrees)
    if rates == "usual":
        counted &= (total > 0) & (total_other > 0)
        return share(at_most, total) - share(at_most_other, total_other), counted
    above, above_other = total - at_most, total_other - at_most_other
    counted &= (below + below_other > 0) & (above + above_other > 0)
    accuracy = share(below, below + below_other) + share(above_other, above + above_other) - 1
    return accuracy, counted

"""Distances of the explanations of one image by the models of two folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

from jc2i import checks, pytrees, streaming
from jc2i.metrics.similarity import DISTANCES, Distance
from jc2i.normalization import as_maps
from jc2i.precision import own_promotion

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


@own_promotion()
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
    correct, folds = answers(correct_by_fold, fold_of_image, len(maps), maps[0].shape[0])
    checks.one_of("pairs", pairs, PAIRS)
    found = pair_distances(maps, folds, distance=distance, batch_size=batch_size)
    return _split(found, correct, folds, pairs)


PAIRS = ("xor", "algorithm1")


@own_promotion()
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
    size = streaming.step_size(count, checks.whole("batch_size", batch_size, most=2**31 - 1))

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


@own_promotion()
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
    found = of_pairs(distances)
    correct, folds = answers(correct_by_fold, fold_of_image, found.shape[1], found.shape[0])
    checks.one_of("pairs", pairs, PAIRS)
    return _split(found, correct, folds, pairs)


def _by_fold(maps_by_fold: Any) -> list[Any]:
    """One array[batch, height, width] for each fold, all of one shape."""
    takes = "maps[fold, batch, height, width] of at least 2 folds, or one array for each fold"
    array = checks.is_array(maps_by_fold)
    got = checks.describe(maps_by_fold)
    several = maps_by_fold.ndim == 4 if array else isinstance(maps_by_fold, list | tuple)
    checks.require(several, "maps_by_fold", got, takes)
    checks.require(len(maps_by_fold) > 1, "maps_by_fold", f"{len(maps_by_fold)} fold(s)", takes)
    maps = [
        checks.array(f"maps_by_fold[{i}]", one, takes, of=checks.REAL, shape=(None,) * 3)
        for i, one in enumerate(maps_by_fold)
    ]
    for i, one in enumerate(maps):
        checks.require(one.size > 0, f"maps_by_fold[{i}]", checks.describe(one), takes)
        same = f"maps of the shape of fold 0's, {list(maps[0].shape)}"
        checks.require(one.shape == maps[0].shape, f"maps_by_fold[{i}]", checks.describe(one), same)
    return maps


def _fold_indices(fold_of_image: Any, folds: int, batch: int) -> Array:
    folds_of = ("fold", "folds")
    return checks.class_indices("fold_of_image", fold_of_image, batch, folds, each=folds_of)


def answers(correct: Any, fold_of_image: Any, folds: int, batch: int) -> tuple[Array, Array]:
    """Whether each model is right about each image, and the image's fold."""
    takes = f"truth values[fold, batch] of shape {[folds, batch]}"
    shape = (folds, batch)
    correct = checks.array("correct_by_fold", correct, takes, of=("truth value",), shape=shape)
    return jnp.asarray(correct), _fold_indices(fold_of_image, folds, batch)


def of_pairs(distances: Any) -> Array:
    """What `pair_distances` returned, in float32 at least."""
    takes = "floats[batch, fold], those of pair_distances"
    given = checks.array("distances", distances, takes, shape=(None, None))
    several = given.shape[1] > 1 and given.size > 0
    checks.require(several, "distances", checks.describe(given), takes)
    distances = jnp.asarray(checks.held("distances", given))
    return distances.astype(jnp.promote_types(distances.dtype, jnp.float32))


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
    with pytrees.at_fault("distance", maps):
        found = between.compare(structure.unflatten(owns), structure.unflatten(others))
    takes = f"a function that returns floats[pairs], here {[batch * (models - 1)]}"
    got = f"one that returns {checks.describe(found)}"
    is_array = isinstance(found, jax.Array | np.ndarray)
    fits = is_array and jnp.issubdtype(found.dtype, jnp.floating)
    fits = fits and found.shape == (batch * (models - 1),)
    checks.require(fits, "distance", got, takes)
    found = jnp.asarray(found)
    found = found.astype(jnp.promote_types(found.dtype, jnp.float32))
    found = jnp.where(jnp.isfinite(found), found, jnp.inf).reshape(batch, -1)
    return jnp.full((batch, models), jnp.nan, found.dtype).at[image, other].set(found)


_compiled = jax.jit(_compared, static_argnames="between")


@jax.jit(static_argnums=3)
def _split(distances: Array, correct: Array, folds: Array, pairs: str) -> Pairs:
    agree, disagree = kinds(correct, folds, pairs)
    return Pairs(
        jnp.where(agree, distances, jnp.nan),
        jnp.where(disagree, distances, jnp.nan),
    )


def kinds(correct: Array, folds: Array, pairs: str) -> tuple[Array, Array]:
    """Which pairs [batch, fold] agree, and which disagree."""
    models, batch = correct.shape
    others = folds[:, None] != jnp.arange(models)[None]
    own, other = correct[folds, jnp.arange(batch)][:, None], correct.T
    disagree = own & ~other if pairs == "algorithm1" else own ^ other
    return own & other & others, disagree & others

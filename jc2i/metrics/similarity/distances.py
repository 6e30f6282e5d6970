"""The distances between saliency maps, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jc2i.metrics.similarity.correlation import centred_ranks, unit
from jc2i.metrics.similarity.pixels import (
    SHARE,
    important,
    mean_difference,
    overlap,
    root_mean_square,
)
from jc2i.metrics.similarity.structural import structural_similarity
from jc2i.metrics.similarity.transport import wasserstein
from jc2i.normalization import Maps, as_maps, normalize


class Distance(NamedTuple):
    """A distance of two saliency maps, in a part done once a map and a part done once a pair.

    Attributes:
      describe: maps[batch, height, width] of floats -> a pytree of one entry a map: its ranks, for
        instance.
      compare: what described two batches of maps -> distances[batch]; NaN where a map is not
        finite.
      compiled: whether it can be compiled; False for one that is computed on the host.
    """

    describe: Callable[[Array], Any]
    compare: Callable[[Any, Any], Any]
    compiled: bool = True

    def __call__(self, first: Maps, second: Maps) -> Float[Array, " batch"]:
        """The distances of maps of one shape, a pair at a time."""
        first = as_maps("first", first)
        second = as_maps("second", second, first.shape)
        between = _compiled if self.compiled else _between
        return between(self, first, second)


def _between(distance: Distance, first: Array, second: Array) -> Array:
    return distance.compare(distance.describe(first), distance.describe(second))


_compiled = jax.jit(_between, static_argnums=0)


def _as_they_are(maps: Array) -> Array:
    return maps


def _unit_ranks(maps: Array) -> Array:
    return unit(maps, centred_ranks)


def _rank_distance(a: Array, b: Array) -> Array:
    """1 - |rho| of unit vectors of ranks.

    |a - b|^2 / 2 = 1 - rho is exactly 0 for equal ranks, where 1 - a b would be a rounding error,
    and its root a thousand of them.
    """
    nearer = jnp.minimum(jnp.square(a - b).sum(1), jnp.square(a + b).sum(1)) / 2
    constant = jnp.minimum((a * a).sum(1), (b * b).sum(1)) < 0.5
    return jnp.where(constant, 1, jnp.minimum(nearer, 1))


def _root_of_rank_distance(a: Array, b: Array) -> Array:
    return jnp.sqrt(_rank_distance(a, b))


def _most_important(maps: Array) -> Any:
    return important(maps, SHARE)


def _not_in_common(a: Any, b: Any) -> Array:
    return 1 - overlap(a, b)


def _structural_dissimilarity(a: Array, b: Array) -> Array:
    return 1 - structural_similarity(a, b, data_range=1.0)


DISTANCES: dict[str, Distance] = {
    "spearman": Distance(_unit_ranks, _rank_distance),
    "spearman_root": Distance(_unit_ranks, _root_of_rank_distance),
    "wasserstein": Distance(_as_they_are, wasserstein, compiled=False),
    "dice": Distance(_most_important, _not_in_common),
    "ssim": Distance(normalize, _structural_dissimilarity),
    "l1": Distance(normalize, mean_difference),
    "l2": Distance(normalize, root_mean_square),
}
"""The distances that `distances` takes by name, those of MeGe's section 4.1 and appendix F.

`"spearman"`, 1 - |rho| of the raw maps, which is 1 where a map is constant; `"spearman_root"`, its
square root, which the authors' library takes; `"wasserstein"`, on the host (its cost is said
there); `"dice"`, 1 - the coefficient of the most important tenth of the pixels; `"ssim"`, 1 - the
similarity of the min-max normalised maps, in [0, 2]; `"l1"` and `"l2"`, those of `l1_distance` and
`l2_distance`. All others are in [0, 1].
"""

"""How alike two saliency maps are pixel by pixel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jc2i import checks
from jc2i.metrics.similarity.correlation import centred_ranks
from jc2i.normalization import Maps, as_maps, lift, normalize
from jc2i.precision import own_promotion

SHARE = 0.1
"""The part of the pixels that `dice` calls important, unless it is told otherwise."""


@own_promotion()
def dice(first: Maps, second: Maps, *, share: float = SHARE) -> Float[Array, " batch"]:
    """The Sørensen-Dice coefficient of the most important pixels of two saliency maps.

    2 |A and B| / (|A| + |B|), where A and B are the pixels whose rank is among the highest `share`
    of their map (Dice 1945; MeGe, appendix F, which does not say which pixels). Equal values share
    the mean of their ranks, so that they are important together or not at all: of one point on a
    black map it is the point alone. Where few pixels are important, one more or less moves the
    coefficient far.

    Args:
      first: maps, raw or normalised.
      second: maps of the same shape.
      share: the part of the pixels that is important, in (0, 1).

    Returns:
      One coefficient a pair in [0, 1]. No pixel of a constant map is important
      (`jc2i.is_constant` says which): 0 with any other map, 1 with another constant one. NaN where
      a map is not finite.

    Raises:
      ValueError: if the shapes differ or are not of rank 3; for a share out of range.
    """
    first = as_maps("first", first)
    second = as_maps("second", second, first.shape)
    share = checks.number("share", share, "a number in (0, 1)", lambda number: 0 < number < 1)
    return _dice(first, second, share)


@own_promotion()
def l1_distance(first: Maps, second: Maps) -> Float[Array, " batch"]:
    """The mean absolute difference of two saliency maps, each min-max normalised.

    |a - b|_1 / n over the n pixels: the l1 norm of MeGe's appendix F, whatever the maps' size and
    unit are.

    Args:
      first: maps, raw or normalised.
      second: maps of the same shape.

    Returns:
      One distance a pair in [0, 1]; a constant map counts as zeros; NaN where a map is not finite.

    Raises:
      ValueError: if the shapes differ or are not of rank 3.
    """
    first = as_maps("first", first)
    second = as_maps("second", second, first.shape)
    return _l1_distance(first, second)


@own_promotion()
def l2_distance(first: Maps, second: Maps) -> Float[Array, " batch"]:
    """The root of the mean squared difference of two saliency maps, each min-max normalised.

    |a - b|_2 / sqrt(n) over the n pixels: the l2 norm of MeGe's appendix F, whatever the maps' size
    and unit are.

    Args:
      first: maps, raw or normalised.
      second: maps of the same shape.

    Returns:
      One distance a pair in [0, 1]; a constant map counts as zeros; NaN where a map is not finite.

    Raises:
      ValueError: if the shapes differ or are not of rank 3.
    """
    first = as_maps("first", first)
    second = as_maps("second", second, first.shape)
    return _l2_distance(first, second)


def important(
    maps: Float[Array, "batch height width"], share: float | Array
) -> tuple[Bool[Array, "batch pixels"], Bool[Array, " batch"]]:
    """The pixels whose rank is among the highest `share` of each map; which maps are finite."""
    finite = jnp.isfinite(maps).all(axis=(1, 2))
    ranks, _ = centred_ranks(lift(jnp.where(finite[:, None, None], maps, 0))[0])
    pixels = ranks.shape[1]
    # The k highest of n different values have the ranks n - k + 1 to n.
    count = jnp.maximum(jnp.round(jnp.asarray(share, ranks.dtype) * pixels), 1)
    rank = ranks * pixels + (pixels + 1) / 2
    return rank > pixels - count, finite


def overlap(
    first: tuple[Bool[Array, "batch pixels"], Bool[Array, " batch"]],
    second: tuple[Bool[Array, "batch pixels"], Bool[Array, " batch"]],
) -> Float[Array, " batch"]:
    """The Sørensen-Dice coefficient of what `important` returned for two maps."""
    (a, finite_a), (b, finite_b) = first, second
    common, total = 2 * (a & b).sum(1), a.sum(1) + b.sum(1)
    coefficient = jnp.where(total > 0, common / jnp.maximum(total, 1), 1)
    return jnp.where(finite_a & finite_b, coefficient, jnp.nan)


def mean_difference(a: Float[Array, "batch ..."], b: Float[Array, "batch ..."]) -> Array:
    """The mean absolute difference of normalised maps."""
    return jnp.abs(a - b).mean(axis=tuple(range(1, a.ndim)))


def root_mean_square(a: Float[Array, "batch ..."], b: Float[Array, "batch ..."]) -> Array:
    """The root of the mean squared difference of normalised maps."""
    return jnp.sqrt(jnp.square(a - b).mean(axis=tuple(range(1, a.ndim))))


@jax.jit
def _dice(first: Array, second: Array, share: Array) -> Array:
    return overlap(important(first, share), important(second, share))


@jax.jit
def _l1_distance(first: Array, second: Array) -> Array:
    return mean_difference(normalize(first), normalize(second))


@jax.jit
def _l2_distance(first: Array, second: Array) -> Array:
    return root_mean_square(normalize(first), normalize(second))

"""Correlations of two saliency maps: of their values, and of their ranks."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.stats import rankdata
from jaxtyping import Array, Float

from jc2i import checks
from jc2i.normalization import Maps, as_maps, is_constant, lift, normalize
from jc2i.precision import own_promotion

Describe = Callable[[Array], tuple[Array, Array]]
"""Lifted maps -> one centred vector a map, and which of the maps vary."""


@own_promotion()
def spearman(first: Maps, second: Maps, *, absolute: bool = False) -> Float[Array, " batch"]:
    """Spearman's rank correlation of two saliency maps, an image at a time.

    Pearson's correlation of the pixels' ranks, equal values sharing the mean of theirs (Spearman
    1904); with and without absolute values it is what Adebayo et al. (2018) compare maps by.

    Args:
      first: maps, raw or normalised.
      second: maps of the same shape.
      absolute: whether pixels are ranked by the absolute value of the map. (This is not the
        absolute value of the correlation.)

    Returns:
      One correlation a pair in [-1, 1]; 0 where a map is constant (`jc2i.is_constant` says which),
      as it ranks no pixel above another; NaN where a map is not finite.

    Raises:
      ValueError: if the shapes differ or are not of rank 3.
    """
    first = as_maps("first", first)
    second = as_maps("second", second, first.shape)
    return _spearman(first, second, checks.flag("absolute", absolute))


@own_promotion()
def pearson(first: Maps, second: Maps) -> Float[Array, " batch"]:
    """Pearson's correlation of two saliency maps, an image at a time.

    The covariance of the pixels' values by the product of their standard deviations.

    Args:
      first: maps, raw or normalised.
      second: maps of the same shape.

    Returns:
      One correlation a pair in [-1, 1]; 0 where a map is constant (`jc2i.is_constant` says which);
      NaN where a map is not finite.

    Raises:
      ValueError: if the shapes differ or are not of rank 3.
    """
    first = as_maps("first", first)
    second = as_maps("second", second, first.shape)
    return _pearson(first, second)


def correlation(first: Array, second: Array, describe: Describe) -> Float[Array, " batch"]:
    """The cosine of what describes two maps, both centred; 0 where one of them does not vary."""
    a, b = unit(first, describe), unit(second, describe)
    return jnp.clip((a * b).sum(1), -1, 1)


def unit(
    maps: Float[Array, "batch height width"], describe: Describe
) -> Float[Array, "batch length"]:
    """What describes each map, centred, as a vector of length 1.

    Args:
      maps: floats of any range, as `as_maps` returns them.
      describe: lifted finite maps -> centred vectors, and which of them vary.

    Returns:
      The vectors; zeros for a map that does not vary, NaN for one that is not finite.
    """
    finite = jnp.isfinite(maps).all(axis=(1, 2))
    values, varies = describe(lift(jnp.where(finite[:, None, None], maps, 0))[0])
    norm = jnp.sqrt((values * values).sum(1))
    values = values / jnp.where(varies, norm, 1)[:, None]
    return jnp.where(finite[:, None], jnp.where(varies[:, None], values, 0), jnp.nan)


def centred(maps: Array) -> tuple[Array, Array]:
    """Each map's values in a row, less their mean, in units of their range; whether they vary."""
    values = normalize(maps).reshape(len(maps), -1)
    return values - values.mean(axis=1, keepdims=True), ~is_constant(maps)


def centred_ranks(maps: Array) -> tuple[Array, Array]:
    """Each map's ranks in a row, in (-1/2, 1/2), equal values sharing theirs; whether they vary."""
    flat = maps.shape[1] * maps.shape[2]
    rank = jax.vmap(rankdata)(maps.reshape(-1, flat))
    return (rank - (flat + 1) / 2) / flat, ~is_constant(maps)


@jax.jit(static_argnums=2)
def _spearman(first: Array, second: Array, absolute: bool) -> Array:
    def ranks(maps: Array) -> tuple[Array, Array]:
        return centred_ranks(jnp.abs(maps) if absolute else maps)

    return correlation(first, second, ranks)


@jax.jit
def _pearson(first: Array, second: Array) -> Array:
    return correlation(first, second, centred)

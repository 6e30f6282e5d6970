"""How hard a saliency map is to read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jc2i import checks
from jc2i.normalization import Maps, as_maps, lift, normalize
from jc2i.precision import own_promotion


@own_promotion()
def otsu_foreground(maps: Maps) -> Bool[Array, "batch height width"]:
    """The salient pixels of each map: those above Otsu's threshold of its min-max form.

    The threshold is the bin centre, of 256 bins, that maximises the variance between the two
    classes (Otsu 1979; as `skimage.filters.threshold_otsu`).

    Args:
      maps: raw saliency maps.

    Returns:
      Truth values; none true for a constant map or one that is not finite.

    Raises:
      ValueError: if the maps are not of rank 3.
    """
    return _otsu_foreground(as_maps("maps", maps))


@own_promotion()
def otsu_total_variation(maps: Maps) -> Float[Array, " batch"]:
    """Total variation of each map's Otsu-binarised form: the length of its outlines.

    mean |b[i+1, j] - b[i, j]| + mean |b[i, j+1] - b[i, j]| (C2I section 4.5). Lower is simpler.

    Args:
      maps: raw saliency maps of at least 2 x 2 pixels.

    Returns:
      One value a map in [0, 2]: 0 for a constant map, NaN for one that is not finite.

    Raises:
      ValueError: if the maps are not of rank 3, or are smaller.
    """
    maps = as_maps("maps", maps)
    takes = "maps[batch, height, width] of at least 2 x 2 pixels"
    checks.require(min(maps.shape[1:]) > 1, "maps", checks.describe(maps), takes)
    return _otsu_total_variation(maps)


@own_promotion()
def sparseness(maps: Maps) -> Float[Array, " batch"]:
    """How much of each map lies in few pixels: the Gini index of its absolute values.

    sum_k (2 k - n - 1) a_k / (n sum_k a_k) over the n absolute values in ascending order
    (Chalasani et al. 2020). Higher is simpler.

    Args:
      maps: raw saliency maps.

    Returns:
      One value a map in [0, 1): 0 where all absolute values are equal (zeros too), 1 - 1/n where
      one pixel holds everything; NaN for a map that is not finite.

    Raises:
      ValueError: if the maps are not of rank 3.
    """
    return _sparseness(as_maps("maps", maps))


@own_promotion()
def entropy(maps: Maps) -> Float[Array, " batch"]:
    """Entropy of each map's absolute values as fractions of their sum, in nats.

    -sum_k p_k ln p_k with p_k = |m_k| / sum_j |m_j| ("complexity" in Bhatt et al. 2020). Lower is
    simpler.

    Args:
      maps: raw saliency maps.

    Returns:
      One value a map in [0, ln n] for n pixels: 0 where one pixel holds everything, ln n where all
      absolute values are equal (zeros too); NaN for a map that is not finite.

    Raises:
      ValueError: if the maps are not of rank 3.
    """
    return _entropy(as_maps("maps", maps))


@jax.jit
def _otsu_foreground(maps: Array) -> Array:
    bins = 256
    values = normalize(maps)
    flat = jnp.nan_to_num(values).reshape(len(maps), -1)
    index = jnp.clip((flat * bins).astype(jnp.int32), 0, bins - 1)
    counts = jax.vmap(lambda i: jnp.bincount(i, length=bins))(index).astype(flat.dtype)
    centers = (jnp.arange(bins, dtype=flat.dtype) + 0.5) / bins
    below, above = jnp.cumsum(counts, 1), jnp.cumsum(counts[:, ::-1], 1)[:, ::-1]
    moment = counts * centers[None]
    mean_below = jnp.cumsum(moment, 1) / jnp.maximum(below, 1)
    mean_above = jnp.cumsum(moment[:, ::-1], 1)[:, ::-1] / jnp.maximum(above, 1)
    between = below[:, :-1] * above[:, 1:] * (mean_below[:, :-1] - mean_above[:, 1:]) ** 2
    threshold = centers[jnp.argmax(between, axis=1)]
    varies = values.max(axis=(1, 2)) > values.min(axis=(1, 2))
    return (values > threshold[:, None, None]) & varies[:, None, None]


@jax.jit
def _otsu_total_variation(maps: Array) -> Array:
    binary = _otsu_foreground(maps).astype(maps.dtype)
    vertical = jnp.abs(jnp.diff(binary, axis=1)).mean(axis=(1, 2))
    horizontal = jnp.abs(jnp.diff(binary, axis=2)).mean(axis=(1, 2))
    finite = jnp.isfinite(maps).all(axis=(1, 2))
    return jnp.where(finite, vertical + horizontal, jnp.nan)


@jax.jit
def _sparseness(maps: Array) -> Array:
    magnitude, finite = _magnitudes(maps)
    pixels = magnitude.shape[1]
    weight = (2 * jnp.arange(1, pixels + 1, dtype=magnitude.dtype) - pixels - 1) / pixels
    gini = (jnp.sort(magnitude, axis=1) * weight[None]).mean(1) / magnitude.mean(1)
    return jnp.where(finite, jnp.maximum(gini, 0), jnp.nan)


@jax.jit
def _entropy(maps: Array) -> Array:
    magnitude, finite = _magnitudes(maps)
    fraction = magnitude / magnitude.sum(axis=1, keepdims=True)
    return jnp.where(finite, jax.scipy.special.entr(fraction).sum(1), jnp.nan)


def _magnitudes(maps: Array) -> tuple[Array, Array]:
    """Each map's absolute values in a row, as fractions of the largest; whether it is finite.

    A map of zeros, like one that is not finite, becomes ones.
    """
    finite = jnp.isfinite(maps).all(axis=(1, 2))
    lifted, _ = lift(jnp.where(finite[:, None, None], maps, 0))
    magnitude = jnp.abs(lifted).reshape(len(maps), -1)
    largest = magnitude.max(axis=1, keepdims=True)
    return jnp.where(largest > 0, magnitude / jnp.where(largest > 0, largest, 1), 1), finite

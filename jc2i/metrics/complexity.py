"""How hard a saliency map is to read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jc2i.normalization import normalize


@jax.jit
def otsu_foreground(maps: Float[Array, "batch height width"]) -> Bool[Array, "batch height width"]:
    """The salient pixels of each map: those above Otsu's threshold of its min-max form.

    The threshold is the bin centre, of 256 bins, that maximises the variance between the two
    classes (Otsu 1979; as `skimage.filters.threshold_otsu`).

    Args:
      maps: raw saliency maps.

    Returns:
      Truth values; none true for a constant map or one that is not finite.
    """
    bins = 256
    values = normalize(maps)
    flat = jnp.nan_to_num(values).reshape(len(maps), -1)
    index = jnp.clip((flat * bins).astype(jnp.int32), 0, bins - 1)
    counts = jax.vmap(lambda i: jnp.bincount(i, length=bins))(index).astype(flat.dtype)
    centers = (jnp.arange(bins) + 0.5) / bins
    below, above = jnp.cumsum(counts, 1), jnp.cumsum(counts[:, ::-1], 1)[:, ::-1]
    moment = counts * centers
    mean_below = jnp.cumsum(moment, 1) / jnp.maximum(below, 1)
    mean_above = jnp.cumsum(moment[:, ::-1], 1)[:, ::-1] / jnp.maximum(above, 1)
    between = below[:, :-1] * above[:, 1:] * (mean_below[:, :-1] - mean_above[:, 1:]) ** 2
    threshold = centers[jnp.argmax(between, axis=1)]
    varies = values.max(axis=(1, 2)) > values.min(axis=(1, 2))
    return (values > threshold[:, None, None]) & varies[:, None, None]


@jax.jit
def otsu_total_variation(maps: Float[Array, "batch height width"]) -> Float[Array, " batch"]:
    """Total variation of each map's Otsu-binarised form: the length of its outlines.

    mean |b[i+1, j] - b[i, j]| + mean |b[i, j+1] - b[i, j]| (C2I section 4.5). Lower is simpler.

    Args:
      maps: raw saliency maps of at least 2 x 2 pixels.

    Returns:
      One value a map in [0, 2]: 0 for a constant map, NaN for one that is not finite.
    """
    binary = otsu_foreground(maps).astype(jnp.float32)
    vertical = jnp.abs(jnp.diff(binary, axis=1)).mean(axis=(1, 2))
    horizontal = jnp.abs(jnp.diff(binary, axis=2)).mean(axis=(1, 2))
    finite = jnp.isfinite(maps).all(axis=(1, 2))
    return jnp.where(finite, vertical + horizontal, jnp.nan)

"""Bringing raw saliency maps to a common range."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jc2i import checks


def normalize(
    maps: Float[checks.Array, "batch height width"],
) -> Float[Array, "batch height width"]:
    """Min-max normalises each saliency map to [0, 1].

    (m - min m) / (max m - min m), C2I section 4.2. A constant map becomes zeros; a map with a NaN
    or an infinity becomes NaN, and no other map with it.

    Args:
      maps: raw maps, any range.

    Returns:
      Maps in [0, 1].

    Raises:
      ValueError: if the maps are not of rank 3.
    """
    checks.require(
        getattr(maps, "ndim", None) == 3,
        "maps",
        checks.describe(maps),
        "an array[batch, height, width]",
    )
    maps = jnp.asarray(maps)
    low = jnp.min(maps, axis=(1, 2), keepdims=True)
    high = jnp.max(maps, axis=(1, 2), keepdims=True)
    finite = jnp.isfinite(low) & jnp.isfinite(high)
    span = jnp.where(high > low, high - low, 1)
    return jnp.where(finite, (maps - low) / span, jnp.nan)


def is_constant(maps: Float[checks.Array, "batch height width"]) -> Bool[Array, " batch"]:
    """Which maps have one value everywhere, and so rank no pixel above another.

    Args:
      maps: raw or normalised maps.

    Returns:
      One truth value a map.
    """
    return jnp.max(maps, axis=(1, 2)) == jnp.min(maps, axis=(1, 2))

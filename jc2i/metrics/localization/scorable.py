"""Which maps say where something is."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jc2i.normalization import is_constant, normalize


def scorable(
    maps: Float[Array, "batch height width"],
) -> tuple[Float[Array, "batch height width"], Bool[Array, " batch"]]:
    """Each map in [0, 1], and whether it is finite and not constant: else it is zeros."""
    finite = jnp.isfinite(maps).all(axis=(1, 2))
    maps = jnp.where(finite[:, None, None], maps, 0)
    return normalize(maps), finite & ~is_constant(maps)

"""Upsampling of coarse masks and maps as a matrix product."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@functools.cache
def matrix(cells: int, length: int, method: str) -> np.ndarray:
    """The matrix that interpolates cells along one axis, as `jax.image.resize` does.

    A product with one matrix an axis is the same for every mask and every step, and its gradient
    is another product.

    Args:
      cells: cells of the coarse mask along the axis.
      length: pixels along the axis, at least as many.
      method: `"linear"` or `"cubic"` (Keys' a = -0.5).

    Returns:
      The weights [length, cells], each row summing to 1.
    """
    # Compiled as a whole: one operation at a time would take seconds.
    resize = jax.jit(jax.image.resize, static_argnums=(1, 2))
    with jax.ensure_compile_time_eval():
        return np.asarray(resize(np.eye(cells, dtype=np.float32), (length, cells), method))


def bilinear(
    maps: Float[Array, "batch rows columns"], height: int, width: int
) -> Float[Array, "batch height width"]:
    """Coarse masks or maps at an image's size: bilinear, pixel centres at half-integers.

    The same as PyTorch's `interpolate(..., align_corners=False)` and OpenCV's linear `resize`
    where the map grows.

    Args:
      maps: masks or maps, at most as large as the result.
      height: rows of the result.
      width: columns of the result.

    Returns:
      The upsampled maps.
    """
    rows = jnp.asarray(matrix(maps.shape[1], height, "linear"), maps.dtype)
    columns = jnp.asarray(matrix(maps.shape[2], width, "linear"), maps.dtype)
    return jnp.einsum("hr,brc,wc->bhw", rows, maps, columns, precision="highest")

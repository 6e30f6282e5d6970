"""Upsampling of coarse masks and maps as a matrix product."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@functools.cache
def matrix(cells: int, length: int, method: str) -> np.ndarray:
    """The matrix that interpolates cells along one axis, as `jax.image.resize` does; in NumPy.

    A product with one matrix an axis is the same for every mask and every step, and its gradient
    is another product.

    Args:
      cells: cells of the coarse mask along the axis.
      length: pixels along the axis, at least as many.
      method: `"linear"` or `"cubic"` (Keys' a = -0.5).

    Returns:
      The weights [length, cells], each row summing to 1.
    """
    centres = (np.arange(length) + 0.5) * cells / length - 0.5
    distance = np.abs(centres[:, None] - np.arange(cells))
    if method == "linear":
        weights = np.maximum(1 - distance, 0)
    else:
        near = (1.5 * distance - 2.5) * distance**2 + 1
        far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


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

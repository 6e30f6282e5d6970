"""Upsampling of coarse masks as a matrix product."""

from __future__ import annotations

import functools

import jax
import numpy as np


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

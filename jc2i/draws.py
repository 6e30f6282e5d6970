"""Random arrays that compile in the time of a row of numbers."""

from __future__ import annotations

import math
from typing import Any

import jax
from jaxtyping import Array, Float, Key


def normal(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any = float) -> Float[Array, ...]:
    """Standard normal numbers.

    Drawn flat: the same numbers as in shape, which on CPU take five times as long to compile.

    Args:
      key: the key.
      shape: of the result.
      dtype: of the result, floating.

    Returns:
      The numbers.
    """
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)

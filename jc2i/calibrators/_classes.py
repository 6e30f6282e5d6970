"""What every calibrator does with logits before it maps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jc2i import checks, labelled


def apply(calibrator: Any, logits: Any, function: Callable, **ranks: int) -> jax.Array:
    """The map of one calibrator, in float32 at least, whatever the dtypes of logits and leaves.

    Args:
      calibrator: whose leaves to take.
      logits: scores[..., classes].
      function: (logits, *leaves) -> calibrated logits.
      **ranks: the rank of each leaf of one calibrator, in the order of the function's arguments;
        the last axis of a leaf that has one counts the classes.

    Returns:
      The calibrated logits.

    Raises:
      ValueError: naming both numbers of classes, or the leaf that is stacked outside `vmap`.
    """
    logits = jnp.asarray(logits)
    _check(calibrator, logits, ranks)
    leaves = [getattr(calibrator, leaf) for leaf in ranks]
    # A Python number has no dtype of its own.
    arrays = [logits, *(jnp.asarray(leaf) for leaf in leaves if hasattr(leaf, "dtype"))]
    wide = any(array.dtype == jnp.float64 for array in arrays)
    dtype = jnp.float64 if wide else jnp.float32
    with labelled.own_promotion():
        return function(logits.astype(dtype), *(jnp.asarray(leaf, dtype) for leaf in leaves))


def _check(calibrator: Any, logits: jax.Array, ranks: dict[str, int]) -> None:
    name = type(calibrator).__name__
    for leaf, rank in ranks.items():
        shape = jnp.shape(getattr(calibrator, leaf))
        if len(shape) != rank:
            takes = f"rank {rank}, one {name} (several, stacked, are for jax.vmap)"
            raise checks.invalid(leaf, f"shape {list(shape)}", takes)
        if shape and logits.shape[-1:] != shape[-1:]:
            got = f"{logits.shape[-1]} classes" if logits.ndim else "a single number"
            takes = f"the {shape[-1]} classes that this {name} was fitted for"
            raise checks.invalid("logits", got, takes)

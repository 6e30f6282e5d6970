"""The refusal of logits that a calibrator was not fitted for."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jc2i import checks


def check(calibrator: Any, logits: Any, **ranks: int) -> None:
    """Refuses logits of another number of classes, and stacked leaves outside `vmap`.

    Args:
      calibrator: whose leaves to compare with.
      logits: scores[..., classes].
      **ranks: the rank of each leaf of one calibrator; the last axis of a leaf that has one
        counts the classes.

    Raises:
      ValueError: naming both numbers of classes, or the leaf that is stacked.
    """
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

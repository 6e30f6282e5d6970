"""The refusals of every calibration metric."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from jc2i import checks, labelled

ROW_TOLERANCE = 1e-2
"""How far the probabilities of a row may be from summing to 1: half precision is."""

BINNED = ("equal_width", "equal_mass")
DENSITY = ("density", *BINNED)
EVERY = ("debiased", *DENSITY)


def check(values: dict[str, Any]) -> None:
    """Refuses rows that are no distribution, and options that mean nothing.

    Args:
      values: the arguments of a metric by name; the options among them that it has.

    Raises:
      ValueError: naming the argument.
    """
    _check_rows(values["probabilities"])
    labelled.whole(values, "bins", labelled.MOST_BINS)
    labelled.whole(values, "resolution")
    for name in ("debiased", "shared_bandwidth"):
        labelled.flag(values, name)
    if values.get("bandwidth") is not None:
        takes = "a finite number above 0, or None"
        labelled.number(values, "bandwidth", takes, lambda got: 0 < got < math.inf)
    choices = EVERY if "debiased" in values else DENSITY if "bandwidth" in values else BINNED
    labelled.word(values, "estimator", choices)
    estimator = values.get("estimator")
    if estimator == "density":
        if values.get("debiased"):
            raise checks.invalid("debiased", True, "False with the estimator 'density'")
        return
    takes = f"the estimator 'density' beside it, not {estimator!r}"
    if values.get("bandwidth") is not None:
        raise checks.invalid("bandwidth", "a number", takes)
    if not values.get("shared_bandwidth", True):
        raise checks.invalid("shared_bandwidth", False, takes)


def _check_rows(probabilities: Any) -> None:
    if not checks.is_concrete(probabilities):
        return
    takes = "probabilities in [0, 1] that sum to 1 along each row"
    low, high = float(jnp.min(probabilities)), float(jnp.max(probabilities))
    if low < 0 or high > 1 + ROW_TOLERANCE:
        raise checks.invalid("probabilities", f"values from {low:g} to {high:g}", takes)
    sums = jnp.sum(probabilities, axis=1, dtype=jnp.float32)
    worst = float(sums[jnp.argmax(jnp.abs(sums - 1))])
    if abs(worst - 1) > ROW_TOLERANCE:
        raise checks.invalid("probabilities", f"a row that sums to {worst:g}", takes)

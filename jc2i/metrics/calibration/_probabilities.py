"""The refusals of every calibration metric."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from jc2i import checks

ROW_TOLERANCE = 1e-2
"""How far the probabilities of a row may be from summing to 1: half precision is."""

BINNED = ("equal_width", "equal_mass")
ESTIMATORS = ("density", *BINNED)


def check(values: dict[str, Any]) -> None:
    """Refuses rows that are no distribution, and options that mean nothing.

    Args:
      values: the arguments of a metric by name; the options among them that it has.

    Raises:
      ValueError: naming the argument.
    """
    _check_rows(values["probabilities"])
    for name in ("bins", "resolution"):
        got = values.get(name, 1)
        checks.require(isinstance(got, int) and got > 0, name, got, "a whole number above 0")
    bandwidth = values.get("bandwidth")
    if bandwidth is not None and checks.is_concrete(bandwidth):
        valid = 0 < float(bandwidth) < math.inf
        checks.require(valid, "bandwidth", bandwidth, "a finite number above 0, or None")
    if "estimator" in values:
        density = "shared_bandwidth" in values
        checks.one_of("estimator", values["estimator"], ESTIMATORS if density else BINNED)
        if values.get("debiased") and values["estimator"] == "density":
            raise checks.invalid("debiased", True, "False with the estimator 'density'")


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

"""Temperature scaling."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jc2i import checks, labelled
from jc2i.calibrators import _classes
from jc2i.checks import Array

TOLERANCE = 1e-6
"""The last Newton step in log T: a relative accuracy of the temperature."""

MAX_STEPS = 100
"""Never reached: bisection alone needs log2(log(bounds) / TOLERANCE) steps, about 25."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Temperature:
    """Divides the logits by one temperature: z -> z / T.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation (9).

    Attributes:
      temperature: T, an array of rank 0 above 0; above 1 it lowers the confidence.
    """

    temperature: Any

    def __call__(self, logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
        """Returns the calibrated logits.

        Raises:
          ValueError: if the temperature is several, stacked, outside `vmap`.
        """
        _classes.check(self, logits, temperature=0)
        return jnp.asarray(logits) / self.temperature


def _check_bounds(values: dict[str, Any]) -> None:
    low, high = bounds = values["bounds"]
    takes = "two finite temperatures, 0 < lower < upper"
    checks.require(0 < low < high < math.inf, "bounds", bounds, takes)


@labelled.public("logits", _check_bounds)
def fit_temperature(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    bounds: tuple[float, float] = (0.01, 100.0),
) -> Temperature:
    """Fits the temperature of maximum likelihood on a hold-out.

    min over T of mean_i(-ln softmax(z_i / T)[y_i]), which is convex in 1 / T: Newton's method in
    log T between bounds that close in, to convergence. Guo et al. 2017, section 4.2.

    Args:
      logits: uncalibrated scores of the hold-out.
      labels: its classes, in [0, classes).
      bounds: the lowest and highest temperature. The likelihood has its optimum outside any
        bounds if no row is classified wrongly (T -> 0), or if the labels do not go with the
        logits (T -> infinity): then the temperature is the bound, and a warning says so.

    Returns:
      The calibrator.

    Raises:
      ValueError: for logits that are empty, not finite or not of rank 2, for labels that are not
        one class a row, and for bounds out of order.
    """
    low, high = (jnp.float32(math.log(bound)) for bound in bounds)
    log_temperature = _maximum_likelihood(jnp.asarray(logits), jnp.asarray(labels), low, high)
    if checks.is_concrete(log_temperature):
        _warn_at_bounds(float(log_temperature), bounds)
    return Temperature(jnp.exp(log_temperature))


def _warn_at_bounds(log_temperature: float, bounds: tuple[float, float]) -> None:
    why = (
        "no row of the hold-out is classified wrongly, or hardly one",
        "the labels do not go with the logits",
    )
    for bound, reason in zip(bounds, why, strict=True):
        if abs(log_temperature - math.log(bound)) < 1e-4:
            warnings.warn(
                f"the likelihood has no maximum between the temperatures {bounds}: {reason}; "
                f"the temperature is the bound {bound}",
                RuntimeWarning,
                stacklevel=4,
            )


class _Search(NamedTuple):
    log_temperature: jax.Array
    low: jax.Array
    high: jax.Array
    last_step: jax.Array
    steps: jax.Array


@jax.jit
def _maximum_likelihood(
    logits: jax.Array, labels: jax.Array, low: jax.Array, high: jax.Array
) -> jax.Array:
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    logits = logits.astype(dtype)
    # Relative to the label's logit, every term of the slope is small where the model is right:
    # nothing cancels in float32.
    margins = logits - jnp.take_along_axis(logits, labels[:, None], axis=1)
    low, high = low.astype(dtype), high.astype(dtype)

    def step(search: _Search) -> _Search:
        inverse = jnp.exp(-search.log_temperature)
        slope, curvature = _derivatives(margins, inverse)
        # The slope in 1 / T rises from the left of its root to the right.
        too_low = slope > 0
        low = jnp.where(too_low, search.log_temperature, search.low)
        high = jnp.where(too_low, search.high, search.log_temperature)
        newton = search.log_temperature + slope / (inverse * curvature)
        inside = (newton > low) & (newton < high)  # false for 0 / 0
        following = jnp.where(inside, newton, (low + high) / 2)
        change = jnp.abs(following - search.log_temperature)
        return _Search(following, low, high, change, search.steps + 1)

    def unfinished(search: _Search) -> jax.Array:
        return (search.last_step > TOLERANCE) & (search.steps < MAX_STEPS)

    start = jnp.clip(jnp.zeros((), dtype), low, high)
    search = _Search(start, low, high, jnp.asarray(jnp.inf, dtype), jnp.asarray(0))
    return jax.lax.while_loop(unfinished, step, search).log_temperature


@functools.partial(jax.jit, inline=True)
def _derivatives(margins: jax.Array, inverse: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of the mean negative log-likelihood in 1 / T."""
    probabilities = jax.nn.softmax(inverse * margins, axis=1)
    mean = jnp.sum(probabilities * margins, axis=1, keepdims=True)
    variance = jnp.sum(probabilities * (margins - mean) ** 2, axis=1)
    return jnp.mean(mean), jnp.mean(variance)

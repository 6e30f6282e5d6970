"""Temperature scaling."""

from __future__ import annotations

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

RANGE = (1e-3, 1e3)
"""Temperatures that are sought, relative to the logits' scale."""

MAX_STEPS = 100
"""Never reached: bisection alone needs log2(log(bounds) / TOLERANCE) steps, about 25."""


@_classes.calibrator
class Temperature:
    """Divides the logits by one temperature: z -> z / T.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation (9).

    Attributes:
      temperature: T, an array of rank 0 above 0; above 1 it lowers the confidence.
    """

    temperature: Any = _classes.leaf(values="above 0")

    def __post_init__(self) -> None:
        _classes.require_sound(self)

    def __call__(
        self, logits: Float[Array, "*batch classes"]
    ) -> Float[jax.Array, "*batch classes"]:
        """Returns the calibrated logits.

        Raises:
          ValueError: if the temperature is several, stacked, outside `vmap`.
        """
        return _classes.apply(self, logits, _scaled)


def _scaled(logits: jax.Array, temperature: jax.Array) -> jax.Array:
    # By the reciprocal: of a division by one number XLA makes that on several devices, and not on
    # one.
    return logits * (1 / temperature)


def _check_bounds(values: dict[str, Any]) -> None:
    bounds = values["bounds"]
    if bounds is None:
        return
    takes = "two finite temperatures, 0 < lower < upper, or None"
    pair = isinstance(bounds, tuple | list) and len(bounds) == 2
    checks.require(pair, "bounds", checks.describe(bounds), takes)
    try:
        low, high = (checks.number("bounds", bound, takes, traced=False) for bound in bounds)
    except ValueError:
        raise checks.invalid("bounds", checks.describe(bounds), takes) from None
    checks.require(low < high, "bounds", checks.describe(bounds), takes)
    values["bounds"] = (low, high)


@labelled.public("logits", _check_bounds)
def fit_temperature(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    bounds: tuple[float, float] | None = None,
) -> Temperature:
    """Fits the temperature of maximum likelihood on a hold-out.

    min over T of mean_i(-ln softmax(z_i / T)[y_i]), which is convex in 1 / T: Newton's method in
    log T between bounds that close in, to convergence. Guo et al. 2017, section 4.2.

    Args:
      logits: uncalibrated scores of the hold-out.
      labels: its classes, in [0, classes).
      bounds: the lowest and highest temperature; None for a thousandth and a thousand times the
        logits' scale, the mean distance of a logit from its label's. The likelihood has its
        optimum outside any bounds if no row is classified wrongly (T -> 0), or if the labels do
        not go with the logits (T -> infinity): then the temperature is the bound, and a warning
        says so.

    Returns:
      The calibrator. Where all logits of each row are equal, every temperature is as likely: 1.

    Raises:
      ValueError: for logits that are empty, not finite or not of rank 2, for probabilities passed
        as logits, for labels that are not one class a row, and for bounds out of order.
    """
    logs = None if bounds is None else jnp.log(jnp.asarray(bounds, jnp.float32))
    log_temperature, logs = _maximum_likelihood(jnp.asarray(logits), jnp.asarray(labels), logs)
    if checks.is_concrete(log_temperature):
        _warn_at_bounds(float(log_temperature), [float(log) for log in logs])
    return Temperature(jnp.exp(log_temperature))


def _warn_at_bounds(log_temperature: float, log_bounds: list[float]) -> None:
    bounds = [float(f"{math.exp(log):.6g}") for log in log_bounds]
    why = (
        "no row of the hold-out is classified wrongly, or hardly one",
        "the labels do not go with the logits",
    )
    for bound, log, reason in zip(bounds, log_bounds, why, strict=True):
        if abs(log_temperature - log) < 1e-4:
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
    logits: jax.Array, labels: jax.Array, log_bounds: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The logarithms of the temperature, and of the bounds that it was sought in."""
    logits = labelled.widened(logits)
    dtype = logits.dtype
    # Relative to the label's logit, every term of the slope is small where the model is right:
    # nothing cancels in float32.
    margins = logits - jnp.take_along_axis(logits, labels[:, None], axis=1)
    # The search is in units of their scale; the largest comes first, so that no sum overflows.
    largest = jnp.max(jnp.abs(margins))
    flat = largest == 0
    margins = margins / jnp.where(flat, 1, largest)
    mean = jnp.where(flat, 1, jnp.mean(jnp.abs(margins)))
    margins = margins / mean
    log_scale = jnp.where(flat, 0, jnp.log(largest) + jnp.log(mean))
    if log_bounds is None:
        log_bounds = log_scale + jnp.log(jnp.asarray(RANGE, dtype))
    low, high = log_bounds.astype(dtype) - log_scale

    def step(search: _Search) -> _Search:
        inverse = jnp.exp(-search.log_temperature)
        slope, curvature = _derivatives(margins, inverse)
        # The slope in 1 / T rises from the left of its root to the right.
        too_low = slope > 0
        low = jnp.where(too_low, search.log_temperature, search.low)
        high = jnp.where(too_low, search.high, search.log_temperature)
        curved = inverse * curvature
        newton = search.log_temperature + slope / jnp.where(curved > 0, curved, 1)
        inside = (curved > 0) & (newton > low) & (newton < high)
        following = jnp.where(inside, newton, (low + high) / 2)
        change = jnp.abs(following - search.log_temperature)
        return _Search(following, low, high, change, search.steps + 1)

    def unfinished(search: _Search) -> jax.Array:
        return (search.last_step > TOLERANCE) & (search.steps < MAX_STEPS)

    start = jnp.clip(jnp.zeros((), dtype), low, high)
    search = _Search(start, low, high, jnp.asarray(jnp.inf, dtype), jnp.asarray(0))
    found = jax.lax.while_loop(unfinished, step, search).log_temperature
    return jnp.where(flat, start, found) + log_scale, log_bounds


@functools.partial(jax.jit, inline=True)
def _derivatives(margins: jax.Array, inverse: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of the mean negative log-likelihood in 1 / T."""
    probabilities = jax.nn.softmax(inverse * margins, axis=1)
    mean = jnp.sum(probabilities * margins, axis=1, keepdims=True)
    variance = jnp.sum(probabilities * (margins - mean) ** 2, axis=1)
    return jnp.mean(mean), jnp.mean(variance)

"""Calibration errors: how far confidence is from accuracy."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jc2i import labelled
from jc2i.checks import Array
from jc2i.metrics.calibration import _bins, _density, _probabilities

RESOLUTION = 4096
"""Default number of steps between the nodes at which densities are taken."""


class ReliabilityCurve(NamedTuple):
    """Accuracy as a function of confidence.

    Attributes:
      confidence: mean confidence of each bin (NaN in an empty one), or the nodes of the density.
      accuracy: fraction of right predictions there; NaN where there are no samples.
      count: samples in each bin, or samples a unit of confidence (the density times n).
    """

    confidence: Float[jax.Array, " points"]
    accuracy: Float[jax.Array, " points"]
    count: Float[jax.Array, " points"]


@labelled.public("probabilities", _probabilities.check)
@labelled.compiled("estimator", "bins", "shared_bandwidth", "resolution", "debiased")
def expected_calibration_error(
    probabilities: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    estimator: str = "debiased",
    bins: int = 15,
    debiased: bool = False,
    shared_bandwidth: bool = True,
    bandwidth: float | Float[Array, ""] | None = None,
    resolution: int = RESOLUTION,
) -> Float[jax.Array, ""]:
    """Expected difference between the confidence of a prediction and its accuracy.

    ECE = E |P(right | confidence = s) - s|, C2I equation (2). With p the density of all
    confidences and q that of the right ones,

        "equal_width"  sum_b n_b / n |accuracy_b - confidence_b|, b = (k/m, (k+1)/m]
        "equal_mass"   the same, with as many samples in each bin
        "debiased"     "equal_width" less the bias of its noise, as `debiased=True`
        "density"      integral over [1/K, 1] of |accuracy q(s) - s p(s)| ds

    `"debiased"` is the default by numbers: of 10,000 predictions, calibrated or not, of a mean
    confidence of .6 to .999 and with up to 90 % of them saturated, it is within .01 of the truth
    (benchmarks/calibration_error.py), which plain bins miss by their noise (a calibrated model
    reads .012) and `"density"` where most confidences are saturated: Silverman's bandwidth is
    then theirs, the other predictions stand alone, and a calibrated model reads .05 for any n.
    Densities of the logit of the confidence, and Blasiok and Nakkiran's smooth error, were tried
    too: within .014.

    `"density"` is Posocco and Bonnefoy 2021, "Estimating expected calibration errors": Gaussian
    kernels, mirrored at 1/K and 1, of Silverman's bandwidth. The bins are Guo et al. 2017.

    Args:
      probabilities: of each class; each row sums to 1.
      labels: the true classes, in [0, classes).
      estimator: `"debiased"`, `"density"`, `"equal_width"` or `"equal_mass"`.
      bins: m, for the binned estimators.
      debiased: for the binned ones, subtracts the bias that the noise of each bin's accuracy
        gives to the absolute value: each term becomes 2|g| - E|g + N(0, a(1 - a)/n_b)| of the gap
        g and the accuracy a (the normal approximation of Kumar et al. 2019, "Verified uncertainty
        calibration", in closed form). It may fall below 0.
      shared_bandwidth: whether p and q have the bandwidth of p; otherwise each has its own, and
        their difference measures that of the bandwidths too.
      bandwidth: the kernels' standard deviation, above 0; None for Silverman's
        0.9 min(std, IQR/1.34) n^(-1/5).
      resolution: steps of the integral; a kernel narrower than one becomes as wide.

    Returns:
      The error, in [0, 1]; debiased, a little below 0 at times.

    Raises:
      ValueError: for rows that are no probabilities, for labels that are not one class a row, and
        for options out of range.
    """
    confidences, correct = _top(probabilities, labels)
    if estimator == "debiased":
        estimator, debiased = "equal_width", True
    if estimator != "density":
        filled = _bins.fill(confidences, correct, bins, estimator)
        return _binned_error(filled, debiased)
    lower = 1 / probabilities.shape[1]
    return _density_error(confidences, correct, lower, shared_bandwidth, bandwidth, resolution)


@labelled.public("probabilities", _probabilities.check)
@labelled.compiled("estimator", "bins", "shared_bandwidth", "resolution")
def classwise_calibration_error(
    probabilities: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    estimator: str = "equal_width",
    bins: int = 15,
    shared_bandwidth: bool = True,
    bandwidth: float | Float[Array, ""] | None = None,
    resolution: int = RESOLUTION,
) -> Float[jax.Array, ""]:
    """Calibration error of the probability of each class against its frequency, averaged.

    (1/K) sum_k E |P(y = k | p_k = s) - s|, Kull et al. 2019, "Beyond temperature scaling",
    equation (3); each term is estimated as in `expected_calibration_error`, over [0, 1].

    Args:
      probabilities: of each class; each row sums to 1.
      labels: the true classes, in [0, classes).
      estimator: `"equal_width"`, `"equal_mass"` or `"density"`.
      bins: for the binned estimators.
      shared_bandwidth: whether both densities of a class have the bandwidth of the first.
      bandwidth: the kernels' standard deviation, above 0; None for Silverman's, for each class.
      resolution: steps of the integral over the density.

    Returns:
      The error, in [0, 1].

    Raises:
      ValueError: for rows that are no probabilities, for labels that are not one class a row, and
        for options out of range.
    """
    probabilities = labelled.widened(probabilities)

    def error(label: jax.Array) -> jax.Array:
        confidences, correct = jnp.clip(probabilities[:, label], 0, 1), labels == label
        if estimator != "density":
            return _binned_error(_bins.fill(confidences, correct, bins, estimator), False)
        return _density_error(confidences, correct, 0.0, shared_bandwidth, bandwidth, resolution)

    # One class after the other: memory does not grow with their number.
    return jnp.mean(jax.lax.map(error, jnp.arange(probabilities.shape[1])))


@labelled.public("probabilities", _probabilities.check)
@labelled.compiled("estimator", "bins")
def maximum_calibration_error(
    probabilities: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    estimator: str = "equal_width",
    bins: int = 15,
) -> Float[jax.Array, ""]:
    """Largest difference between confidence and accuracy in any bin.

    max over b of |accuracy_b - confidence_b|, Guo et al. 2017, equation (5). Empty bins do not
    count.

    Args:
      probabilities: of each class; each row sums to 1.
      labels: the true classes, in [0, classes).
      estimator: `"equal_width"` or `"equal_mass"`.
      bins: their number.

    Returns:
      The error, in [0, 1].

    Raises:
      ValueError: for rows that are no probabilities, for labels that are not one class a row, and
        for options out of range.
    """
    return jnp.max(jnp.abs(_bins.fill(*_top(probabilities, labels), bins, estimator).gap))


@labelled.public("probabilities", _probabilities.check)
@labelled.compiled("estimator", "bins", "shared_bandwidth", "resolution")
def reliability_curve(
    probabilities: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    estimator: str = "equal_width",
    bins: int = 15,
    shared_bandwidth: bool = True,
    bandwidth: float | Float[Array, ""] | None = None,
    resolution: int = RESOLUTION,
) -> ReliabilityCurve:
    """Accuracy of the predictions as a function of their confidence.

    By bins, as Guo et al. 2017, figure 1; or accuracy q(s) / p(s) from the densities of
    `expected_calibration_error`.

    Args:
      probabilities: of each class; each row sums to 1.
      labels: the true classes, in [0, classes).
      estimator: `"equal_width"`, `"equal_mass"` or `"density"`.
      bins: for the binned estimators.
      shared_bandwidth: whether both densities have the bandwidth of the first.
      bandwidth: the kernels' standard deviation, above 0; None for Silverman's.
      resolution: steps between the nodes of the density from 1/K to 1.

    Returns:
      Confidence, accuracy and count: bins entries, or resolution + 1.

    Raises:
      ValueError: for rows that are no probabilities, for labels that are not one class a row, and
        for options out of range.
    """
    confidences, correct = _top(probabilities, labels)
    if estimator != "density":
        filled = _bins.fill(confidences, correct, bins, estimator)
        held = filled.count > 0
        return ReliabilityCurve(
            jnp.where(held, filled.confidence, jnp.nan),
            jnp.where(held, filled.accuracy, jnp.nan),
            filled.count.astype(confidences.dtype),
        )
    lower = 1 / probabilities.shape[1]
    options = (shared_bandwidth, bandwidth, resolution)
    nodes, every, right = _densities(confidences, correct, lower, *options)
    count = jnp.maximum(every * len(confidences), 0)
    # Where the whole interval at this density would hold less than a hundredth of a sample, the
    # quotient is rounding.
    held = count * (1 - lower) > 1e-2
    accuracy = jnp.clip(right / jnp.where(held, every, 1), 0, 1)
    return ReliabilityCurve(nodes, jnp.where(held, accuracy, jnp.nan), count)


def _top(probabilities: Array, labels: Array) -> tuple[jax.Array, jax.Array]:
    """The confidence of each prediction, and whether it is right."""
    lower = 1 / probabilities.shape[1]
    confidences = jnp.clip(jnp.max(labelled.widened(probabilities), axis=1), lower, 1)
    return confidences, jnp.argmax(probabilities, axis=1) == jnp.asarray(labels)


def _binned_error(filled: _bins.Bins, debiased: bool) -> jax.Array:
    share = filled.count / jnp.sum(filled.count)
    error = jnp.abs(filled.gap)
    if debiased:
        variance = filled.accuracy * (1 - filled.accuracy) / jnp.maximum(filled.count, 1)
        error = 2 * error - _mean_of_absolute_normal(filled.gap, variance)
    return jnp.sum(share * error)


def _mean_of_absolute_normal(mean: jax.Array, variance: jax.Array) -> jax.Array:
    """E|X| of a normal X, by the mean of the folded normal distribution."""
    deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1))
    ratio = mean / deviation
    density = jax.scipy.stats.norm.pdf(ratio)
    folded = 2 * deviation * density + mean * jax.lax.erf(ratio / jnp.sqrt(2.0))
    return jnp.where(variance > 0, folded, jnp.abs(mean))


def _densities(
    confidences: jax.Array,
    correct: jax.Array,
    lower: float,
    shared_bandwidth: bool,
    bandwidth: float | Array | None,
    resolution: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The nodes s, p(s), and accuracy q(s)."""
    everything = jnp.ones_like(correct)

    def density(chosen: jax.Array, measured: jax.Array) -> jax.Array:
        width = _density.silverman(confidences, measured) if bandwidth is None else bandwidth
        return _density.mirrored(confidences, chosen, width, lower, resolution)

    nodes = jnp.linspace(lower, 1, resolution + 1, dtype=confidences.dtype)
    right = density(correct, everything if shared_bandwidth else correct)
    return nodes, density(everything, everything), right


def _density_error(
    confidences: jax.Array,
    correct: jax.Array,
    lower: float,
    shared_bandwidth: bool,
    bandwidth: float | Array | None,
    resolution: int,
) -> jax.Array:
    options = (shared_bandwidth, bandwidth, resolution)
    nodes, every, right = _densities(confidences, correct, lower, *options)
    return jnp.trapezoid(jnp.abs(right - nodes * every), dx=(1 - lower) / resolution)

"""Calibration metrics: probabilities and labels in, one number out."""

from __future__ import annotations

from jc2i.metrics.calibration.errors import (
    ReliabilityCurve,
    classwise_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_curve,
)
from jc2i.metrics.calibration.proper_scores import brier_score, negative_log_likelihood

__all__ = [
    "ReliabilityCurve",
    "brier_score",
    "classwise_calibration_error",
    "expected_calibration_error",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "reliability_curve",
]

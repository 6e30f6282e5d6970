"""Metrics: functions on arrays, one value an image out; aggregation is the caller's.

calibration    expected_calibration_error, reliability_curve, brier_score, ... (one number each)
fidelity       deletion_curve, insertion_curve, random_deletion_curve, superpixels, area,
               better_than_random
complexity     otsu_total_variation, otsu_foreground
similarity     structural_similarity
stability      lipschitz
"""

from __future__ import annotations

from jc2i.metrics.calibration import (
    ReliabilityCurve,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
    reliability_curve,
)
from jc2i.metrics.complexity import otsu_foreground, otsu_total_variation
from jc2i.metrics.fidelity import (
    area,
    better_than_random,
    deletion_curve,
    insertion_curve,
    random_deletion_curve,
    superpixels,
)
from jc2i.metrics.similarity import structural_similarity
from jc2i.metrics.stability import lipschitz

__all__ = [
    "ReliabilityCurve",
    "area",
    "better_than_random",
    "brier_score",
    "classwise_calibration_error",
    "deletion_curve",
    "expected_calibration_error",
    "insertion_curve",
    "lipschitz",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "otsu_foreground",
    "otsu_total_variation",
    "random_deletion_curve",
    "reliability_curve",
    "structural_similarity",
    "superpixels",
]

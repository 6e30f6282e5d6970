"""Metrics: functions on arrays, one value an image out; aggregation is the caller's.

calibration    expected_calibration_error, reliability_curve, brier_score, ... (one number each)
fidelity       deletion_curve, insertion_curve, random_deletion_curve, superpixels, area,
               better_than_random
complexity     otsu_total_variation, otsu_foreground, sparseness, entropy
similarity     structural_similarity, spearman
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
from jc2i.metrics.complexity import (
    entropy,
    otsu_foreground,
    otsu_total_variation,
    sparseness,
)
from jc2i.metrics.fidelity import (
    area,
    better_than_random,
    deletion_curve,
    insertion_curve,
    random_deletion_curve,
)
from jc2i.metrics.similarity import spearman, structural_similarity
from jc2i.metrics.stability import lipschitz
from jc2i.metrics.superpixels import superpixels

__all__ = [
    "ReliabilityCurve",
    "area",
    "better_than_random",
    "brier_score",
    "classwise_calibration_error",
    "deletion_curve",
    "entropy",
    "expected_calibration_error",
    "insertion_curve",
    "lipschitz",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "otsu_foreground",
    "otsu_total_variation",
    "random_deletion_curve",
    "reliability_curve",
    "sparseness",
    "spearman",
    "structural_similarity",
    "superpixels",
]

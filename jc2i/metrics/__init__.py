"""Metrics: functions on arrays, one value an image out; aggregation is the caller's.

calibration    expected_calibration_error, reliability_curve, brier_score, ... (one number each)
fidelity       deletion_curve, insertion_curve, random_deletion_curve, superpixels, area,
               better_than_random, aopc, masked_scores, average_drop, average_increase,
               average_gain, drop_increase_gain, adcc
complexity     otsu_total_variation, otsu_foreground, sparseness, entropy
similarity     structural_similarity, spearman, pearson, hog_similarity
stability      lipschitz, max_sensitivity
localization   official_metric, localization_error, pixel_f1, box_accuracy, max_box_accuracy,
               pointing_game, energy_pointing_game, saliency_metric, box_mask, pad_boxes,
               predicted_box, largest_box, largest_component
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
    ADCC_PARTS,
    adcc,
    aopc,
    area,
    average_drop,
    average_gain,
    average_increase,
    better_than_random,
    deletion_curve,
    drop_increase_gain,
    insertion_curve,
    masked_scores,
    random_deletion_curve,
)
from jc2i.metrics.localization import (
    Boxes,
    box_accuracy,
    box_mask,
    energy_pointing_game,
    largest_box,
    largest_component,
    localization_error,
    max_box_accuracy,
    official_metric,
    pad_boxes,
    pixel_f1,
    pointing_game,
    predicted_box,
    saliency_metric,
)
from jc2i.metrics.similarity import (
    hog_similarity,
    pearson,
    spearman,
    structural_similarity,
)
from jc2i.metrics.stability import lipschitz, max_sensitivity
from jc2i.metrics.superpixels import superpixels

__all__ = [
    "ADCC_PARTS",
    "Boxes",
    "ReliabilityCurve",
    "adcc",
    "aopc",
    "area",
    "average_drop",
    "average_gain",
    "average_increase",
    "better_than_random",
    "box_accuracy",
    "box_mask",
    "brier_score",
    "classwise_calibration_error",
    "deletion_curve",
    "drop_increase_gain",
    "energy_pointing_game",
    "entropy",
    "expected_calibration_error",
    "hog_similarity",
    "insertion_curve",
    "largest_box",
    "largest_component",
    "lipschitz",
    "localization_error",
    "masked_scores",
    "max_box_accuracy",
    "max_sensitivity",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "official_metric",
    "otsu_foreground",
    "otsu_total_variation",
    "pad_boxes",
    "pearson",
    "pixel_f1",
    "pointing_game",
    "predicted_box",
    "random_deletion_curve",
    "reliability_curve",
    "saliency_metric",
    "sparseness",
    "spearman",
    "structural_similarity",
    "superpixels",
]

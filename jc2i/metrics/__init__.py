"""Metrics: functions on arrays, one value an image out; aggregation is the caller's.

calibration    expected_calibration_error, reliability_curve, brier_score, ... (one number each)
fidelity       deletion_curve, insertion_curve, random_deletion_curve, superpixels, area,
               better_than_random, aopc, masked_scores, average_drop, average_increase,
               average_gain, drop_increase_gain, adcc
complexity     otsu_total_variation, otsu_foreground, sparseness, entropy
similarity     structural_similarity, spearman, pearson, hog_similarity
stability      lipschitz, max_sensitivity
randomization  parameter_randomization, randomized_models, label_permutation
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
from jc2i.metrics.randomization import (
    PermutedMaps,
    RandomizedMaps,
    label_permutation,
    parameter_randomization,
    randomized_models,
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
    "PermutedMaps",
    "RandomizedMaps",
    "ReliabilityCurve",
    "adcc",
    "aopc",
    "area",
    "average_drop",
    "average_gain",
    "average_increase",
    "better_than_random",
    "brier_score",
    "classwise_calibration_error",
    "deletion_curve",
    "drop_increase_gain",
    "entropy",
    "expected_calibration_error",
    "hog_similarity",
    "insertion_curve",
    "label_permutation",
    "lipschitz",
    "masked_scores",
    "max_sensitivity",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "otsu_foreground",
    "otsu_total_variation",
    "parameter_randomization",
    "pearson",
    "random_deletion_curve",
    "randomized_models",
    "reliability_curve",
    "sparseness",
    "spearman",
    "structural_similarity",
    "superpixels",
]

"""Metrics: functions on arrays, one value an image out; aggregation is the caller's.

calibration    expected_calibration_error, reliability_curve, brier_score, ... (one number each)
fidelity       deletion_curve, insertion_curve, random_deletion_curve, superpixels, area,
               better_than_random, aopc, masked_scores, average_drop, average_increase,
               average_gain, drop_increase_gain, adcc, mu_fidelity
complexity     otsu_total_variation, otsu_foreground, sparseness, entropy
similarity     structural_similarity, spearman, pearson, hog_similarity, dice, l1_distance,
               l2_distance, wasserstein
stability      lipschitz, max_sensitivity
consistency    distances, pair_distances, split_pairs, mege, reco, reco_auc, reco_null
randomization  parameter_randomization, randomized_models, label_permutation
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
from jc2i.metrics.consistency import (
    Pairs,
    distances,
    mege,
    pair_distances,
    reco,
    reco_auc,
    reco_null,
    split_pairs,
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
    mu_fidelity,
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
from jc2i.metrics.randomization import (
    PermutedMaps,
    RandomizedMaps,
    label_permutation,
    parameter_randomization,
    randomized_models,
)
from jc2i.metrics.similarity import (
    DISTANCES,
    dice,
    hog_similarity,
    l1_distance,
    l2_distance,
    pearson,
    spearman,
    structural_similarity,
    wasserstein,
)
from jc2i.metrics.stability import lipschitz, max_sensitivity
from jc2i.metrics.superpixels import superpixels

__all__ = [
    "ADCC_PARTS",
    "Boxes",
    "DISTANCES",
    "Pairs",
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
    "box_accuracy",
    "box_mask",
    "brier_score",
    "classwise_calibration_error",
    "deletion_curve",
    "dice",
    "distances",
    "drop_increase_gain",
    "energy_pointing_game",
    "entropy",
    "expected_calibration_error",
    "hog_similarity",
    "insertion_curve",
    "l1_distance",
    "l2_distance",
    "label_permutation",
    "largest_box",
    "largest_component",
    "lipschitz",
    "localization_error",
    "masked_scores",
    "max_box_accuracy",
    "max_sensitivity",
    "maximum_calibration_error",
    "mege",
    "mu_fidelity",
    "negative_log_likelihood",
    "official_metric",
    "otsu_foreground",
    "otsu_total_variation",
    "pad_boxes",
    "pair_distances",
    "parameter_randomization",
    "pearson",
    "pixel_f1",
    "pointing_game",
    "predicted_box",
    "random_deletion_curve",
    "randomized_models",
    "reco",
    "reco_auc",
    "reco_null",
    "reliability_curve",
    "saliency_metric",
    "sparseness",
    "spearman",
    "split_pairs",
    "structural_similarity",
    "superpixels",
    "wasserstein",
]

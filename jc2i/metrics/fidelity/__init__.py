"""Whether the pixels a map calls important are those that the model uses.

curves     the score as single pixels are removed or inserted in the map's order, and its area
regions    the score as whole patches are removed
masked     the score of the image seen through its map
subsets    the score without random pixels, beside the map's sum over them
"""

from __future__ import annotations

from jc2i.metrics.fidelity.curves import (
    area,
    better_than_random,
    deletion_curve,
    insertion_curve,
    random_deletion_curve,
    removal_order,
)
from jc2i.metrics.fidelity.masked import (
    ADCC_PARTS,
    adcc,
    average_drop,
    average_gain,
    average_increase,
    drop_increase_gain,
    masked_scores,
)
from jc2i.metrics.fidelity.regions import aopc
from jc2i.metrics.fidelity.subsets import mu_fidelity

__all__ = [
    "ADCC_PARTS",
    "adcc",
    "aopc",
    "area",
    "average_drop",
    "average_gain",
    "average_increase",
    "better_than_random",
    "deletion_curve",
    "drop_increase_gain",
    "insertion_curve",
    "masked_scores",
    "mu_fidelity",
    "random_deletion_curve",
    "removal_order",
]

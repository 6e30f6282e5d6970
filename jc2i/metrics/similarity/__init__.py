"""How alike two saliency maps are, or how far apart.

structural   structural similarity
correlation  of the pixels' values, and of their ranks
orientation  of the histograms of oriented gradients
pixels       the important pixels in common; differences of values
transport    what it takes to carry one map's mass to the other's
distances    the table of distances by name
"""

from __future__ import annotations

from jc2i.metrics.similarity.correlation import pearson, spearman
from jc2i.metrics.similarity.distances import DISTANCES, Distance
from jc2i.metrics.similarity.orientation import hog_similarity
from jc2i.metrics.similarity.pixels import dice, l1_distance, l2_distance
from jc2i.metrics.similarity.structural import structural_similarity
from jc2i.metrics.similarity.transport import wasserstein

__all__ = [
    "DISTANCES",
    "Distance",
    "dice",
    "hog_similarity",
    "l1_distance",
    "l2_distance",
    "pearson",
    "spearman",
    "structural_similarity",
    "wasserstein",
]

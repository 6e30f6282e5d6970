"""Whether explanations hold across models trained on different parts of the data.

k models are trained, each without one of k folds. Where two of them, one of which never saw the
image, are both right about it, their explanations should be near (MeGe); where one alone is right,
they should be further apart than that (ReCo). Fel et al., "How good is your explanation?
Algorithmic stability measures to assess the quality of explanations for deep neural networks".

pairs     distances of explanations, of models that agree and that disagree
measures  MeGe and ReCo of them
null      ReCo by chance
"""

from __future__ import annotations

from jc2i.metrics.consistency.measures import mege, reco, reco_auc
from jc2i.metrics.consistency.null import reco_null
from jc2i.metrics.consistency.pairs import Pairs, distances, pair_distances, split_pairs

__all__ = [
    "Pairs",
    "distances",
    "mege",
    "pair_distances",
    "reco",
    "reco_auc",
    "reco_null",
    "split_pairs",
]

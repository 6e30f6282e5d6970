"""Explainers that change the image and watch the score."""

from __future__ import annotations

from jc2i.explainers.perturbation.meaningful_perturbation import meaningful_perturbation
from jc2i.explainers.perturbation.occlusion import occlusion
from jc2i.explainers.perturbation.rise import rise

__all__ = ["meaningful_perturbation", "occlusion", "rise"]

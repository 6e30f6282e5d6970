"""Explainers: `(model, images, targets, *, key=None, **options) -> maps[batch, height, width]`.

gradients      sensitivity, gradient_x_input, integrated_gradients, smoothgrad
perturbation   occlusion, rise, meaningful_perturbation
cam            grad_cam, hires_cam
baselines      random_map
"""

from __future__ import annotations

from jc2i.explainers.baselines import random_map
from jc2i.explainers.cam import grad_cam, hires_cam
from jc2i.explainers.gradients import (
    gradient_x_input,
    integrated_gradients,
    sensitivity,
    smoothgrad,
)
from jc2i.explainers.perturbation import meaningful_perturbation, occlusion, rise

__all__ = [
    "grad_cam",
    "gradient_x_input",
    "hires_cam",
    "integrated_gradients",
    "meaningful_perturbation",
    "occlusion",
    "random_map",
    "rise",
    "sensitivity",
    "smoothgrad",
]

"""Explainers that differentiate the score with respect to the image."""

from __future__ import annotations

from jc2i.explainers.gradients.integrated_gradients import integrated_gradients
from jc2i.explainers.gradients.sensitivity import gradient_x_input, sensitivity
from jc2i.explainers.gradients.smoothgrad import smoothgrad

__all__ = ["gradient_x_input", "integrated_gradients", "sensitivity", "smoothgrad"]

"""Explainers that weight the activations of a named layer (`jc2i.taps`)."""

from __future__ import annotations

from jc2i.explainers.cam.grad_cam import grad_cam
from jc2i.explainers.cam.hires_cam import hires_cam

__all__ = ["grad_cam", "hires_cam"]

"""How well a saliency map finds what bounding boxes are drawn around (Opti-CAM appendix B)."""

from __future__ import annotations

from jc2i.metrics.localization.boxes import Boxes, box_mask, pad_boxes
from jc2i.metrics.localization.components import largest_box, largest_component
from jc2i.metrics.localization.crops import saliency_metric
from jc2i.metrics.localization.energy import energy_pointing_game, pixel_f1, pointing_game
from jc2i.metrics.localization.overlap import (
    box_accuracy,
    localization_error,
    max_box_accuracy,
    official_metric,
    predicted_box,
)

__all__ = [
    "Boxes",
    "box_accuracy",
    "box_mask",
    "energy_pointing_game",
    "largest_box",
    "largest_component",
    "localization_error",
    "max_box_accuracy",
    "official_metric",
    "pad_boxes",
    "pixel_f1",
    "pointing_game",
    "predicted_box",
    "saliency_metric",
]

"""The box study of Opti-CAM (table 5): the ground-truth box as a map, alone or with one."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

import jc2i
from jc2i.metrics import Boxes, box_mask
from jc2i.normalization import Maps


def box_maps(
    boxes: Boxes, height: int, width: int
) -> dict[str, Float[Array, "batch height width"]]:
    """Maps that know only the boxes: their union B, and the rest of the image.

    Args:
      boxes: ground-truth boxes of each image, as fractions of it.
      height: rows of the image.
      width: its columns.

    Returns:
      `"box"` and `"complement"`: maps of 0 and 1, to mask with as they are: a box that fills its
      image is a constant map. NaN for an image without boxes.
    """
    inside = _inside(boxes, height, width)
    return {"box": inside, "complement": 1 - inside}


def restricted(maps: Maps, boxes: Boxes) -> dict[str, Float[Array, "batch height width"]]:
    """A map, its part within the boxes, and the part outside of them.

    Args:
      maps: saliency maps of any range.
      boxes: ground-truth boxes of each image, as fractions of it.

    Returns:
      `"map"`, `"inside"` and `"outside"`: the map min-max normalised, then zero outside or inside
      of the boxes' union, to mask with as they are: a part's largest value may be below 1. NaN for
      an image without boxes.
    """
    values = jc2i.normalize(maps)
    inside = _inside(boxes, *values.shape[1:]).astype(values.dtype)
    return {
        "map": jnp.where(jnp.isnan(inside), jnp.nan, values),
        "inside": values * inside,
        "outside": values * (1 - inside),
    }


def _inside(boxes: Boxes, height: int, width: int) -> Array:
    mask = box_mask(boxes, height, width)
    return jnp.where(mask.any(axis=(1, 2), keepdims=True), mask.astype(float), jnp.nan)

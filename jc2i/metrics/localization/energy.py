"""How much of a map lies in the boxes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jc2i.metrics.localization.boxes import Boxes, as_boxes, mask_of, pixel_edges
from jc2i.metrics.localization.scorable import scorable
from jc2i.normalization import Maps, as_maps, lift
from jc2i.precision import own_promotion


@own_promotion()
def pixel_f1(maps: Maps, boxes: Boxes) -> Float[Array, " batch"]:
    """Pixel-wise F1 score: the harmonic mean of how much of a map is in the boxes and vice versa.

    2 P R / (P + R) with P = sum_U S / sum S and R = sum_U S / |U| (Opti-CAM B.3, B.4) over the
    boxes' union U, of the min-max normalised map S: 2 sum_U S / (|U| + sum S).

    Args:
      maps: saliency maps of any range, negative values too.
      boxes: ground-truth boxes of each image, as fractions of it.

    Returns:
      One value an image in [0, 1], 1 for a map that is 1 in the boxes and 0 elsewhere; NaN for a
      map that is constant or not finite, and for an image without boxes.

    Raises:
      ValueError: if the maps are not of rank 3, or for boxes that are none.
    """
    maps = as_maps("maps", maps)
    return _energies(maps, as_boxes(boxes, len(maps)))[0]


@own_promotion()
def energy_pointing_game(maps: Maps, boxes: Boxes) -> Float[Array, " batch"]:
    """Energy pointing game: the fraction of a map's sum that lies in the boxes.

    sum_U S / sum S (Wang et al. 2020; Opti-CAM B.3) over the boxes' union U, of the min-max
    normalised map S: a raw map's negative values would make it any number.

    Args:
      maps: saliency maps of any range, negative values too.
      boxes: ground-truth boxes of each image, as fractions of it.

    Returns:
      One value an image in [0, 1]; NaN for a map that is constant or not finite, and for an image
      without boxes.

    Raises:
      ValueError: if the maps are not of rank 3, or for boxes that are none.
    """
    maps = as_maps("maps", maps)
    return _energies(maps, as_boxes(boxes, len(maps)))[1]


@own_promotion()
def pointing_game(maps: Maps, boxes: Boxes) -> Float[Array, " batch"]:
    """Standard pointing game: whether a map is largest in a box.

    1 if any of the pixels that share the largest value lies in any box, else 0 (Zhang et al. 2018;
    Opti-CAM B.6), without a tolerance around the boxes.

    Args:
      maps: saliency maps of any range.
      boxes: ground-truth boxes of each image, as fractions of it.

    Returns:
      1 or 0 an image; NaN for a map that is constant or not finite, and for an image without boxes.

    Raises:
      ValueError: if the maps are not of rank 3, or for boxes that are none.
    """
    maps = as_maps("maps", maps)
    return _pointing_game(maps, as_boxes(boxes, len(maps)))


@jax.jit
def _energies(maps: Array, boxes: Array) -> tuple[Array, Array]:
    values, counted = scorable(maps)
    union = mask_of(pixel_edges(boxes, *maps.shape[1:]), *maps.shape[1:])
    counted &= union.any(axis=(1, 2))
    inside = jnp.where(union, values, 0).sum(axis=(1, 2))
    total, pixels = values.sum(axis=(1, 2)), union.sum(axis=(1, 2)).astype(values.dtype)
    f1 = 2 * inside / jnp.where(counted, pixels + total, 1)
    energy = inside / jnp.where(counted, total, 1)
    return jnp.where(counted, f1, jnp.nan), jnp.where(counted, energy, jnp.nan)


@jax.jit
def _pointing_game(maps: Array, boxes: Array) -> Array:
    _, counted = scorable(maps)
    union = mask_of(pixel_edges(boxes, *maps.shape[1:]), *maps.shape[1:])
    # Not the normalised map, in which nearly equal values may have become equal.
    lifted, _ = lift(jnp.where(counted[:, None, None], maps, 0))
    largest = lifted == lifted.max(axis=(1, 2), keepdims=True)
    hit = (largest & union).any(axis=(1, 2)).astype(maps.dtype)
    return jnp.where(counted & union.any(axis=(1, 2)), hit, jnp.nan)

"""How well the box that a map outlines overlaps the boxes that were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jc2i import checks
from jc2i.metrics.localization.boxes import (
    Boxes,
    as_boxes,
    intersection_over_union,
    pixel_edges,
)
from jc2i.metrics.localization.components import as_fractions, each_alone, largest_edges
from jc2i.metrics.localization.scorable import scorable
from jc2i.normalization import Maps, as_maps
from jc2i.precision import own_promotion


@own_promotion()
def predicted_box(maps: Maps) -> Float[Array, "batch 4"]:
    """The box that a map outlines: around the largest connected component above the map's mean.

    B_p of Opti-CAM B.1. The box is the tightest; pixels are connected by side or corner.

    Args:
      maps: saliency maps of any range.

    Returns:
      One row (top, left, bottom, right) an image, as fractions of it; NaN for a map that is
      constant or not finite.

    Raises:
      ValueError: if the maps are not of rank 3.
    """
    return _predicted_box(as_maps("maps", maps))


@own_promotion()
def localization_error(maps: Maps, boxes: Boxes) -> Float[Array, " batch"]:
    """Localization error: how far a map's box is from the nearest ground-truth box.

    1 - max_B IoU(B, B_p) with the map's `predicted_box` B_p (Opti-CAM B.2). Lower is better.

    Args:
      maps: saliency maps of any range.
      boxes: ground-truth boxes of each image, as fractions of it.

    Returns:
      One value an image in [0, 1]; NaN for a map that is constant or not finite, and for an image
      without boxes.

    Raises:
      ValueError: if the maps are not of rank 3, or for boxes that are none.
    """
    maps = as_maps("maps", maps)
    return _localization_error(maps, as_boxes(boxes, len(maps)))


@own_promotion()
def official_metric(
    maps: Maps, boxes: Boxes, correct: Bool[checks.Array, " batch"]
) -> Float[Array, " batch"]:
    """Official metric: the localization error, or 1 where the model's class is wrong.

    1 - max_B IoU(B, B_p) 1[predicted class = class] (Opti-CAM B.1). Lower is better.

    Args:
      maps: saliency maps of any range.
      boxes: ground-truth boxes of each image, as fractions of it.
      correct: whether the model predicts each image's class.

    Returns:
      One value an image in [0, 1]; NaN for a map that is constant or not finite, and for an image
      without boxes, whatever is predicted.

    Raises:
      ValueError: if the maps are not of rank 3, for boxes that are none, or unless there is one
        truth value an image.
    """
    maps = as_maps("maps", maps)
    takes = f"truth values[batch], one for each of the {len(maps)} maps"
    correct = checks.array("correct", correct, takes, of=("truth value",), shape=(len(maps),))
    error = localization_error(maps, boxes)
    return jnp.where(jnp.asarray(correct) | jnp.isnan(error), error, 1)


@own_promotion()
def box_accuracy(
    maps: Maps,
    boxes: Boxes,
    *,
    thresholds: Sequence[int | float] | Float[checks.Array, " thresholds"] | None = None,
    overlaps: Sequence[int | float] | Float[checks.Array, " overlaps"] = (0.3, 0.5, 0.7),
) -> Float[Array, "batch thresholds overlaps"]:
    """Box accuracy: whether a map's box above each threshold overlaps a ground-truth box enough.

    1 if max_B IoU(B, B_t) >= d, else 0, with B_t the tightest box around the largest connected
    component of {S > t} of the min-max normalised map S (Choe et al. 2020; Opti-CAM B.5). What is
    reported is its `max_box_accuracy`. On one CPU core an image of 224 x 224 takes about half a
    second for 101 thresholds; memory does not grow with them.

    Args:
      maps: saliency maps of any range.
      boxes: ground-truth boxes of each image, as fractions of it.
      thresholds: thresholds t in [0, 1]; None for 0, .01, ..., 1.
      overlaps: overlaps d that are asked for, in [0, 1].

    Returns:
      1 or 0 an image, threshold and overlap; NaN for a map that is constant or not finite, and for
      an image without boxes.

    Raises:
      ValueError: if the maps are not of rank 3, for boxes that are none, or for a threshold or
        overlap out of range.
    """
    maps = as_maps("maps", maps)
    levels = np.arange(101) / 100 if thresholds is None else thresholds
    return _box_accuracy(
        maps,
        as_boxes(boxes, len(maps)),
        _fractions("thresholds", levels).astype(maps.dtype),
        _fractions("overlaps", overlaps),
    )


@own_promotion()
def max_box_accuracy(
    accuracies: Float[checks.Array, "images thresholds overlaps"],
) -> Float[Array, ""]:
    """Box accuracy of a data set: mean over images, largest over thresholds, mean over overlaps.

    MaxBoxAccV2 of Choe et al. (2020), as Opti-CAM B.5 reports it. Images that have no value (NaN)
    are left out: count them.

    Args:
      accuracies: what `box_accuracy` gives for all images.

    Returns:
      One number in [0, 1]; NaN if no image has a value.

    Raises:
      ValueError: if it is not of rank 3 or empty.
    """
    takes = "floats[images, thresholds, overlaps] of at least one image"
    given = checks.array("accuracies", accuracies, takes, shape=(None,) * 3)
    checks.require(given.size > 0, "accuracies", checks.describe(given), takes)
    accuracies = jnp.asarray(checks.held("accuracies", given))
    counted = jnp.isfinite(accuracies)
    sums = jnp.where(counted, accuracies, 0).sum(axis=0)
    means = jnp.where(counted.any(axis=0), sums / jnp.maximum(counted.sum(axis=0), 1), jnp.nan)
    return means.max(axis=0).mean()


def predicted_edges(values: Float[Array, "batch height width"]) -> Int[Array, "batch 4"]:
    """The edges in pixels of the box of each map above its mean."""
    return largest_edges(values > values.mean(axis=(1, 2), keepdims=True))[0]


def _fractions(argument: str, given: Any) -> Array:
    takes = "numbers in [0, 1], at least one"
    dtype = jnp.zeros(0, float).dtype
    numbers = checks.finite_numbers(argument, given, takes, dtype)
    fits = numbers.ndim == 1
    if fits and checks.is_concrete(numbers):
        at_hand = np.asarray(numbers)
        fits = bool(((at_hand >= 0) & (at_hand <= 1)).all())
    checks.require(fits, argument, checks.describe(given), takes)
    return jnp.asarray(numbers)


@jax.jit
def _predicted_box(maps: Array) -> Array:
    values, counted = scorable(maps)
    fractions = as_fractions(predicted_edges(values), *maps.shape[1:])
    return jnp.where(counted[:, None], fractions, jnp.nan)


@jax.jit
def _localization_error(maps: Array, boxes: Array) -> Array:
    values, counted = scorable(maps)
    truth = pixel_edges(boxes, *maps.shape[1:])
    overlap = intersection_over_union(predicted_edges(values)[:, None], truth).max(axis=1)
    counted &= truth.any(axis=(1, 2))
    return jnp.where(counted, 1 - overlap, jnp.nan).astype(maps.dtype)


@jax.jit
def _box_accuracy(maps: Array, boxes: Array, thresholds: Array, overlaps: Array) -> Array:
    values, counted = scorable(maps)
    truth = pixel_edges(boxes, *maps.shape[1:])
    # From the highest threshold down: components only grow together, so that each threshold's
    # labels begin with those of the one above.
    order = jnp.argsort(thresholds, descending=True)

    def step(labels: Array, threshold: Array) -> tuple[Array, Array]:
        edges, labels = largest_edges(values > threshold, labels)
        return labels, intersection_over_union(edges[:, None], truth).max(axis=1)

    _, found = jax.lax.scan(step, each_alone(values > 0), thresholds[order])
    overlap = jnp.zeros_like(found).at[order].set(found).T
    enough = (overlap[..., None] >= overlaps[None, None]).astype(maps.dtype)
    counted &= truth.any(axis=(1, 2))
    return jnp.where(counted[:, None, None], enough, jnp.nan)

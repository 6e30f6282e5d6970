"""Ground-truth boxes as pixels: several an image, as a data set gives them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jc2i import checks
from jc2i.precision import own_promotion

Boxes: TypeAlias = Float[checks.Array, "batch boxes 4"] | Sequence[Float[checks.Array, "_ 4"]]
"""Boxes of each image: rows of (top, left, bottom, right) as fractions of the image.

A sequence with one array an image, as in `jc2i.data.Dataset.boxes`, or one array in which a row
without area stands for no box.
"""


MOST = 2**16
"""Boxes of an image, and pixels on its side."""


def pad_boxes(boxes: Boxes, count: int | None = None) -> Float[np.ndarray, "batch boxes 4"]:
    """Boxes as one array, in which rows of zeros stand for no box.

    Args:
      boxes: one array of (top, left, bottom, right) an image, fractions of the image in [0, 1].
      count: rows of each image; None for the power of two that the most boxes of an image ask for,
        so that batches of different numbers of boxes share few compiled programs.

    Returns:
      The boxes, each image's in their order.

    Raises:
      ValueError: if a box does not lie in its image, or an image has more than `count`.
    """
    array = isinstance(boxes, jax.Array | np.ndarray) and boxes.ndim == 3
    some = (array or isinstance(boxes, list | tuple)) and len(boxes) > 0
    checks.require(some, "boxes", checks.describe(boxes), _TAKES)
    each = [_rows(one) for one in (checks.native(_on_host(boxes)) if array else boxes)]
    most = max(len(one) for one in each)
    if count is None:
        count = 1 << max(most - 1, 0).bit_length()
    least = max(most, 1)
    count = checks.whole("count", count, f"a whole number of at least {least}", least, MOST)
    padded = np.stack([np.pad(one, ((0, count - len(one)), (0, 0))) for one in each])
    inside = (padded >= 0) & (padded <= 1)  # written so that a NaN is refused too
    ordered = padded[..., :2] <= padded[..., 2:]
    checks.require(inside.all() and ordered.all(), "boxes", "one outside its image", _TAKES)
    return padded


@own_promotion()
def box_mask(boxes: Boxes, height: int, width: int) -> Bool[Array, "batch height width"]:
    """The pixels of each image that lie in any of its boxes: the union U of Opti-CAM B.1.

    A pixel lies in a box if its centre does. A box so thin that it holds no centre of a row, or
    of a column, has the one that its top left corner lies in.

    Args:
      boxes: boxes of each image, as fractions of it (`Boxes`).
      height: rows of the image, at least 1.
      width: its columns.

    Returns:
      Truth values; none true for an image without boxes.

    Raises:
      ValueError: if a box does not lie in its image; for a size below 1.
    """
    height = checks.whole("height", height, most=MOST)
    width = checks.whole("width", width, most=MOST)
    return _box_mask(as_boxes(boxes), height, width)


_TAKES = (
    "for each image rows of (top, left, bottom, right) in [0, 1], or one array[batch, boxes, 4]"
)


def as_boxes(boxes: Any, batch: int | None = None) -> Float[Array, "batch boxes 4"]:
    """Boxes as one array of floats, refused where they are none.

    Args:
      boxes: what a user gave as `Boxes`.
      batch: the number of images; None for any.

    Returns:
      The boxes, in float32 at least.
    """
    if not isinstance(boxes, checks.Tracer):
        one = isinstance(boxes, jax.Array | np.ndarray) and boxes.ndim == 3
        boxes = pad_boxes(boxes, max(boxes.shape[1], 1) if one else None)
    fits = boxes.ndim == 3 and boxes.shape[2] == 4
    fits = fits and jnp.issubdtype(boxes.dtype, jnp.floating)
    checks.require(fits, "boxes", checks.describe(boxes), _TAKES)
    some = f"those of {batch} images"
    checks.require(batch in (None, len(boxes)), "boxes", f"those of {len(boxes)} images", some)
    return jnp.asarray(boxes).astype(jnp.promote_types(boxes.dtype, jnp.float32))


def pixel_edges(boxes: Float[Array, "*batch 4"], height: int, width: int) -> Int[Array, "*batch 4"]:
    """The first row and column of each box, and those behind its last; zeros for no box."""
    size = jnp.asarray([height, width], boxes.dtype).reshape((1,) * (boxes.ndim - 1) + (2,))
    start, stop = jnp.split(boxes, 2, axis=-1)
    first, behind = jnp.ceil(start * size - 0.5), jnp.ceil(stop * size - 0.5)
    corner = jnp.minimum(jnp.floor(start * size), size - 1)
    some = first < behind
    first, behind = jnp.where(some, first, corner), jnp.where(some, behind, corner + 1)
    drawn = (stop > start).all(axis=-1, keepdims=True)
    edges = jnp.concatenate([first, behind], axis=-1).astype(jnp.int32)
    return jnp.where(drawn, edges, 0)


def mask_of(
    edges: Int[Array, "batch boxes 4"], height: int, width: int
) -> Bool[Array, "batch height width"]:
    """The pixels within any of the boxes of each image."""
    top, left, bottom, right = (edges[..., i, None] for i in range(4))
    row, column = jnp.arange(height)[None, None], jnp.arange(width)[None, None]
    rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return (rows[..., None] & columns[:, :, None]).any(axis=1)


def areas(edges: Int[Array, "*batch 4"]) -> Int[Array, "*batch"]:
    """Pixels of each box; 0 where it has none."""
    sides = jnp.maximum(edges[..., 2:] - edges[..., :2], 0)
    return sides[..., 0] * sides[..., 1]


def intersection_over_union(
    first: Int[Array, "*#batch 4"], second: Int[Array, "*#batch 4"]
) -> Float[Array, "*batch"]:
    """IoU of boxes as sets of pixels; 0 where either has none."""
    start = jnp.maximum(first[..., :2], second[..., :2])
    stop = jnp.minimum(first[..., 2:], second[..., 2:])
    common = areas(jnp.concatenate([start, stop], axis=-1))
    union = areas(first) + areas(second) - common
    dtype = jnp.zeros(0, float).dtype
    return common.astype(dtype) / jnp.maximum(union, 1).astype(dtype)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _box_mask(boxes: Array, height: int, width: int) -> Array:
    return mask_of(pixel_edges(boxes, height, width), height, width)


def _rows(one: Any) -> np.ndarray:
    """The boxes of one image; an empty list has none."""
    is_array = isinstance(one, jax.Array | np.ndarray)
    if (is_array and one.size == 0) or (isinstance(one, list | tuple) and not len(one)):
        return np.zeros((0, 4), np.float32)
    rows = _on_host(checks.finite_numbers("boxes", one, _TAKES, np.float32))
    checks.require(rows.ndim == 2 and rows.shape[1] == 4, "boxes", checks.describe(one), _TAKES)
    return rows


def _on_host(boxes: Any) -> Any:
    concrete = checks.is_concrete(boxes)
    checks.require(concrete, "boxes", "a tracer in a list", "one array[batch, boxes, 4] under jit")
    return boxes if isinstance(boxes, np.ndarray) else np.asarray(boxes)

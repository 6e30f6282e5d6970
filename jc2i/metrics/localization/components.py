"""The largest connected component of a foreground, found on the device."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jc2i import checks
from jc2i.precision import own_promotion

Foreground = Bool[checks.Array, "batch height width"]


@own_promotion()
def largest_component(foreground: Foreground) -> Bool[Array, "batch height width"]:
    """The largest connected component of each foreground: most pixels, touching by side or corner.

    Of several as large, the one whose first pixel comes first, row by row. (Opti-CAM B.1 does not
    say whether corners connect; they do in OpenCV's contours, by which Choe et al. 2020 find them.)

    Args:
      foreground: truth values of each pixel.

    Returns:
      The component's pixels; none for an empty foreground.

    Raises:
      ValueError: if these are no truth values of rank 3.
    """
    foreground = _as_foreground(foreground)
    return _largest(foreground, each_alone(foreground))[0]


@own_promotion()
def largest_box(foreground: Foreground) -> Float[Array, "batch 4"]:
    """The tightest box around the largest connected component of each foreground.

    For the box above a threshold t: `largest_box(jc2i.normalize(maps) > t)`.

    Args:
      foreground: truth values of each pixel.

    Returns:
      One row (top, left, bottom, right) an image, as fractions of it; zeros for an empty one.

    Raises:
      ValueError: if these are no truth values of rank 3.
    """
    foreground = _as_foreground(foreground)
    return as_fractions(largest_edges(foreground)[0], *foreground.shape[1:])


def as_fractions(edges: Int[Array, "batch 4"], height: int, width: int) -> Float[Array, "batch 4"]:
    """Edges in pixels as fractions of the image."""
    size = jnp.asarray([[height, width] * 2], float)
    return edges.astype(size.dtype) / size


def each_alone(foreground: Bool[Array, "batch height width"]) -> Int[Array, "batch pixels"]:
    """The labels to begin with: each pixel is its own component."""
    batch, height, width = foreground.shape
    pixels = jnp.arange(height * width, dtype=jnp.int32)
    return jnp.broadcast_to(pixels[None], (batch, height * width))


@jax.jit
def largest_edges(
    foreground: Bool[Array, "batch height width"], labels: Int[Array, "batch pixels"] | None = None
) -> tuple[Int[Array, "batch 4"], Int[Array, "batch pixels"]]:
    """The edges of the largest component's box, in pixels, and the labels of all components.

    Args:
      foreground: truth values of each pixel.
      labels: those of a foreground that is part of this one, which need not be found again.

    Returns:
      (top, left, bottom, right), the last two behind the last pixel; zeros for no component; the
      labels.
    """
    component, found = _largest(foreground, each_alone(foreground) if labels is None else labels)
    sides = []
    for axis in (2, 1):
        used = component.any(axis=axis)
        first, last = jnp.argmax(used, axis=1), jnp.argmax(used[:, ::-1], axis=1)
        sides.append((first, jnp.where(used.any(axis=1), used.shape[1] - last, 0)))
    (top, bottom), (left, right) = sides
    return jnp.stack([top, left, bottom, right], axis=1).astype(jnp.int32), found


@jax.jit
def _largest(foreground: Array, labels: Array) -> tuple[Array, Array]:
    labels = _labels(foreground, labels)
    counted = foreground.reshape(labels.shape).astype(jnp.int32)
    sizes = jax.vmap(lambda label, one: jnp.zeros_like(one).at[label].add(one))(labels, counted)
    # A component's label is its first pixel, and argmax takes the first of equal sizes.
    largest = jnp.argmax(sizes, axis=1).astype(labels.dtype)[:, None]
    return (labels == largest).reshape(foreground.shape) & foreground, labels


def _labels(foreground: Array, labels: Array) -> Array:
    """Each foreground pixel's component, called by its first pixel.

    Components hook onto the lowest component that they touch, then all pixels jump to where their
    component's label now points, until nothing changes: a few steps for blobs and for noise alike,
    where a label spreading from pixel to pixel takes as many as the longest way through a component
    (Komura 2015 and others).
    """
    batch, height, width = foreground.shape
    none = height * width
    pixels = jnp.arange(none, dtype=labels.dtype)

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        labels, _ = state
        near = _lowest_near(jnp.where(foreground, labels.reshape(foreground.shape), none), none)
        near = jnp.where(foreground, near, none).reshape(batch, none)
        points = jax.vmap(lambda label, low: pixels.at[label].min(low))(labels, near)
        for _ in range(2):
            points = _follow(points, points)
        moved = _follow(points, labels)
        return moved, (moved != labels).any()

    start = labels, jnp.asarray(True)
    return jax.lax.while_loop(lambda state: state[1], step, start)[0]


_follow = jax.vmap(lambda points, labels: points[labels])


def _lowest_near(labels: Array, none: int) -> Array:
    """The least label of each pixel and its eight neighbours."""
    for axis in (1, 2):
        padding = [(int(axis == i), int(axis == i)) for i in range(3)]
        padded = jnp.pad(labels, padding, constant_values=none)
        ahead, behind = (
            jax.lax.slice_in_dim(padded, start, start + labels.shape[axis], axis=axis)
            for start in (0, 2)
        )
        labels = jnp.minimum(labels, jnp.minimum(ahead, behind))
    return labels


def _as_foreground(foreground: Any) -> Array:
    takes = "truth values[batch, height, width], of at least one pixel"
    given = checks.array("foreground", foreground, takes, of=("truth value",), shape=(None,) * 3)
    checks.require(given.size > 0, "foreground", checks.describe(given), takes)
    return jnp.asarray(given)

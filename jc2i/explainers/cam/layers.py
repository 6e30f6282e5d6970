"""What the methods of this folder share: a layer, the part behind it, a map at its size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jc2i import checks, scores, taps
from jc2i.explainers import upsampling
from jc2i.options import Maybe, OneOf, Text

LAYER: dict[str, Any] = {"layer": Maybe(Text()), "channel_axis": OneOf(1, -1, None)}
"""What the options `layer` and `channel_axis` take."""


class Cut(NamedTuple):
    """A model cut open at a layer.

    Attributes:
      activation: the layer's value [batch, rows, columns, features], features last.
      score: an activation -> each target's score; only what is behind the layer is computed.
    """

    activation: Float[Array, "batch rows columns features"]
    score: Callable[[Array], Array]


def cut(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    layer: str | None,
    channel_axis: int | None = None,
) -> Cut:
    """Cuts a model at a named activation that lies on a grid over the image.

    Args:
      model: images -> scores[batch, classes].
      images: images that the model accepts.
      targets: class whose score is taken, one an image.
      layer: a name of `taps.names`, or None for the last that lies on a grid.
      channel_axis: which axis of the activation counts the features, -1 or 1; None where the
        grid's sides tell.

    Returns:
      The activation, and the scores as a function of it.

    Raises:
      ValueError: for a layer that there is not, whose activation is no grid, or whose axes could
        be taken either way.
    """
    layer, axis = chosen(model, images, layer, channel_axis)
    found, behind = taps.cut(model, images, layer)

    def score(activation: Array) -> Array:
        return scores.of_targets(behind(jnp.moveaxis(activation, -1, axis)), targets)

    return Cut(jnp.moveaxis(found, axis, -1), score)


def activation_and_gradient(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    layer: str | None,
    channel_axis: int | None = None,
) -> tuple[
    Float[Array, "batch rows columns features"], Float[Array, "batch rows columns features"]
]:
    """A layer's activation A and the gradient of each target's score by it, dF(x)_c / dA.

    Args:
      model: images -> scores[batch, classes].
      images: images that the model accepts.
      targets: class whose score is differentiated, one an image.
      layer: see `cut`.
      channel_axis: see `cut`.

    Returns:
      The activation and the gradient, in float32 at least.

    Raises:
      ValueError: see `cut`.
    """
    activation, score = cut(model, images, targets, layer, channel_axis)
    gradient = jax.grad(lambda value: score(value).sum())(activation)
    wide = jnp.promote_types(activation.dtype, images.dtype)
    return activation.astype(wide), gradient.astype(wide)


def chosen(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    layer: str | None,
    channel_axis: int | None = None,
) -> tuple[str, int]:
    """The name of a layer whose activation is a grid over the image, and its axis of features.

    Args:
      model: images -> scores, any JAX function.
      images: images that the model accepts.
      layer: its name; None chooses the last that is such a grid.
      channel_axis: -1 or 1; None where the grid's sides tell.

    Returns:
      The name, and -1 or 1.

    Raises:
      ValueError: for a layer that there is not, whose activation is no grid, or whose axes could
        be taken either way.
    """
    axes = {name: _feature_axes(a.shape, images) for name, a in taps.names(model, images).items()}
    if channel_axis is not None:
        axes = {name: [a for a in found if a == channel_axis] for name, found in axes.items()}
    # Not named, a layer must be as the images are, features last, unless an option says otherwise.
    listed = [name for name, found in axes.items() if (channel_axis or -1) in found]
    takes = f"one of {', '.join(listed)}" if listed else "a model that names an activation grid"
    if layer is None:
        checks.require(bool(listed), "layer", None, takes)
        layer = listed[-1]
    activation = jax.eval_shape(lambda images: taps.capture(model, images, layer), images)
    found = axes.get(layer, [])
    got = f"{layer!r}, {checks.describe(activation)}"
    checks.require(bool(found), "layer", got, takes)
    if len(found) > 1:
        takes = f"-1 or 1: the features of {got} may be its last axis or its second"
        raise checks.invalid("channel_axis", None, takes)
    return layer, found[0]


def _feature_axes(shape: tuple[int, ...], images: checks.Array) -> list[int]:
    """Which axis of an activation may count features, the other two lying on the image.

    Two do if there is more than one cell, and as many columns for each row as the image has, to a
    cell. Features come second only where the others are the image divided by a whole stride (a
    square attention map is no grid), and last only where both or neither are.
    """
    if len(shape) != 4 or shape[0] != images.shape[0]:
        return []
    size = images.shape[1:3]
    grids = {-1: shape[1:3], 1: shape[2:4]}
    found = [axis for axis, grid in grids.items() if _on_grid(*grid, *size)]
    strided = [axis for axis in found if _is_strided(grids[axis], size)]
    return strided or [axis for axis in found if axis == -1]


def _on_grid(rows: int, columns: int, height: int, width: int) -> bool:
    small = 1 < rows * columns and rows <= height and columns <= width
    return small and abs(rows * width - columns * height) <= max(height, width)


def _is_strided(grid: tuple[int, ...], size: tuple[int, ...]) -> bool:
    strides = range(1, max(size) + 1)
    return any(
        all(cells in (side // s, -(-side // s)) for cells, side in zip(grid, size, strict=True))
        for s in strides
    )


def finish(
    maps: Float[Array, "batch rows columns"],
    images: Float[checks.Array, "batch height width channel"],
    relu: bool,
    resize: bool,
) -> Float[Array, "batch tall wide"]:
    """A layer's map with its negative part cut off, at the image's size, each if asked for."""
    maps = jax.nn.relu(maps) if relu else maps
    return upsampling.bilinear(maps, *images.shape[1:3]) if resize else maps

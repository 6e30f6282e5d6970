"""What the methods of this folder share: a layer's activation, its gradient, a map at its size."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int

from jc2i import checks, scores, taps
from jc2i.explainers import upsampling
from jc2i.jaxpr import fast_gradients


def spatial_layers(
    model: Callable, images: Float[Array, "batch height width channel"]
) -> list[str]:
    """The named activations that lie on a grid over the image, in order of execution.

    An activation [batch, rows, columns, channel] does if it has more than one cell, and as many
    columns for each row as the image, to a cell.

    Args:
      model: images -> scores, any JAX function.
      images: images that the model accepts.

    Returns:
      Their names.
    """
    return [name for name, found in taps.names(model, images).items() if _on_grid(found, images)]


def _on_grid(activation: jax.ShapeDtypeStruct, images: Array) -> bool:
    if len(activation.shape) != 4 or activation.shape[0] != images.shape[0]:
        return False
    rows, columns = activation.shape[1:3]
    height, width = images.shape[1:3]
    small = 1 < rows * columns and rows <= height and columns <= width
    return small and abs(rows * width - columns * height) <= max(height, width)


def activation_and_gradient(
    model: Callable,
    images: Float[Array, "batch height width channel"],
    targets: Int[Array, " batch"],
    layer: str | None,
) -> tuple[
    Float[Array, "batch rows columns features"], Float[Array, "batch rows columns features"]
]:
    """A layer's activation A and the gradient of each target's score by it, dF(x)_c / dA.

    Only the part of the model behind the layer is differentiated.

    Args:
      model: images -> scores[batch, classes].
      images: images that the model accepts.
      targets: class whose score is differentiated, one an image.
      layer: a name of `taps.names`, or None for the last of `spatial_layers`.

    Returns:
      The activation and the gradient.

    Raises:
      ValueError: for a layer that there is not, or whose activation is no grid.
    """
    layer = checked(model, images, layer)
    model = fast_gradients(model)
    activation = taps.capture(model, images, layer)

    def total(value: Array) -> Array:
        return scores.of_targets(taps.replace(model, images, layer, value), targets).sum()

    return activation, jax.grad(total)(activation)


def checked(
    model: Callable, images: Float[Array, "batch height width channel"], layer: str | None
) -> str:
    """The name of a layer whose activation is a grid over the image; None chooses the last.

    Raises:
      ValueError: for a layer that there is not, or whose activation is no grid.
    """
    listed = spatial_layers(model, images)
    takes = f"one of {', '.join(listed)}" if listed else "a model that names an activation grid"
    if layer is None:
        checks.require(bool(listed), "layer", None, takes)
        return listed[-1]
    activation = jax.eval_shape(lambda images: taps.capture(model, images, layer), images)
    got = f"{layer!r}, {checks.describe(activation)}"
    checks.require(_on_grid(activation, images), "layer", got, takes)
    return layer


def finish(
    maps: Float[Array, "batch rows columns"],
    images: Float[Array, "batch height width channel"],
    relu: bool,
    resize: bool,
) -> Float[Array, "batch tall wide"]:
    """A layer's map with its negative part cut off, at the image's size, each if asked for."""
    maps = jax.nn.relu(maps) if relu else maps
    return upsampling.bilinear(maps, *images.shape[1:3]) if resize else maps

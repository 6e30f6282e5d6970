"""What the methods of this folder share: a layer, the part behind it, a map at its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jc2i import checks, scores, taps
from jc2i.explainers import upsampling
from jc2i.explainers.tokens import TokenGrid, grid_of_tokens
from jc2i.normalization import normalize
from jc2i.options import Maybe, OneOf, Text, Whole

Layer = str | Sequence[str] | None
"""One layer, several, or None for the last that lies on a grid over the image."""

LAYER: dict[str, Any] = {
    "layer": Maybe(Text(several=True)),
    "channel_axis": OneOf(1, -1, None),
    "prefix_tokens": Maybe(Whole(0)),
}
"""What the options `layer`, `channel_axis` and `prefix_tokens` take."""


class Cut(NamedTuple):
    """A model cut open at a layer.

    Attributes:
      activation: the layer's value [batch, rows, columns, features], features last; of tokens, the
        patches.
      score: an activation -> each target's score; only what is behind the layer is computed. The
        tokens that lead the patches keep their values.
    """

    activation: Float[Array, "batch rows columns features"]
    score: Callable[[Array], Array]


def cuts(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    layer: Layer,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
) -> list[Cut]:
    """A model cut at each of its layers asked for, the others staying whole; see `cut`."""
    listed = [layer] if layer is None or isinstance(layer, str) else layer
    return [cut(model, images, targets, name, channel_axis, prefix_tokens) for name in listed]


def cut(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    layer: str | None,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
) -> Cut:
    """Cuts a model at a named activation that lies on a grid over the image, or whose tokens do.

    Args:
      model: images -> scores[batch, classes].
      images: images that the model accepts.
      targets: class whose score is taken, one an image.
      layer: a name of `taps.names`, or None for the last that lies on a grid.
      channel_axis: which axis of the activation counts the features, -1 or 1; None where the
        grid's sides tell.
      prefix_tokens: of tokens, how many lead the patches; None where their number tells.

    Returns:
      The activation, and the scores as a function of it.

    Raises:
      ValueError: for a layer that there is not, whose activation is no grid, or whose axes could
        be taken either way.
    """
    activation, behind = opened(model, images, layer, channel_axis, prefix_tokens)
    return Cut(activation, lambda activation: scores.of_targets(behind(activation), targets))


def opened(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    layer: str | None,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
) -> tuple[Float[Array, "batch rows columns features"], Callable[[Array], Array]]:
    """A layer's activation on its grid, and the scores of all classes as a function of it.

    Args:
      model: images -> scores[batch, classes].
      images: images that the model accepts.
      layer: see `cut`.
      channel_axis: see `cut`.
      prefix_tokens: see `cut`.

    Returns:
      The activation, features last, and the part of the model behind it.

    Raises:
      ValueError: see `cut`.
    """
    layer, axis = chosen(model, images, layer, channel_axis, prefix_tokens)
    found, behind = taps.cut(model, images, layer)
    prefix, grid = _spread(found, axis, images, prefix_tokens)

    def scores(activation: Array) -> Array:
        if found.ndim == 4:
            return behind(jnp.moveaxis(activation, -1, axis))
        tokens = activation.reshape(len(activation), -1, activation.shape[-1])
        tokens = jnp.concatenate([prefix, tokens], axis=1) if prefix.shape[1] else tokens
        return behind(tokens)

    return grid, scores


def activations_and_gradients(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    layer: Layer,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
) -> list[
    tuple[Float[Array, "batch rows columns features"], Float[Array, "batch rows columns features"]]
]:
    """Each layer's activation A and the gradient of each target's score by it, dF(x)_c / dA.

    Args:
      model: images -> scores[batch, classes].
      images: images that the model accepts.
      targets: class whose score is differentiated, one an image.
      layer: see `cuts`.
      channel_axis: see `cut`.
      prefix_tokens: see `cut`.

    Returns:
      The activation and the gradient of each layer, in float32 at least.

    Raises:
      ValueError: see `cut`.
    """
    found = []
    for activation, score in cuts(model, images, targets, layer, channel_axis, prefix_tokens):
        gradient = jax.grad(lambda value, score=score: score(value).sum())(activation)
        wide = jnp.promote_types(activation.dtype, images.dtype)
        found.append((activation.astype(wide), gradient.astype(wide)))
    return found


def chosen(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    layer: str | None,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
) -> tuple[str, int]:
    """The name of a layer whose activation is a grid over the image, and its axis of features.

    Not named, it is the last activation that is a grid. Where none is, it is the last one of
    tokens, if patches are all its tokens; with a class token among them, a layer behind the last
    attention tells the class nothing about its patches, so it is the last in front of the last
    attention map [batch, heads, tokens, tokens] that the model names.

    Args:
      model: images -> scores, any JAX function.
      images: images that the model accepts.
      layer: its name; None chooses.
      channel_axis: -1 or 1; None where the grid's sides tell.
      prefix_tokens: how many tokens lead the patches; None where their number tells.

    Returns:
      The name, and -1 or 1.

    Raises:
      ValueError: for a layer that there is not, whose activation is no grid, whose axes could be
        taken either way, or whose tokens do not fit the image.
    """
    named = taps.names(model, images)
    shapes = {name: found.shape for name, found in named.items()}
    axes = {name: _feature_axes(shape, images, prefix_tokens) for name, shape in shapes.items()}
    if channel_axis is not None:
        axes = {name: [a for a in found if a == channel_axis] for name, found in axes.items()}
    # Not named, a layer must be as the images are, features last, unless an option says otherwise.
    listed = [name for name, found in axes.items() if (channel_axis or -1) in found]
    takes = f"one of {', '.join(listed)}" if listed else "a model that names an activation grid"
    if layer is None:
        layer = _default({name: shapes[name] for name in listed}, shapes, images, prefix_tokens)
        if layer is None:
            raise checks.invalid("layer", None, takes)
    activation = named.get(layer)
    if activation is None:  # refused by what looks it up
        activation = jax.eval_shape(lambda images: taps.capture(model, images, layer), images)
    found = axes.get(layer, [])
    got = f"{layer!r}, {checks.describe(activation)}"
    if prefix_tokens is not None and activation.ndim == 3 and not found:
        takes = f"a number that leaves a grid over the image: {got} are the tokens"
        raise checks.invalid("prefix_tokens", prefix_tokens, takes)
    checks.require(bool(found), "layer", got, takes)
    if len(found) > 1:
        takes = f"-1 or 1: the features of {got} may be its last axis or its second"
        raise checks.invalid("channel_axis", None, takes)
    return layer, found[0]


def up_to_default(
    model: Callable, images: Float[checks.Array, "batch height width channel"]
) -> list[str]:
    """The layers on a grid over the image, features last, from the first to the one None chooses.

    Args:
      model: images -> scores, any JAX function.
      images: images that the model accepts.

    Returns:
      Their names: of values on a grid, or, where that one's are tokens, of tokens.

    Raises:
      ValueError: for a model that names no such layer.
    """
    last, _ = chosen(model, images, None)
    shapes = {name: found.shape for name, found in taps.names(model, images).items()}
    alike = [name for name, shape in shapes.items() if len(shape) == len(shapes[last])]
    listed = [name for name in alike if -1 in _feature_axes(shapes[name], images, None)]
    return listed[: listed.index(last) + 1]


def _default(
    listed: dict[str, tuple[int, ...]],
    shapes: dict[str, tuple[int, ...]],
    images: checks.Array,
    prefix_tokens: int | None,
) -> str | None:
    """The layer meant by none, of those listed; None where there is none, or no telling."""
    grids = [name for name, shape in listed.items() if len(shape) == 4]
    if grids or not listed:
        return grids[-1] if grids else None
    last = list(listed)[-1]
    tokens = listed[last][1]
    if _lying(tokens, images, prefix_tokens).prefix == 0:
        return last
    found, before = None, None
    for name, shape in shapes.items():
        before = name if name in listed else before
        if len(shape) == 4 and shape[2:] == (tokens, tokens):
            found = before
    return found


def on_grid(
    values: Array, images: Float[checks.Array, "batch height width channel"]
) -> Float[Array, "batch rows columns features"] | None:
    """A value of a model's on its grid over the image, features last; None where it has none."""
    axes = _feature_axes(values.shape, images, None)
    return _spread(values, axes[0], images, None)[1] if axes else None


def _spread(
    values: Array, axis: int, images: checks.Array, prefix_tokens: int | None
) -> tuple[Array, Array]:
    """The tokens that lead, if any, and the grid, features last."""
    if values.ndim == 4:
        return values[:, :0], jnp.moveaxis(values, axis, -1)
    lying = _lying(values.shape[1], images, prefix_tokens)
    prefix, patches = values[:, : lying.prefix], values[:, lying.prefix :]
    return prefix, patches.reshape(len(values), lying.rows, lying.columns, -1)


def _lying(tokens: int, images: checks.Array, prefix_tokens: int | None) -> TokenGrid:
    height, width = images.shape[1:3]
    return grid_of_tokens(tokens, height, width, prefix_tokens)


def _are_on_grid(tokens: int, images: checks.Array, prefix_tokens: int | None) -> bool:
    try:
        _lying(tokens, images, prefix_tokens)
    except checks.Refusal:
        return False
    return True


def _feature_axes(
    shape: tuple[int, ...], images: checks.Array, prefix_tokens: int | None
) -> list[int]:
    """Which axis of an activation may count features, the others lying on the image.

    Of tokens, it is the last one.

    Two axes do if there is more than one cell, and as many columns for each row as the image has,
    to a cell. Features come second only where the others are the image divided by a whole stride (a
    square attention map is no grid), and last only where both or neither are.
    """
    if len(shape) == 3 and shape[0] == images.shape[0]:
        return [-1] if _are_on_grid(shape[1], images, prefix_tokens) else []
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
    maps: Sequence[Float[Array, "batch _ _"]],
    images: Float[checks.Array, "batch height width channel"],
    relu: bool,
    resize: bool,
) -> Float[Array, "batch tall wide"]:
    """The layers' maps as one: their negative parts cut off, at the image's size, each if asked.

    The map of one layer stays as it is. Those of several are min-max normalised each, upsampled
    and averaged, as pytorch-grad-cam does (which normalises the average once more).

    Args:
      maps: each layer's map.
      images: the images.
      relu: whether the negative part of each is cut off.
      resize: whether they are upsampled to the image's size.

    Returns:
      The map.

    Raises:
      ValueError: for maps of several sizes that are not to be resized.
    """
    sizes = list(dict.fromkeys(found.shape[1:] for found in maps))
    if len(sizes) > 1 and not resize:
        got = f"False with layers of {' and '.join(f'{h}x{w}' for h, w in sizes)} cells"
        raise checks.invalid("resize", got, "True, or layers of one size")
    maps = [jax.nn.relu(found) if relu else found for found in maps]
    maps = list(map(normalize, maps)) if len(maps) > 1 else maps
    height, width = images.shape[1:3]
    maps = [upsampling.bilinear(found, height, width) if resize else found for found in maps]
    return sum(maps[1:], start=maps[0]) / len(maps) if len(maps) > 1 else maps[0]

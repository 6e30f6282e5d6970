"""What the methods of this folder share: attention maps by name, products of them, a map."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jc2i import checks, taps
from jc2i.explainers import upsampling
from jc2i.explainers.tokens import TokenGrid, grid_of_tokens
from jc2i.options import Maybe, OneOf, Whole

FUSIONS: dict[str, Callable] = {"mean": jnp.mean, "max": jnp.max, "min": jnp.min}
"""How the maps of several heads become one."""

TOKENS: dict[str, Any] = {
    "prefix_tokens": Maybe(Whole(least=0)),
    "token": OneOf("class", "mean", None),
}
"""What the options `prefix_tokens` and `token` take."""


def names(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    layer: str | Sequence[str] | None,
) -> tuple[str, ...]:
    """The names of a model's attention maps, in order of execution.

    Args:
      model: images -> scores, any JAX function.
      images: images that the model accepts.
      layer: one name of `taps.names`, or several; None for every activation [batch, heads, tokens,
        tokens] whose name has "attention" or "attn" in it: a convolution's activation may have the
        same shape.

    Returns:
      The names; those asked for in order of execution too.

    Raises:
      ValueError: for a name that there is not or whose activation is no attention map, and for a
        model that names none.
    """
    every = taps.names(model, images)
    square = square_maps(every, images)
    takes = (
        f"one of {', '.join(square)}"
        if square
        else ("a model that names its attention maps [batch, heads, tokens, tokens]")
    )
    if layer is None:
        named = tuple(filter(is_named, square))
        takes += ', or a model that names them so ("attention", "attn")' if square else ""
        checks.require(bool(named), "layer", None, takes)
        return named
    asked = [layer] if isinstance(layer, str) else list(layer)
    for name in asked:
        if name not in every:  # its number may be left out where there is one alone
            jax.eval_shape(lambda images, name=name: taps.capture(model, images, name), images)
        got = f"{name!r}, {checks.describe(every[name])}" if name in every else repr(name)
        checks.require(name in square, "layer", got, takes)
    return tuple(name for name in square if name in asked)


def square_maps(
    activations: Mapping[str, jax.ShapeDtypeStruct],
    images: Float[checks.Array, "batch height width channel"],
) -> list[str]:
    """The names of a model's activations that may be attention maps, by their shape."""
    return [name for name, a in activations.items() if _is_attention(a.shape, images)]


def is_named(name: str) -> bool:
    """Whether an activation's name says that it is an attention map."""
    return any(word in name.lower() for word in ("attention", "attn"))


def _is_attention(shape: tuple[int, ...], images: checks.Array) -> bool:
    return len(shape) == 4 and shape[0] == images.shape[0] and shape[2] == shape[3] > 1


def grid(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    layers: Sequence[str],
    prefix_tokens: int | None,
) -> TokenGrid:
    """The grid of the tokens that attention maps are of.

    Args:
      model: images -> scores, any JAX function.
      images: images that the model accepts.
      layers: names of attention maps.
      prefix_tokens: how many tokens come before the patches; None to find it.

    Returns:
      Tokens before the patches, rows and columns.

    Raises:
      ValueError: if the maps are of different numbers of tokens, or these lie on no grid.
    """
    every = taps.names(model, images)
    counts = {name: every[name].shape[-1] for name in layers}
    got = ", ".join(f"{name} of {count} tokens" for name, count in counts.items())
    takes = "attention maps of the same tokens"
    checks.require(len(set(counts.values())) == 1, "layer", got, takes)
    _, height, width, _ = images.shape
    return grid_of_tokens(counts[layers[0]], height, width, prefix_tokens)


def start(token: str | None, places: TokenGrid, dtype: Any) -> Float[Array, " tokens"]:
    """The weight of each row of a product of attention maps in what is read of it.

    Args:
      token: `"class"` for the first token's row, `"mean"` for the mean over the patches' rows;
        None for the class token's where there are tokens before the patches, else the mean.
      places: where the tokens lie.
      dtype: type of the result.

    Returns:
      Weights that sum to 1.

    Raises:
      ValueError: for the class token of a model that has none.
    """
    patches = places.rows * places.columns
    if token is None:
        token = "class" if places.prefix else "mean"
    if token == "class":
        takes = "'mean': this model has no token before the patches"
        checks.require(places.prefix > 0, "token", repr(token), takes)
        return jnp.zeros(places.prefix + patches, dtype).at[0].set(1)
    return jnp.concatenate([jnp.zeros(places.prefix, dtype), jnp.full(patches, 1 / patches, dtype)])


def product(
    rows: Float[Array, " tokens"], matrices: Sequence[Float[Array, "batch tokens tokens"]]
) -> Float[Array, "batch tokens"]:
    """rows^T M_L ... M_2 M_1, the blocks' matrices given from the first to the last.

    Only rows are multiplied, from the last block back: tokens^2 products a block, not tokens^3.
    """
    first = jnp.broadcast_to(rows, (matrices[0].shape[0], rows.shape[0]))
    multiply = functools.partial(jnp.einsum, "bi,bij->bj", precision="highest")
    return functools.reduce(multiply, reversed(matrices), first)


def finish(
    row: Float[Array, "batch tokens"],
    places: TokenGrid,
    images: Float[checks.Array, "batch height width channel"],
    resize: bool,
) -> Float[Array, "batch tall wide"]:
    """What each patch has, as a map on their grid, at the image's size if asked for."""
    patches = row[:, places.prefix :].reshape(row.shape[0], places.rows, places.columns)
    return upsampling.bilinear(patches, *images.shape[1:3]) if resize else patches

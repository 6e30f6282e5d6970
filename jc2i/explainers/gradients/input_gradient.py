"""The gradient of the target's score with respect to the image, and its reduction to a map."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jc2i import checks, scores
from jc2i.options import OneOf

CHANNELS = OneOf("abs_sum", "sum", "max_abs", None)
"""What `reduce_channels` takes."""


def input_gradient(model: Callable) -> Callable[[checks.Array, checks.Array], Array]:
    """The function (images, targets) -> gradient of each image's target score by its pixels.

    Args:
      model: images -> scores[batch, classes], each image's scores independent of the others.

    Returns:
      A function whose result has the shape of the images.
    """

    def total(images: checks.Array, targets: checks.Array) -> Array:
        return scores.of_targets(model(images), targets).sum().astype(images.dtype)

    return jax.grad(total)


def repeated_gradient(
    model: Callable,
    variants: Float[Array, "batch chunk height width channel"],
    targets: Int[checks.Array, " batch"],
) -> Float[Array, "batch chunk height width channel"]:
    """Gradients at several variants of each image, as one batch of model evaluations."""
    batch, chunk = variants.shape[:2]
    flat = variants.reshape(batch * chunk, *variants.shape[2:])
    return input_gradient(model)(flat, jnp.repeat(targets, chunk)).reshape(variants.shape)


def reduce_channels(
    values: Float[Array, "batch height width channel"], channels: str | None
) -> Float[Array, "batch height width *channel"]:
    """One value a pixel from one a channel.

    Args:
      values: attributions of each channel.
      channels: `"abs_sum"`, `"sum"`, `"max_abs"`, or None to leave them as they are.

    Returns:
      Maps, or the values themselves for None.
    """
    if channels is None:
        return values
    if channels == "sum":
        return values.sum(axis=-1)
    if channels == "abs_sum":
        return jnp.abs(values).sum(axis=-1)
    return jnp.abs(values).max(axis=-1)

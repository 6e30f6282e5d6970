"""Sensitivity and gradient x input: one gradient evaluation."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks
from jc2i.explainers.gradients.input_gradient import CHANNELS, input_gradient, reduce_channels
from jc2i.query import Cost, explainer


@explainer(cost=lambda shape, options: Cost(gradient=1), channels=CHANNELS)
def sensitivity(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    channels: str | None = "abs_sum",
    batch_size: int | None = None,
) -> Float[Array, "batch height width *channel"]:
    """Sensitivity: the gradient of the target's score with respect to each pixel.

    S(x)_i = sum over channels of dF(x)_c / dx_i (C2I supplement, equation (3), printed form:
    `channels="sum"`); the default takes absolute values first, as the released code does: a
    signed gradient does not rank pixels by importance. Cost: 1 gradient evaluation.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      channels: `"abs_sum"`, `"sum"`, `"max_abs"`, or None for one value a channel.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    return reduce_channels(input_gradient(model)(images, targets), channels)


@explainer(cost=lambda shape, options: Cost(gradient=1), channels=CHANNELS)
def gradient_x_input(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    absolute: bool = True,
    channels: str | None = "abs_sum",
    batch_size: int | None = None,
) -> Float[Array, "batch height width *channel"]:
    """Gradient x input: each pixel's value times its gradient.

    S(x)_i = x_i |dF(x)_c / dx_i| (Fel et al., MeGe, appendix B), or x_i dF(x)_c / dx_i with
    `absolute=False` (Shrikumar et al. 2017; Captum's InputXGradient). Cost: 1 gradient evaluation.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      absolute: whether the gradient's absolute value is taken before the product.
      channels: `"abs_sum"`, `"sum"`, `"max_abs"`, or None for one value a channel.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    gradient = input_gradient(model)(images, targets)
    return reduce_channels((jnp.abs(gradient) if absolute else gradient) * images, channels)

"""XGrad-CAM: activations weighted by their gradients, averaged where they are active."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks
from jc2i.explainers.cam.layers import LAYER, Layer, activations_and_gradients, finish
from jc2i.query import Cost, explainer


@explainer(cost=lambda shape, options: Cost(forward=1), **LAYER)
def xgrad_cam(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    layer: Layer = None,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
    relu: bool = True,
    resize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, "batch tall wide"]:
    """XGrad-CAM: the activations of a layer, each weighted by its gradient where it is active.

    S(x) = relu(sum over features k of a_k A_k), a_k = (sum over cells of g A_k) / sum over cells of
    A_k, with g = dF(x)_c / dA_k (Fu et al. 2020, equation (9)). A feature whose sum is nothing but
    rounding, at most 1e-6 of the sum of its absolute values (a transformer's may cross zero), is
    left out. Cost: 1 forward evaluation, and 1 gradient of the part of the model behind the layer.

    Args:
      model: callable pytree, images -> scores[batch, classes], with a named activation.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      layer: name of an activation [batch, rows, columns, features] or [batch, tokens, features]
        (`jc2i.taps.names`), or several, whose maps are min-max normalised and averaged; None for
        the last that lies on a grid over the image.
      channel_axis: which axis of the activation counts the features, -1 or 1; None where the grid
        tells (one that fits both ways is refused).
      prefix_tokens: how many class and register tokens lead the patches; None where the number of
        tokens tells.
      relu: whether the map's negative part is cut off.
      resize: whether the map is upsampled to the image's size (bilinear), or stays the layer's.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps, of the image's size or, with `resize=False`, the layer's.

    Raises:
      ValueError: for bad input, naming the argument; for an unknown layer, listing those there are.
    """
    maps = [
        (activation * _weights(activation, gradient)).sum(axis=-1)
        for activation, gradient in activations_and_gradients(
            model, images, targets, layer, channel_axis, prefix_tokens
        )
    ]
    return finish(maps, images, relu, resize)


def _weights(activation: Array, gradient: Array) -> Array:
    total = activation.sum(axis=(1, 2), keepdims=True)
    crosses = jnp.abs(total) <= 1e-6 * jnp.abs(activation).sum(axis=(1, 2), keepdims=True)
    weighted = (gradient * activation).sum(axis=(1, 2), keepdims=True)
    return jnp.where(crosses, 0, weighted / jnp.where(crosses, 1, total))

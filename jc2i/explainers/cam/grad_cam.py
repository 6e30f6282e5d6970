"""Grad-CAM: activations weighted by their mean gradients."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Array, Float, Int, Key

from jc2i import checks
from jc2i.explainers.cam.layers import LAYER, Layer, activations_and_gradients, finish
from jc2i.query import Cost, explainer


@explainer(cost=lambda shape, options: Cost(forward=1), **LAYER)
def grad_cam(
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
    """Grad-CAM: the activations of a layer, each weighted by the mean of its gradient.

    S(x) = relu(sum over features k of a_k A_k), a_k = mean over cells of dF(x)_c / dA_k (Selvaraju
    et al. 2017, equations (1) and (2); the same in Opti-CAM). Cost: 1 forward evaluation, and 1
    gradient of the part of the model behind the layer.

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
        (activation * gradient.mean(axis=(1, 2), keepdims=True)).sum(axis=-1)
        for activation, gradient in activations_and_gradients(
            model, images, targets, layer, channel_axis, prefix_tokens
        )
    ]
    return finish(maps, images, relu, resize)

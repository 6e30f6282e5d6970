"""NormGrad: how much each cell adds to the gradient of a layer put in there."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Array, Float, Int, Key

from jc2i import checks
from jc2i.explainers.cam.layers import LAYER, Layer, activations_and_gradients, finish
from jc2i.normalization import length
from jc2i.options import OneOf
from jc2i.query import Cost, explainer


@explainer(
    cost=lambda shape, options: Cost(forward=1),
    virtual=OneOf("convolution", "scaling", "bias"),
    **LAYER,
)
def norm_grad(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    layer: Layer = None,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
    virtual: str = "convolution",
    resize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, "batch tall wide"]:
    """NormGrad: how much each cell adds to the weight gradient of an identity put in at the layer.

    Of a layer that changes nothing, put in behind the activation A, the gradient of its weights is
    a sum over cells; S(x) is the norm of each cell's term (Rebuffi et al. 2020, section 3 and table
    1), with g = dF(x)_c / dA: ||A|| ||g|| of a 1x1 convolution, the Frobenius norm of g A^T;
    ||A * g|| of a scale a feature; ||g|| of a bias; the norms are over features. It is never below
    zero, and as large for cells that lower the score. Cost: 1 forward evaluation, and 1 gradient of
    the part of the model behind the layer.

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
      virtual: the layer that is put in: `"convolution"` (1x1), `"scaling"` or `"bias"`.
      resize: whether the map is upsampled to the image's size (bilinear), or stays the layer's.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps, of the image's size or, with `resize=False`, the layer's.

    Raises:
      ValueError: for bad input, naming the argument; for an unknown layer, listing those there are.
    """
    maps = [
        _norms(activation, gradient, virtual)
        for activation, gradient in activations_and_gradients(
            model, images, targets, layer, channel_axis, prefix_tokens
        )
    ]
    return finish(maps, images, False, resize)


def _norms(activation: Array, gradient: Array, virtual: str) -> Array:
    if virtual == "convolution":
        return length(activation, (3,)) * length(gradient, (3,))
    return length(activation * gradient if virtual == "scaling" else gradient, (3,))

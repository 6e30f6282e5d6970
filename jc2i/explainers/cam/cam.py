"""CAM: activations weighted by the last dense layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, scores
from jc2i.explainers.cam.layers import LAYER, Cut, Layer, cuts, finish
from jc2i.query import Cost, explainer
from jc2i.tracing import units

AFFINE = units.SUMS | frozenset(
    """linear affine scale add add_any sub broadcast_in_dim concatenate name reshape squeeze
    transpose""".split()
)
"""Units of which an affine function of the features' means may consist."""


@explainer(cost=lambda shape, options: Cost(forward=1), **LAYER)
def cam(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    layer: Layer = None,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
    relu: bool = False,
    resize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, "batch tall wide"]:
    """CAM: the activations of a layer, each weighted by the last dense layer.

    S(x) = sum over features k of w_kc A_k, w_kc the weight of the mean of feature k in the
    logit of class c (Zhou et al. 2016, equation (2); Opti-CAM, equation (1)), which is the logit's
    gradient, summed over the cells. It is for models with nothing behind the layer but global
    pooling and affine functions, and others are refused; `grad_cam` and `hires_cam` take any.
    What makes probabilities of the logits is not looked at, so that a saturated one loses nothing.
    Cost: 1 forward evaluation, and 1 gradient of the part of the model behind the layer.

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
      ValueError: for bad input, naming the argument; for an unknown layer, listing those there are;
        for a layer with more than global pooling and affine functions behind it.
    """
    found = cuts(model, images, targets, layer, channel_axis, prefix_tokens)
    classes = jax.eval_shape(model, images).shape[1]
    maps = [_weighted(opened, images, targets, classes, layer) for opened in found]
    return finish(maps, images, relu, resize)


def _weighted(
    opened: Cut, images: checks.Array, targets: checks.Array, classes: int, layer: Layer
) -> Array:
    activation = opened.activation
    program = units.read(opened.score, activation, known=None)
    logits = _logits(program, activation, classes)
    if logits is None:
        takes = "one with nothing behind it but global pooling and a dense layer"
        raise checks.invalid("layer", "the default" if layer is None else repr(layer), takes)

    def total(value: Array) -> Array:
        return scores.of_targets(program.value(logits, value), targets).sum()

    wide = jnp.promote_types(activation.dtype, images.dtype)
    weights = jax.grad(total)(activation).astype(wide).sum(axis=(1, 2), keepdims=True)
    return (activation.astype(wide) * weights).sum(axis=-1)


def _logits(program: units.Program, activation: Array, classes: int) -> Any:
    """The last value [batch, classes] that is an affine function of the features' means.

    None where there is none, or where another layer is behind it: then it is a hidden one.
    """
    batch, *_, features = activation.shape
    affine, found, bent = set(program.closed.jaxpr.invars), None, False
    for unit in program.units:
        bent |= unit.kind == "activation" and bool(unit.inputs) and affine.issuperset(unit.inputs)
        if bent and unit.kind == "linear":
            return None
        if unit.kind not in AFFINE or unit.held or not affine.issuperset(unit.inputs):
            continue
        pooled = unit.inputs and unit.inputs[0].aval.size == batch * features
        if unit.kind == "linear" and unit.first and not pooled:
            continue
        affine.update(unit.outputs)
        (output,) = unit.outputs
        behind = unit.kind == "linear" or not unit.first
        if behind and output.aval.shape == (batch, classes):
            found = output
    return found

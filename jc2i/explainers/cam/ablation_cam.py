"""Ablation-CAM: activations weighted by what the score loses without them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, streaming
from jc2i.explainers.cam.layers import LAYER, Cut, Layer, cuts, finish
from jc2i.query import Cost, explainer


@explainer(
    cost=lambda shape, options: Cost(forward=1, behind_a_feature=1),
    depends_on_scores=False,
    **LAYER,
)
def ablation_cam(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    layer: Layer = None,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
    relative: bool = False,
    relu: bool = True,
    resize: bool = True,
    batch_size: int | None = 32,
) -> Float[Array, "batch tall wide"]:
    """Ablation-CAM: the activations of a layer, each weighted by the score's fall without it.

    S(x) = relu(sum over features k of a_k A_k), a_k = y - y_k, where y = F(x)_c and y_k is the
    score with A_k = 0 (Desai and Ramaswamy 2020, equation (4), printed with (y - y_k) / y:
    `relative=True`, which turns the map round where y < 0). Cost: 1 evaluation, and one of the part
    behind the layer a feature; memory is bounded by `batch_size`, not by the number of features.

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
      relative: whether the falls are divided by y, where y is not 0.
      relu: whether the map's negative part is cut off.
      resize: whether the map is upsampled to the image's size (bilinear), or stays the layer's.
      batch_size: most model evaluations in flight; None for one feature of the whole batch.

    Returns:
      Raw saliency maps, of the image's size or, with `resize=False`, the layer's.

    Raises:
      ValueError: for bad input, naming the argument; for an unknown layer, listing those there are.
    """
    chunk = streaming.per_step(images.shape[0], batch_size)

    def weighted(opened: Cut) -> Array:
        features = jnp.arange(opened.activation.shape[-1])

        def ablated(index: Array) -> Array:
            # Index 0 is the whole activation, so that what is behind it is in the program once.
            return opened.score(jnp.where(features == index - 1, 0, opened.activation))

        scores = streaming.collect(jax.vmap(ablated, out_axes=1), 1 + len(features), chunk)
        falls = (scores[:, :1] - scores[:, 1:]).astype(images.dtype)
        whole = scores[:, :1].astype(images.dtype)
        weights = falls / jnp.where(whole == 0, 1, whole) if relative else falls
        return jnp.einsum("bhwk,bk->bhw", opened.activation.astype(images.dtype), weights)

    found = cuts(model, images, targets, layer, channel_axis, prefix_tokens)
    return finish(list(map(weighted, found)), images, relu, resize)

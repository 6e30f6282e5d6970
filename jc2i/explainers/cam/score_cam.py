"""Score-CAM: activations weighted by the score of the image seen through them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, masking, removal, streaming
from jc2i.explainers import upsampling
from jc2i.explainers.cam.layers import LAYER, Cut, Layer, cuts, finish
from jc2i.normalization import normalize
from jc2i.options import Fill
from jc2i.query import Cost, explainer


@explainer(
    cost=lambda shape, options: Cost(forward_a_feature=1),
    depends_on_scores=False,
    baseline=Fill(),
    **LAYER,
)
def score_cam(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    layer: Layer = None,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
    baseline: removal.Baseline = 0.0,
    relu: bool = True,
    resize: bool = True,
    batch_size: int | None = 32,
) -> Float[Array, "batch tall wide"]:
    """Score-CAM: the activations of a layer, each weighted by the score it leaves the image.

    S(x) = relu(sum over features k of a_k A_k), a = softmax over k of F(x * m_k + r (1 - m_k))_c,
    m_k the feature's activation, upsampled (bilinear, pixel centres at half-integers) and min-max
    normalised (Wang et al. 2020, equations (6) to (9); the score of the baseline image cancels in
    the softmax). Cost: 1 evaluation a feature, and 1 of the part in front of the layer; memory is
    bounded by `batch_size`, not by the number of features.

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
      baseline: what a masked pixel becomes: a number, one a channel, an image array, `"blur"`.
      relu: whether the map's negative part is cut off.
      resize: whether the map is upsampled to the image's size (bilinear), or stays the layer's.
      batch_size: most model evaluations in flight; None for one feature of the whole batch.

    Returns:
      Raw saliency maps, of the image's size or, with `resize=False`, the layer's.

    Raises:
      ValueError: for bad input, naming the argument; for an unknown layer, listing those there are.
    """
    fill = removal.fill(images, baseline)[:, None]
    chunk = streaming.per_step(images.shape[0], batch_size)

    def weighted(opened: Cut) -> Array:
        activation = opened.activation.astype(images.dtype)

        def visible_scores(index: Array) -> Array:
            coarse = jnp.moveaxis(jnp.take(activation, index, axis=-1), -1, 1)
            masks = upsampling.bilinear(coarse.reshape(-1, *coarse.shape[2:]), *images.shape[1:3])
            masks = normalize(masks).reshape(*coarse.shape[:2], *images.shape[1:3], 1)
            seen = masking.blend(images[:, None], masks, fill)
            return masking.variant_scores(model, seen, targets)

        scores = streaming.collect(visible_scores, activation.shape[-1], chunk)
        return jnp.einsum("bhwk,bk->bhw", activation, jax.nn.softmax(scores, axis=1))

    found = cuts(model, images, targets, layer, channel_axis, prefix_tokens)
    return finish(list(map(weighted, found)), images, relu, resize)

"""Raw attention: what a block's class token looks at."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, taps
from jc2i.explainers.attention import maps
from jc2i.options import Maybe, OneOf, Text
from jc2i.query import Cost, explainer


@explainer(
    cost=lambda shape, options: Cost(forward=1),
    depends_on_scores=False,
    layer=Maybe(Text()),
    fusion=OneOf(*maps.FUSIONS),
    **maps.TOKENS,
)
def raw_attention(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    layer: str | None = None,
    fusion: str = "mean",
    token: str | None = None,
    prefix_tokens: int | None = None,
    resize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, "batch tall wide"]:
    """Raw attention: the class token's row of an attention map, fused over its heads.

    S(x)_j = mean over heads h of A^h_(class, j), A = softmax(Q K^T / sqrt(d)) of the last block
    (Dosovitskiy et al. 2021; Opti-CAM section 4.4). It sees no score: whatever the target or the
    calibration, the map is the same. Cost: 1 forward evaluation up to the block.

    Args:
      model: callable pytree, images -> scores[batch, classes], with named attention maps.
      images: images, in [0, 1] unless the model says otherwise.
      targets: not used, but checked: the map is the same for every class.
      key: not used: the method is deterministic.
      layer: name of an activation [batch, heads, tokens, tokens] (`jc2i.taps.names`); None for the
        last of this shape that is named so ("attention", "attn").
      fusion: of the heads: `"mean"`, `"max"` or `"min"`.
      token: `"class"` for the first token's row, `"mean"` for the mean of the patches' rows; None
        for the class token's where there is one.
      prefix_tokens: how many tokens come before the patches (class token, registers), from 0; None
        where arithmetic tells, up to 16.
      resize: whether the map is upsampled to the image's size (bilinear), or stays the patches'.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps, of the image's size or, with `resize=False`, a value a patch.

    Raises:
      ValueError: for bad input, naming the argument; for an unknown layer, listing those there are.
    """
    chosen = maps.names(model, images, layer)[-1:]
    places = maps.grid(model, images, chosen, prefix_tokens)
    (attention,) = taps.capture(model, images, chosen)
    dtype = jnp.promote_types(attention.dtype, images.dtype)
    fused = maps.FUSIONS[fusion](attention.astype(dtype), axis=1)
    row = maps.product(maps.start(token, places, dtype), [fused])
    return maps.finish(row, places, images, resize)

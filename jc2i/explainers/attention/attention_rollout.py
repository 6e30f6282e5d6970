"""Attention rollout: attention through all blocks."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, taps
from jc2i.explainers.attention import maps
from jc2i.options import Maybe, Number, OneOf, Scalar, Text
from jc2i.query import Cost, explainer


@explainer(
    cost=lambda shape, options: Cost(forward=1),
    depends_on_scores=False,
    layer=Maybe(Text(several=True)),
    fusion=OneOf(*maps.FUSIONS),
    residual=Number(least=0, takes="a number of at least 0"),
    discard_ratio=Number(least=0, most=1, takes="a fraction of 0 to 1"),
    **maps.TOKENS,
)
def attention_rollout(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    layer: str | tuple[str, ...] | None = None,
    fusion: str = "mean",
    residual: Scalar = 1.0,
    discard_ratio: Scalar = 0.0,
    token: str | None = None,
    prefix_tokens: int | None = None,
    resize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, "batch tall wide"]:
    """Attention rollout: how much of each patch the class token holds behind all blocks.

    S(x) = the class token's row of A_L ... A_2 A_1, A_l = (mean over heads of the attention of
    block l) + I, its rows normalised to 1 (Abnar and Zuidema 2020, equation (1), where the sum is
    0.5 W + 0.5 I). It sees no score: whatever the target or the calibration, the map is the same.
    Cost: 1 forward evaluation.

    Args:
      model: callable pytree, images -> scores[batch, classes], with named attention maps.
      images: images, in [0, 1] unless the model says otherwise.
      targets: not used, but checked: the map is the same for every class.
      key: not used: the method is deterministic.
      layer: names of activations [batch, heads, tokens, tokens] (`jc2i.taps.names`); None for all
        of this shape that are named so ("attention", "attn"), in order of execution.
      fusion: of the heads: `"mean"`, `"max"` or `"min"`.
      residual: how much of I is added for the way around the attention, at least 0.
      discard_ratio: which part of a fused attention map, its lowest values, is set to 0 before I is
        added, 0 to 1 (Gildenblat's vit-explain, which spares the class token's own).
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

    def rolled(attention: Array) -> Array:
        """A_l of a block."""
        fused = maps.FUSIONS[fusion](attention.astype(dtype), axis=1)
        kept = _without_lowest(fused, discard_ratio)
        kept = kept + jnp.asarray(residual, dtype) * jnp.eye(kept.shape[-1], dtype=dtype)[None]
        total = kept.sum(axis=-1, keepdims=True)
        return kept / jnp.where(total > 0, total, 1)

    chosen = maps.names(model, images, layer)
    places = maps.grid(model, images, chosen, prefix_tokens)
    attentions = taps.capture(model, images, chosen)
    dtype = jnp.promote_types(attentions[0].dtype, images.dtype)
    row = maps.product(maps.start(token, places, dtype), [rolled(a) for a in attentions])
    return maps.finish(row, places, images, resize)


def _without_lowest(
    fused: Float[Array, "batch tokens tokens"], ratio: Scalar
) -> Float[Array, "batch tokens tokens"]:
    """The part `ratio` of each map's values that are its lowest, rounded down, set to 0."""

    def discarded(fused: Array) -> Array:
        flat = fused.reshape(fused.shape[0], -1)
        rank = jnp.argsort(jnp.argsort(flat, axis=1), axis=1)
        count = jnp.floor(ratio * flat.shape[1]).astype(rank.dtype)
        return jnp.where(rank < count, 0, flat).reshape(fused.shape)

    # Sorting tokens^2 values takes long, and nothing is discarded unless asked for.
    return jax.lax.cond(jnp.asarray(ratio) > 0, discarded, lambda fused: fused, fused)

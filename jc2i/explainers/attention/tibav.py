"""TIBAV: attention maps by their relevance and their gradient, through all blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, tracing
from jc2i.explainers.attention import maps
from jc2i.explainers.attention.relevance import arriving_at, chefer
from jc2i.explainers.propagation.relevance import LINEAR, Settings, table
from jc2i.options import Maybe, Number, OneOf, Scalar, Text
from jc2i.query import Cost, explainer
from jc2i.tracing import units

RULES = ("chefer", *(name for name in LINEAR if name != "z_box"))
"""What `rule` takes: no map behind attention has inputs in a known range."""


@explainer(
    cost=lambda shape, options: Cost(gradient=2),
    layer=Maybe(Text(several=True)),
    rule=OneOf(*RULES),
    epsilon=Number(least=0, takes="a number of at least 0"),
    **maps.TOKENS,
)
def tibav(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    layer: str | tuple[str, ...] | None = None,
    rule: str = "chefer",
    epsilon: Scalar = 1e-9,
    token: str | None = None,
    prefix_tokens: int | None = None,
    resize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, "batch tall wide"]:
    """Transformer interpretability beyond attention visualization (TIBAV).

    S(x) = the class token's row of C_L ... C_2 C_1, C_l = I + mean over heads of (dF(x)_c / dA_l *
    R_l)^+, A_l the attention of block l and R_l the relevance that arrives at it from a 1 at the
    target's score (Chefer, Gur and Wolf 2021, section 3.3); the C_l are not normalised. Relevance
    follows the paper's rules (sections 3.1 and 3.2): z+ without biases for linear maps, halves for
    a product of two parts, a residual in proportion to the two parts' sums; all passes a softmax,
    an activation and a layer norm as it is. Sums over a residual are over one image, as in the
    released code, which takes one. Cost: 2 gradient evaluations of what is behind the first map.

    Args:
      model: callable pytree, images -> scores[batch, classes], with named attention maps;
        `jc2i.logits`, as published, or another score, which changes the gradient alone.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      layer: names of activations [batch, heads, tokens, tokens] (`jc2i.taps.names`); None for all
        of this shape that are named so ("attention", "attn"), in order of execution.
      rule: of relevance: `"chefer"`, as published, or a rule of linear maps of
        `jc2i.explainers.lrp`, all others being its own (Achtibat et al. 2024, AttnLRP).
      epsilon: added to every denominator with the denominator's sign, at least 0.
      token: `"class"` for the first token's row, `"mean"` for the mean of the patches' rows; None
        for the class token's where there is one.
      prefix_tokens: how many tokens come before the patches (class token, registers), from 0; None
        where arithmetic tells, up to 16.
      resize: whether the map is upsampled to the image's size (bilinear), or stays the patches'.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps, of the image's size or, with `resize=False`, a value a patch.

    Raises:
      ValueError: for bad input, naming the argument; for an unknown layer, listing those there are;
        for a model with an operation that no rule is known for, naming it and its line.
    """
    one = images[:1]
    chosen = maps.names(model, one, layer)
    places = maps.grid(model, one, chosen, prefix_tokens)

    published = rule == "chefer"
    settings = Settings(epsilon, False, 0.25, 2.0, not published, _no_bounds)
    rules = chefer(settings) if published else table(lambda unit, layer: rule, settings)
    written = tracing.as_written(model)
    by_rules = units.read(
        written,
        one,
        method="tibav",
        normalisations_held=True,
        known=units.KNOWN | rules.keys(),
    )
    by_gradients = units.read(
        written, one, whole=("custom_jvp_call", "custom_vjp_call"), known=None
    )

    def matrices(image: checks.Array, target: checks.Array) -> list[Array]:
        """The C_l of one image."""
        image = jnp.asarray(image)[None]
        scores = jax.eval_shape(written, image)
        start = jax.nn.one_hot(target[None], scores.shape[1], dtype=scores.dtype)
        relevances = arriving_at(chosen, by_rules, rules, image, start)
        gradients = arriving_at(chosen, by_gradients, {}, image, start)
        return [_matrix(*both, images.dtype) for both in zip(relevances, gradients, strict=True)]

    # Image by image: the rule of residuals sums over all that is of one image.
    found = jax.vmap(matrices)(images, targets)
    row = maps.product(maps.start(token, places, found[0].dtype), found)
    return maps.finish(row, places, images, resize)


def _matrix(relevance: Array, gradient: Array, dtype: Any) -> Float[Array, "tokens tokens"]:
    """I + mean over heads of (gradient * relevance)^+, of one image."""
    wide = jnp.promote_types(relevance.dtype, dtype)
    products = jax.nn.relu(relevance.astype(wide) * gradient.astype(wide))[0].mean(axis=0)
    return jnp.eye(products.shape[0], dtype=wide) + products


def _no_bounds(unit: units.Unit) -> tuple[Array, Array]:
    raise AssertionError("z_box is no choice of rule")

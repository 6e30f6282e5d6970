"""Layer-wise relevance propagation: a score shared out among the pixels, layer by layer."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, scores, tracing
from jc2i.explainers.gradients.input_gradient import CHANNELS, reduce_channels
from jc2i.explainers.propagation.relevance import LINEAR, Settings, table
from jc2i.options import Maybe, Number, OneOf, Scalar
from jc2i.query import Cost, explainer
from jc2i.tracing import units
from jc2i.tracing.linear import Linear

COMPOSITES: dict[str, dict[str, str]] = {
    "epsilon_plus": {"convolution": "z_plus", "dense": "epsilon"},
    "epsilon_plus_flat": {"first": "flat", "convolution": "z_plus", "dense": "epsilon"},
    "epsilon_alpha2_beta1": {"convolution": "alpha_beta", "dense": "epsilon"},
    "epsilon_alpha2_beta1_flat": {
        "first": "flat",
        "convolution": "alpha_beta",
        "dense": "epsilon",
    },
    "epsilon_gamma_box": {"first": "z_box", "convolution": "gamma", "dense": "epsilon"},
}
"""Rules by place and kind of a linear map, as zennit's composites of these names."""


@explainer(
    cost=lambda shape, options: Cost(gradient=1),
    rule=OneOf(*LINEAR),
    composite=Maybe(OneOf(*COMPOSITES)),
    epsilon=Number(least=0, takes="a number of at least 0"),
    gamma=Number(least=0, takes="a number of at least 0"),
    alpha=Number(least=1, takes="a number of at least 1"),
    start=OneOf("score", "one"),
    channels=CHANNELS,
)
def lrp(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    rule: str = "epsilon",
    composite: str | None = None,
    epsilon: Scalar = 1e-6,
    relative: bool = False,
    gamma: Scalar = 0.25,
    alpha: Scalar = 2.0,
    bias: bool = True,
    low: Scalar = 0.0,
    high: Scalar = 1.0,
    start: str = "score",
    channels: str | None = "sum",
    batch_size: int | None = None,
) -> Float[Array, "batch height width *channel"]:
    """Layer-wise relevance propagation: the target's score, shared out layer by layer.

    R_j = sum_k a_j w_jk / (epsilon + sum_j' a_j' w_j'k) R_k (C2I supplement, equations (5), (6);
    Bach et al. 2015), from the scores back to the pixels, on any model, however it is written. A
    convolution and the normalisation behind it count as one linear map; activations pass relevance
    on; a sum shares it in proportion, a product of two parts in halves; in a pooling the maximum
    takes all; softmax, products and normalisations of transformers follow Achtibat et al. 2024
    (AttnLRP). Cost: about 1 gradient evaluation for `"epsilon"`, 2 to 4 for the other rules.

    Args:
      model: callable pytree, images -> scores[batch, classes]; `jc2i.logits`, unless the rule for a
        softmax is wanted too.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      rule: of every linear map: `"epsilon"`, `"z_plus"`, `"alpha_beta"`, `"gamma"` (Montavon et al.
        2019; generalised as in zennit to inputs of both signs), `"w_square"`, `"flat"`, `"z_box"`.
      composite: rules by place and kind in place of `rule`: `"epsilon_plus"`,
        `"epsilon_plus_flat"`, `"epsilon_alpha2_beta1"`, `"epsilon_alpha2_beta1_flat"`,
        `"epsilon_gamma_box"` (Montavon et al. 2019; the names are zennit's).
      epsilon: added to every denominator with the denominator's sign, at least 0.
      relative: whether `epsilon` is a fraction of the layer's root mean square over its features.
      gamma: how much supporting weights are favoured by `"gamma"`, at least 0.
      alpha: of `"alpha_beta"`, at least 1; beta is alpha - 1.
      bias: whether a bias takes its share of relevance, which is then missing in the sum over the
        pixels; otherwise it is left out of the denominators.
      low: least value of a pixel, for `"z_box"`.
      high: largest value of a pixel, for `"z_box"`.
      start: relevance of the target's output: `"score"`, its value, or `"one"`.
      channels: `"abs_sum"`, `"sum"`, `"max_abs"`, or None for one value a channel.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument; for a model with an operation that no rule is
        known for, naming it and its line.
    """

    def bounds(unit: units.Unit) -> tuple[Array, Array]:
        takes = "a rule of a first linear map (composite=), whose inputs are in a known range"
        checks.require(unit.first, "rule", "z_box for a map behind others", takes)
        ends = [
            program.value(unit.inputs[0], jnp.full_like(images, 1) * jnp.asarray(end, images.dtype))
            for end in (low, high)
        ]
        return jnp.minimum(*ends), jnp.maximum(*ends)

    def rule_of(unit: units.Unit, layer: Linear) -> str:
        if composite is None:
            return rule
        rules = COMPOSITES[composite]
        if unit.first and "first" in rules:
            return rules["first"]
        return rules["convolution" if layer.is_convolution else "dense"]

    rules = table(rule_of, Settings(epsilon, relative, gamma, alpha, bias, bounds))
    program = units.read(
        tracing.as_written(model),
        images,
        method="lrp",
        normalisations_held=True,
        known=units.KNOWN | rules.keys(),
    )
    found, back = jax.vjp(lambda images: program.evaluate(rules, images), images)
    chosen = jnp.arange(found.shape[1])[None] == targets[:, None]
    start_at = scores.bounded(found) if start == "score" else 1
    (relevance,) = back(jnp.where(chosen, start_at, 0).astype(found.dtype))
    return reduce_channels(relevance, channels)

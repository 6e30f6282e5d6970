"""DeepLIFT: the score's difference from a reference's, shared out among the pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, scores, streaming, tracing
from jc2i.explainers.gradients.input_gradient import CHANNELS, reduce_channels
from jc2i.explainers.gradients.integrated_gradients import References, number_of
from jc2i.explainers.propagation.multipliers import table
from jc2i.options import OneOf
from jc2i.query import Cost, explainer
from jc2i.tracing import units


@explainer(
    cost=lambda shape, options: Cost(gradient=2 * number_of(options["reference"])),
    reference=References(),
    rule=OneOf("rescale", "reveal_cancel"),
    channels=CHANNELS,
)
def deeplift(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    reference: tuple | str | float | checks.Array = "black",
    rule: str = "rescale",
    channels: str | None = "sum",
    return_error: bool = False,
    batch_size: int | None = None,
) -> Any:
    """DeepLIFT: the difference of the target's score from a reference's, shared out by differences.

    S(x)_i = m_i (x_i - r_i), sum_i S(x)_i = F(x)_c - F(r)_c, where the multiplier m of an
    activation is (y - y_r) / (x - x_r) (Shrikumar et al. 2017, the rescale rule), of a linear map
    its weights, of a product of two parts the mean of the other part; several references are
    averaged (DeepSHAP, Lundberg and Lee 2017). The scores should be logits: those of one class
    among many probabilities differ from the reference's mostly by the others'. Cost: the image
    and a reference forward, one of them back: below 2 gradient evaluations a reference.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      reference: `"black"` (0), `"white"` (1), a number, a tuple of one number a channel, an array
        that fits one image, or a tuple of words and arrays, over which the maps are averaged.
      rule: `"rescale"`, or `"reveal_cancel"` for activations right behind a linear map: positive
        and negative contributions each with a multiplier of their own (section 3.5.2).
      channels: `"abs_sum"`, `"sum"`, `"max_abs"`, or None for one value a channel.
      return_error: whether (maps, error) is returned, the error of completeness of each image:
        sum_i S(x)_i - (F(x)_c - F(r)_c), averaged over the references.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument; for a model with an operation that no rule is
        known for, naming it and its line.
    """
    known = units.KNOWN | table(False).keys()
    program = units.read(tracing.as_written(model), images, method="deeplift", known=known)
    references = jnp.asarray(reference)

    def add(state: tuple, index: Array, counted: Array) -> tuple:
        maps, errors = state
        start = jnp.broadcast_to(references[index[0]], images.shape).astype(images.dtype)
        rules = table(rule == "reveal_cancel")

        def evaluate(lanes: Array) -> Array:
            values = program.evaluate(rules, lanes)
            # Scores that do not depend on the image have no lanes.
            return jnp.broadcast_to(values, (2, *values.shape[-2:]))

        values, back = jax.vjp(evaluate, jnp.stack([images, start]))
        chosen = jnp.arange(values.shape[2])[None] == targets[:, None]
        lanes = jnp.stack([chosen, jnp.zeros_like(chosen)]).astype(values.dtype)
        contribution = back(lanes)[0][0] * (images - start)
        change = scores.of_targets(values[0] - values[1], targets).astype(images.dtype)
        error = contribution.sum(axis=(1, 2, 3)) - change
        return maps + contribution, errors + error

    first = (jnp.zeros_like(images), jnp.zeros(len(images), images.dtype))
    maps, errors = streaming.fold(add, first, len(references), 1)
    maps = reduce_channels(maps / len(references), channels)
    return (maps, errors / len(references)) if return_error else maps

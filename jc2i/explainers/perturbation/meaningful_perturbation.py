"""Meaningful Perturbation: the smallest smooth mask that makes the score drop, by optimisation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, masking, removal, scores, streaming
from jc2i.explainers import upsampling
from jc2i.options import Fill, Maybe, Number, OneOf, Scalar, Whole
from jc2i.query import Cost, explainer


@explainer(
    cost=lambda shape, options: Cost(gradient=options["steps"]),
    learning_rate=Number(above=0, takes="a number above 0"),
    area_subgradient=Number(least=0, most=1, takes="a number in [0, 1]"),
    tv_power=Number(least=1, takes="a number of at least 1"),
    mask_size=Maybe(Whole()),
    reduction=OneOf("mean", "sum"),
    baseline=Fill(),
)
def meaningful_perturbation(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    steps: int = 600,
    learning_rate: Scalar = 0.1,
    area_weight: Scalar = 0.1,
    area_subgradient: Scalar = 0.0,
    tv_weight: Scalar = 0.4,
    tv_power: Scalar = 1.0,
    mask_size: int | None = 28,
    reduction: str = "mean",
    baseline: removal.Baseline = "blur",
    batch_size: int | None = None,
) -> Float[Array, "batch height width"]:
    """Meaningful Perturbation: 1 - m for the mask m that deletes the target's evidence.

    min over m in [0, 1] of a |1 - m|_1 + b TV(m) + F(x m + r (1 - m))_c, by Adam with projection
    onto [0, 1] after each step (C2I supplement, equation (8), section 4.2; Fong and Vedaldi 2017).
    As printed: `mask_size=None, reduction="sum", baseline=0.0`. The defaults depart from it: a
    coarse mask upsampled bilinearly, norms as means, so that weights do not depend on size, and
    removal by blur. Fong's released code: `tv_power=3, tv_weight=1`, and as baseline
    `jc2i.removal.gaussian_blur(images, 11, 2.0)`. Cost: `steps` gradient evaluations; memory does
    not grow with them.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic (the mask starts at 1).
      steps: Adam steps, at least 1.
      learning_rate: Adam's learning rate, above 0.
      area_weight: weight of |1 - m|.
      area_subgradient: slope of |1 - m| towards smaller m where m = 1, in [0, 1]. 0 is what
        automatic differentiation in PyTorch takes, and so the released code: from m = 1 any slope
        of the score, however small, moves the mask by Adam's full step. 1 is the slope inside
        [0, 1]: a pixel is removed only where that lowers the score by more than its area costs,
        and the map of a saturated score is zero. It decides what calibration does to these maps:
        say which was used.
      tv_weight: weight of the total variation.
      tv_power: exponent of the steps between neighbouring mask values in the total variation, at
        least 1 (below, the gradient of equal neighbours is infinite).
      mask_size: side of the square mask, cut to the image's shorter side; None: the image's size.
      reduction: `"mean"` or `"sum"` over mask values (total variation: over each direction).
      baseline: what a removed pixel becomes: a number, one a channel, an image array, `"blur"`.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps in [0, 1].

    Raises:
      ValueError: for bad input, naming the argument.
    """
    batch, height, width, _ = images.shape
    rows, columns = mask_shape(mask_size, height, width)
    fill = removal.fill(images, baseline)
    reduce = functools.partial(jnp.mean if reduction == "mean" else jnp.sum, axis=(1, 2))

    def upsample(mask: Array) -> Array:
        return upsampling.bilinear(mask, height, width)

    def variation(steps: Array) -> Array:
        # Not jnp.abs: its gradient at 0 is 1, which would push a flat mask to one side.
        size = steps * jnp.sign(steps)
        return reduce(size**tv_power)

    def loss(mask: Array) -> Array:
        keep = upsample(mask)[..., None]
        score = scores.of_targets(model(masking.blend(images, keep, fill)), targets)
        total_variation = variation(jnp.diff(mask, axis=1)) + variation(jnp.diff(mask, axis=2))
        # |1 - m|, as m never leaves [0, 1].
        area = reduce((1 - mask) * jnp.where(mask < 1, 1, area_subgradient))
        return (score + area_weight * area + tv_weight * total_variation).sum()

    import optax  # whose parts take a second to load

    optimizer = optax.adam(jnp.asarray(learning_rate))

    def step(state: tuple[Array, Any], _: None) -> tuple[tuple, None]:
        mask, moments = state
        gradient = jax.grad(loss)(mask)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to its whole step count
            updates, moments = optimizer.update(gradient, moments)
        mask = optax.projections.projection_box(optax.apply_updates(mask, updates), 0.0, 1.0)
        return (mask, moments), None

    mask = jnp.ones((batch, rows, columns), images.dtype)
    (mask, _), _ = streaming.scan(step, (mask, optimizer.init(mask)), None, steps)
    return 1 - upsample(mask)


def mask_shape(mask_size: int | None, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the optimised mask of an image."""
    if mask_size is None:
        return height, width
    side = min(mask_size, height, width)
    return side, side

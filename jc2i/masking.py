"""Images with pixels blended away, and the scores of many variants of each image."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jc2i import checks, scores


def blend(
    images: Float[checks.Array, "*#axes"],
    keep: Float[Array, "*#axes"],
    fill: Float[Array, "*#axes"],
) -> Float[Array, ...]:
    """X m + r (1 - m): the images where the mask is 1, what fills them where it is 0.

    Args:
      images: the images x.
      keep: the masks m, in [0, 1].
      fill: what removed pixels become, r (`jc2i.removal.fill`).

    Returns:
      The masked images.
    """
    return keep * images + fill * (1 - keep)


def variant_scores(
    model: Callable,
    variants: Float[Array, "batch chunk height width channel"],
    targets: Int[checks.Array, " batch"],
) -> Float[Array, "batch chunk"]:
    """The target's score of several variants of each image, as one batch of model evaluations.

    Args:
      model: images -> scores[batch, classes].
      variants: of each image as many.
      targets: class whose score is taken, one an image.

    Returns:
      One score a variant, in float32 at least.
    """
    batch, chunk = variants.shape[:2]
    values = model(variants.reshape(batch * chunk, *variants.shape[2:]))
    chosen = scores.of_targets(values, jnp.repeat(targets, chunk)).reshape(batch, chunk)
    return chosen.astype(jnp.promote_types(chosen.dtype, variants.dtype))

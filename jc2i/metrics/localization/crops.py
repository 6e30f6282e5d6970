"""Whether a model still knows an image that was cropped to what a map outlines."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jc2i import checks, masking
from jc2i.metrics.localization.boxes import areas
from jc2i.metrics.localization.overlap import predicted_edges
from jc2i.metrics.localization.scorable import scorable
from jc2i.options import Maps
from jc2i.query import Cost, metric

LEAST_AREA = 0.05
"""The area below which a smaller crop counts no more."""


@metric(cost=lambda shape, options: Cost(forward=1), depends_on_scores=False, maps=Maps())
def saliency_metric(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    maps: Float[checks.Array, "batch height width"],
) -> Float[Array, " batch"]:
    """Saliency metric: how small a crop of the image the map finds, and how well it is known.

    ln max(.05, a) - ln p, with a the area, as a fraction of the image, of the `predicted_box` of
    the map, and p the target's probability for the image cropped to that box and resized back,
    bilinearly (Dabkowski and Gal 2017; Opti-CAM B.7, whose table A.7 is of crops too). Lower is
    better. No ground-truth box has a part in it. Cost: 1 evaluation.

    Args:
      model: callable pytree, images -> probabilities[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose probability is taken, one an image: the ground truth.
      maps: saliency maps of any range.
      key: not used.
      batch_size: most model evaluations in flight; None for the whole batch.

    Returns:
      One value an image, at least ln .05; NaN for a map that is constant or not finite, and for a
      score below 0, which is no probability. One that underflows to 0 counts as the least normal
      float.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    height, width = images.shape[1:3]
    values, counted = scorable(jnp.asarray(maps))
    edges = predicted_edges(values)
    rows = _interpolation(edges[:, 0], edges[:, 2], height, images.dtype)
    columns = _interpolation(edges[:, 1], edges[:, 3], width, images.dtype)
    crops = jnp.einsum("bih,bhwc,bjw->bijc", rows, images, columns, precision="highest")
    score = masking.variant_scores(model, crops[:, None], targets)[:, 0]
    counted &= score >= 0
    probability = jnp.maximum(score, jnp.finfo(score.dtype).tiny)
    area = areas(edges).astype(score.dtype) / (height * width)
    value = jnp.log(jnp.maximum(area, LEAST_AREA)) - jnp.log(probability)
    return jnp.where(counted, value, jnp.nan)


def _interpolation(start: Array, stop: Array, length: int, dtype: jnp.dtype) -> Array:
    """Weights [batch, length, length] that stretch pixels start to stop over all, bilinearly."""
    start, stop = (edge.astype(dtype)[:, None] for edge in (start, stop))
    pixels = jnp.arange(length, dtype=dtype)[None]
    place = start + (pixels + 0.5) * (stop - start) / length - 0.5
    # Beyond the centre of an outermost pixel there is nothing but that pixel.
    place = jnp.clip(place, start, jnp.maximum(stop - 1, start))
    return jnp.maximum(1 - jnp.abs(place[:, :, None] - pixels[:, None]), 0)

"""LIME: a linear model of an image's regions, fitted to the scores of random subsets of them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, removal, streaming
from jc2i.explainers.surrogate import least_squares
from jc2i.explainers.surrogate.regions import HiddenBy, masked_scores, regions_of
from jc2i.options import Maybe, Number, Scalar, Whole
from jc2i.query import Cost, explainer
from jc2i.segments import SEGMENTS


@explainer(
    cost=lambda shape, options: Cost(forward=options["samples"]),
    stochastic=True,
    depends_on_scores=False,
    segments=Maybe(SEGMENTS),
    regions=Maybe(Whole(bounded=False, most=4096)),
    keep=Number(above=0, most=1, takes="a probability in (0, 1]"),
    kernel_width=Number(above=0, takes="a number above 0"),
    ridge=Number(least=0, takes="a number of at least 0"),
    baseline=HiddenBy(),
)
def lime(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    segments: Int[checks.Array, "batch height width"] | None = None,
    samples: int = 1000,
    grid: int = 7,
    regions: int | None = None,
    keep: Scalar = 0.5,
    kernel_width: Scalar = 0.25,
    ridge: Scalar = 1.0,
    baseline: removal.Baseline = "mean",
    batch_size: int | None = 32,
) -> Float[Array, "batch height width"]:
    """LIME: the weights of a linear model of the score in an image's regions, near the image.

    S(x) = w of each pixel's region, for the w (and intercept b) that minimise sum_j pi_j (F(x with
    the regions of z_j visible)_c - b - w^T z_j)^2 + ridge |w|^2 (Ribeiro et al. 2016, equation
    (2) with a squared penalty, as in their code): z_0 shows all regions, each other shows each with
    probability `keep`; pi_j = exp(-d_j^2 / (2 kernel_width^2)) for the cosine distance d_j = 1 -
    sqrt(fraction of regions visible). The paper prints exp(-d^2 / kernel_width^2); this is the
    square root of that, as in their code. Cost: `samples` evaluations; memory does not grow with
    them, but with the square of the number of regions.

    Args:
      model: callable pytree, images -> scores[batch, classes]; usually probabilities.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: one key, or one for each image; required. Sample j of an image depends on its key and j.
      segments: region of each pixel, as from `jc2i.metrics.superpixels(images)`: any integers,
        equal within one; None for the cells of a grid.
      samples: masked images, the whole one among them, at least 1.
      grid: rows and columns of cells without `segments`, at most the image's shorter side.
      regions: most regions of an image; None for the grid's cells, or 128 with `segments`.
      keep: probability that a region stays visible, in (0, 1].
      kernel_width: width of the weights' kernel, in cosine distance, above 0.
      ridge: penalty on squared weights, at least 0; the scores' scale matters to it.
      baseline: what a hidden pixel becomes: `"mean"` (its region's mean colour), a number, one a
        channel, an image array, `"blur"`.
      batch_size: most model evaluations in flight; None for one sample of the whole batch.

    Returns:
      Raw saliency maps, constant within a region; NaN for an image of more regions than `regions`.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    assert key is not None  # the decorator refuses that
    where = regions_of(images, segments, grid, regions)
    used, number = where.used, where.number.astype(images.dtype)

    def draw(key: Array, index: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, index), (where.room,), np.float32)

    def sample(index: Array) -> tuple[Array, Array]:
        uniform = streaming.each(lambda key: streaming.each(lambda j: draw(key, j), index), key)
        shown = ((uniform < keep) | (index == 0)[None, :, None]) & used[:, None]
        fraction = shown.sum(axis=-1).astype(images.dtype) / number[:, None]
        distance = 1 - jnp.sqrt(fraction)
        return shown, jnp.exp(-((distance / kernel_width) ** 2) / 2)

    scores = masked_scores(model, images, targets, where, baseline)
    start = jnp.zeros(used.shape, images.dtype)
    chunk = streaming.per_step(len(images), batch_size)
    sums = least_squares.sums(scores, sample, samples, chunk, start)
    # The intercept takes no penalty: regions and scores about their weighted means.
    mean = sums.regions / sums.weight[:, None]
    matrix = sums.pairs - sums.regions[:, :, None] * mean[:, None, :]
    vector = sums.regions_change - mean * sums.change[:, None]
    return where.painted(least_squares.solve(matrix, vector, ridge))

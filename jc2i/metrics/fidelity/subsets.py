"""Whether what a map gives a set of pixels is what the score loses without them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jc2i import checks, masking, removal, streaming
from jc2i.metrics.similarity import pearson, spearman
from jc2i.normalization import lift, normalize
from jc2i.options import Fill, Maps, Maybe, Number, OneOf, Scalar, Whole
from jc2i.query import Cost, metric


@metric(
    cost=lambda shape, options: Cost(forward=options["subsets"]),
    stochastic=True,
    depends_on_scores=False,
    baseline=Fill(),
    correlation=OneOf("pearson", "spearman"),
    draw=OneOf("exact", "bernoulli"),
    grid=Maybe(Whole()),
    maps=Maps(),
    share=Number(above=0, most=1, takes="a part of the pixels in (0, 1]"),
)
def mu_fidelity(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    maps: Float[checks.Array, "batch height width"],
    *,
    key: Key[Array, "*batch"] | None = None,
    subsets: int = 200,
    share: Scalar = 0.15,
    grid: int | None = None,
    draw: str = "exact",
    correlation: str = "pearson",
    baseline: removal.Baseline = 0.0,
    batch_size: int | None = None,
) -> Float[Array, " batch"]:
    """Mu-fidelity: how the map's sum over random pixels goes with what the score loses there.

    Corr over subsets S of (sum of the map over S, F(x)_c - F(x with S replaced)_c), MeGe (8) (Bhatt
    et al. 2020). The paper's: Pearson, S exactly 15 % of the pixels, replaced by 0; it does not say
    how many subsets. The authors' library: `correlation="spearman", draw="bernoulli", grid=9,
    share=0.2`, on 200. F(x)_c is the same for all subsets, so that no correlation depends on it.
    Cost: `subsets` evaluations; memory does not grow with them.

    On a linear model with exact subsets it is, but for the draw, Pearson's correlation of the map
    and the products of weight and pixel. Where subsets differ in size (`"bernoulli"`) so does
    their sum under any positive map, which alone correlates with the loss: a constant map does not
    score 0 there.

    Args:
      model: callable pytree, images -> scores[batch, classes]; logits in the paper.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is followed, one an image.
      maps: saliency maps.
      key: one key, or one for each image; required.
      subsets: subsets of each image; two at least for a correlation.
      share: the part of the pixels that is replaced, or of the cells, in (0, 1].
      grid: cells a side of a grid of which whole cells are replaced, at most the image's shorter
        side; None for single pixels.
      draw: `"exact"`, as near `share` of the pixels or cells as there are whole ones, one at least;
        `"bernoulli"`, each with that probability.
      correlation: `"pearson"` or `"spearman"`.
      baseline: what a removed pixel becomes: as in `deletion_curve`.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      One correlation an image in [-1, 1]; 0 where no subset differs from another in the map's sum
      or in the score: of a constant map, for instance, with exact subsets of pixels; NaN where a
      map is not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    assert key is not None  # the decorator refuses that
    batch, height, width, _ = images.shape
    if grid is not None:
        takes = f"at most the image's shorter side, {min(height, width)} pixels"
        checks.require(grid <= min(height, width), "grid", grid, takes)
    rows, columns = (height, width) if grid is None else (grid, grid)
    row, column = _cells(height, rows), _cells(width, columns)
    fill = removal.fill(images, baseline)
    # Neither changes a correlation: a unit that no sum over- or underflows in, and, where all
    # subsets are of one size, a zero at the least value: of a constant map no rounding is left.
    values = normalize(maps) if draw == "exact" and grid is None else _scaled(maps)

    def subset(key: Array, index: Array) -> Bool[Array, "height width"]:
        drawn = _drawn(jax.random.fold_in(key, index), rows * columns, share, draw == "exact")
        return drawn.reshape(rows, columns)[row[:, None], column[None]]

    def evaluated(index: Array) -> Float[Array, "batch chunk 2"]:
        drawn = streaming.each(lambda key: streaming.each(lambda i: subset(key, i), index), key)
        removed = drawn.astype(values.dtype)
        sums = jnp.einsum("bchw,bhw->bc", removed, values, precision="highest")
        keep = (1 - removed)[..., None].astype(images.dtype)
        variants = masking.blend(images[:, None], keep, jnp.expand_dims(fill, 1))
        lost = -masking.variant_scores(model, variants, targets)
        return jnp.stack([sums.astype(lost.dtype), lost], axis=2)

    pairs = streaming.collect(evaluated, subsets, streaming.per_step(batch, batch_size))
    correlate = pearson if correlation == "pearson" else spearman
    return correlate(pairs[:, None, :, 0], pairs[:, None, :, 1])


def _cells(side: int, cells: int) -> np.ndarray:
    """The cell of each pixel along a side."""
    return ((np.arange(side) + 0.5) * cells / side).astype(int)


def _drawn(key: Array, count: int, share: Scalar, exact: bool) -> Bool[Array, " count"]:
    """Which of so many cells are removed."""
    if not exact:
        return jax.random.uniform(key, (count,), jnp.asarray(share).dtype) < share
    size = jnp.maximum(jnp.round(jnp.asarray(share) * count), 1).astype(jnp.int32)
    return jax.random.permutation(key, count) < size


def _scaled(maps: Float[checks.Array, "batch height width"]) -> Float[Array, "batch height width"]:
    """The maps in units of their largest absolute value."""
    lifted, _ = lift(jnp.asarray(maps))
    largest = jnp.abs(lifted).max(axis=(1, 2), keepdims=True)
    return lifted / jnp.where(largest > 0, largest, 1)

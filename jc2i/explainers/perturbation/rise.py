"""RISE: random masks weighted by the score of what they leave visible."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, removal, scores, streaming
from jc2i.boundary import public
from jc2i.explainers import upsampling

SETTLING_MASKS = 256
"""Masks between two looks at whether a map has settled: fixed, so that no run differs by it."""


@public(stochastic=True)
def rise(
    model: Callable,
    images: Float[Array, "batch height width channel"],
    targets: Int[Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    masks: int = 4000,
    grid: int = 8,
    keep: float = 0.6,
    clip: bool = True,
    normalization: str = "expectation",
    baseline: removal.Baseline = 0.0,
    settled: float | None = None,
    batch_size: int | None = 32,
) -> Float[Array, "batch height width"]:
    """RISE: the mean of random masks weighted by the score of the masked image.

    S(x)_i = 1 / (E[m] N) sum_j F(x * m_j)_c m_j,i (C2I supplement, equation (7); Petsiuk et al.
    2018). Cost: `masks` evaluations; masks are drawn on the device as they are needed, so memory
    is bounded by `batch_size`, not by their number.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: one key, or one for each image; required. Mask j of an image depends on its key and j.
      masks: number of masks N, at least 1.
      grid: cells along each side of the coarse mask, at most the image's shorter side.
      keep: probability that a cell is kept, in (0, 1].
      clip: whether masks are clipped to [0, 1], which bicubic upsampling leaves a little.
      normalization: `"expectation"` divides by N x keep, `"coverage"` by each pixel's mask sum.
      baseline: what a masked pixel becomes: a number, one a channel, an image array, `"blur"`.
      settled: stop an image early, once 256 more masks change its map by less than this fraction
        (Euclidean norm); None draws all masks.
      batch_size: most model evaluations in flight; None for one mask of the whole batch.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    assert key is not None  # `public` refuses that
    checks.one_of("normalization", normalization, ("expectation", "coverage"))
    checks.count(masks=masks, grid=grid)
    checks.require(0 < keep <= 1, "keep", keep, "a probability in (0, 1]")
    batch, height, width, _ = images.shape
    checks.require(grid <= min(height, width), "grid", grid, f"at most {min(height, width)} cells")
    fill = removal.fill(images, baseline)[:, None]
    draw = functools.partial(random_masks, shape=(height, width), grid=grid, keep=keep, clip=clip)

    def summed(index: Array) -> tuple[Array, Array]:
        drawn = jax.vmap(draw, (0, None))(key, index)  # [batch, chunk, height, width]
        visible = drawn[..., None]
        variants = images[:, None] * visible + fill * (1 - visible)
        values = model(variants.reshape(-1, *images.shape[1:]))
        values = scores.of_targets(values, jnp.repeat(targets, len(index))).reshape(batch, -1)
        # The last block of an early-stopped run may reach past the last mask.
        counts = (index < masks).astype(images.dtype)
        weighted = jnp.einsum("k,bk,bkhw->bhw", counts, values, drawn, precision="highest")
        return weighted, jnp.einsum("k,bkhw->bhw", counts, drawn, precision="highest")

    chunk = streaming.per_step(batch, batch_size)
    if settled is None:
        weighted, coverage = streaming.accumulate(summed, masks, chunk)
        number = jnp.full(batch, masks, images.dtype)
    else:
        checks.positive(settled=settled)
        weighted, coverage, number = _until_settled(summed, masks, chunk, batch, settled)
    if normalization == "coverage":
        return weighted / jnp.maximum(coverage, jnp.finfo(images.dtype).tiny)
    return weighted / (number[:, None, None] * keep)


def random_masks(
    key: Key[Array, ""],
    index: Int[Array, " chunk"],
    *,
    shape: tuple[int, int],
    grid: int,
    keep: float,
    clip: bool,
) -> Float[Array, "chunk height width"]:
    """The RISE masks of one image with the given indices.

    A grid x grid binary mask is upsampled (bicubic, as `jax.image.resize`, Keys' a = -0.5) to one
    cell more than the image on each axis and cropped at a random shift below one cell (Petsiuk et
    al. 2018, section 3.3). The shift is a choice of rows of the interpolation matrix, so that no
    mask larger than the image is ever made.

    Args:
      key: the image's key.
      index: which masks.
      shape: height and width in pixels.
      grid: cells along each side of the coarse mask.
      keep: probability that a cell is kept.
      clip: whether the masks are clipped to [0, 1].

    Returns:
      The masks, 1 where the image stays visible.
    """
    cells = [-(-length // grid) for length in shape]
    rows, columns = (
        jnp.asarray(upsampling.matrix(grid, (grid + 1) * cell, "cubic")) for cell in cells
    )

    def draw(index: Array) -> Array:
        # One draw for cells and shift: each further one costs a second of compilation on CPU.
        uniform = jax.random.uniform(jax.random.fold_in(key, index), (grid * grid + 2,))
        kept = (uniform[:-2] < keep).reshape(grid, grid).astype(rows.dtype)
        shift = jnp.floor(uniform[-2:] * jnp.array(cells)).astype(int)
        up = jax.lax.dynamic_slice_in_dim(rows, shift[0], shape[0])
        across = jax.lax.dynamic_slice_in_dim(columns, shift[1], shape[1])
        return jnp.einsum("hr,rc,wc->hw", up, kept, across, precision="highest")

    masks = jax.vmap(draw)(index)
    return jnp.clip(masks, 0, 1) if clip else masks


def _until_settled(
    summed: Callable, masks: int, chunk: int, batch: int, settled: float
) -> tuple[Array, Array, Array]:
    """Sums over masks until each image's map has settled: weighted, coverage, masks drawn."""

    def block(start: Array) -> tuple[Array, Array]:
        return streaming.accumulate(lambda index: summed(start + index), SETTLING_MASKS, chunk)

    def more(state: tuple) -> Array:
        return state[-1].any()

    def step(state: tuple) -> tuple:
        start, weighted, coverage, number, active = state
        added, covered = block(start)
        keeps = active[:, None, None]
        end = jnp.minimum(start + SETTLING_MASKS, masks)
        next_number = jnp.where(active, end, number)
        next_weighted = jnp.where(keeps, weighted + added, weighted)
        new = next_weighted / next_number[:, None, None]
        change = jnp.linalg.norm(
            new - weighted / jnp.maximum(number, 1)[:, None, None], axis=(1, 2)
        )
        moving = (start == 0) | (change > settled * jnp.linalg.norm(new, axis=(1, 2)))
        coverage = jnp.where(keeps, coverage + covered, coverage)
        return end, next_weighted, coverage, next_number, active & moving & (end < masks)

    start = jnp.asarray(0)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(block, start))
    state = (start, *zeros, jnp.zeros(batch, start.dtype), jnp.full(batch, True))
    _, weighted, coverage, number, _ = jax.lax.while_loop(more, step, state)
    return weighted, coverage, number

"""RISE: random masks weighted by the score of what they leave visible."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, masking, removal, streaming
from jc2i.explainers import upsampling
from jc2i.options import Fill, Maybe, Number, OneOf, Scalar
from jc2i.query import Cost, explainer

SETTLING_MASKS = 256
"""Masks between two looks at whether a map has settled: fixed, so that no run differs by it."""


@explainer(
    cost=lambda shape, options: Cost(forward=options["masks"]),
    stochastic=True,
    depends_on_scores=False,
    keep=Number(above=0, most=1, takes="a probability in (0, 1]"),
    interpolation=OneOf("cubic", "linear"),
    normalization=OneOf("expectation", "coverage"),
    baseline=Fill(),
    settled=Maybe(Number(above=0, takes="a number above 0")),
)
def rise(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    masks: int = 4000,
    grid: int = 8,
    keep: Scalar = 0.6,
    interpolation: str = "cubic",
    clip: bool = True,
    normalization: str = "expectation",
    baseline: removal.Baseline = 0.0,
    settled: Scalar | None = None,
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
      interpolation: how the coarse masks are upsampled: `"cubic"` (C2I) or `"linear"` (Petsiuk et
        al., MeGe).
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
    assert key is not None  # the decorator refuses that
    batch, height, width, _ = images.shape
    checks.require(grid <= min(height, width), "grid", grid, f"at most {min(height, width)} cells")
    fill = removal.fill(images, baseline)[:, None]
    draw = functools.partial(
        _masks, shape=(height, width), grid=grid, keep=keep, method=interpolation, clip=clip
    )

    def add(sums: Sums, index: Array, counted: Array) -> Sums:
        # [batch, chunk, height, width]
        drawn = draw(streaming.each(lambda key: _uniform(key, index, grid), key))
        drawn = drawn.astype(images.dtype)
        variants = masking.blend(images[:, None], drawn[..., None], fill)
        values = masking.variant_scores(model, variants, targets)
        # The last block of an early-stopped run may reach past the last mask.
        counts = (counted & (index < masks)).astype(images.dtype)
        weighted = jnp.einsum("k,bk,bkhw->bhw", counts, values, drawn, precision="highest")
        covered = jnp.einsum("k,bkhw->bhw", counts, drawn, precision="highest")
        return sums[0] + weighted, sums[1] + covered

    chunk = streaming.per_step(batch, batch_size)
    zeros = jnp.zeros((batch, height, width), images.dtype)
    if settled is None:
        weighted, coverage = streaming.fold(add, (zeros, zeros), masks, chunk)
        number = jnp.full(batch, masks, images.dtype)
    else:
        weighted, coverage, number = _until_settled(add, zeros, masks, chunk, settled)
    if normalization == "coverage":
        return weighted / jnp.maximum(coverage, jnp.finfo(images.dtype).tiny)
    return weighted / (number[:, None, None] * keep)


def random_masks(
    key: Key[Array, ""],
    index: Int[Array, " chunk"],
    *,
    shape: tuple[int, int],
    grid: int,
    keep: Scalar,
    interpolation: str = "cubic",
    clip: bool,
) -> Float[Array, "chunk height width"]:
    """The RISE masks of one image with the given indices.

    A grid x grid binary mask is upsampled (cubic: as `jax.image.resize`, Keys' a = -0.5) to one
    cell more than the image on each axis and cropped at a random shift below one cell (Petsiuk et
    al. 2018, section 3.3). The shift is a choice of rows of the interpolation matrix, so that no
    mask larger than the image is ever made.

    Args:
      key: the image's key.
      index: which masks.
      shape: height and width in pixels.
      grid: cells along each side of the coarse mask.
      keep: probability that a cell is kept.
      interpolation: `"cubic"` or `"linear"`.
      clip: whether the masks are clipped to [0, 1].

    Returns:
      The masks, 1 where the image stays visible.
    """
    uniform = _uniform(key, index, grid)
    return _masks(uniform, shape=shape, grid=grid, keep=keep, method=interpolation, clip=clip)


def _uniform(key: Array, index: Array, grid: int) -> Array:
    """The random numbers of one image's masks: one a cell, then the shift's two."""

    def draw(index: Array) -> Array:
        # One draw for cells and shift: each further one costs half a second to compile on CPU.
        return jax.random.uniform(jax.random.fold_in(key, index), (grid * grid + 2,), np.float32)

    return streaming.each(draw, index)


def _masks(
    uniform: Array, *, shape: tuple[int, int], grid: int, keep: Scalar, method: str, clip: bool
) -> Array:
    """The masks [..., height, width] that random numbers [..., grid^2 + 2] stand for."""
    kept = uniform[..., :-2].reshape(*uniform.shape[:-1], grid, grid) < keep
    # Rows for a shift are chosen by a gather: outside the loop over keys it is half the program.
    up, across = (
        jnp.asarray(_windows(grid, length, method))[
            (uniform[..., axis] * -(-length // grid)).astype(int)
        ]
        for axis, length in ((-2, shape[0]), (-1, shape[1]))
    )
    masks = jnp.einsum(
        "...hr,...rc,...wc->...hw", up, kept.astype(up.dtype), across, precision="highest"
    )
    return jnp.clip(masks, 0, 1) if clip else masks


@functools.cache
def _windows(grid: int, length: int, method: str) -> np.ndarray:
    """The interpolation matrix at every shift below one cell: [shift, length, grid]."""
    cell = -(-length // grid)
    matrix = upsampling.matrix(grid, (grid + 1) * cell, method)
    return np.stack([matrix[shift : shift + length] for shift in range(cell)])


Sums = tuple[Array, Array]
"""Masks weighted by their scores, and masks: each [batch, height, width]."""


def _until_settled(
    add: Callable, zeros: Array, masks: int, chunk: int, settled: Scalar
) -> tuple[Array, Array, Array]:
    """Sums over masks until each image's map has settled: weighted, coverage, masks drawn."""
    batch = len(zeros)

    def block(start: Array) -> Sums:
        def add_from(sums: Sums, index: Array, counted: Array) -> Sums:
            return add(sums, start + index, counted)

        return streaming.fold(add_from, (zeros, zeros), SETTLING_MASKS, chunk)

    def more(state: tuple) -> Array:
        return state[-1].any()

    def step(state: tuple) -> tuple:
        start, weighted, coverage, number, active = state
        added, covered = block(start)
        keeps = active[:, None, None]
        end = jnp.minimum(start + SETTLING_MASKS, masks)
        next_number = jnp.where(active, end, number)
        next_weighted = jnp.where(keeps, weighted + added, weighted)
        new = next_weighted / next_number[:, None, None].astype(zeros.dtype)
        old = weighted / jnp.maximum(number, 1)[:, None, None].astype(zeros.dtype)
        change = jnp.linalg.norm(new - old, axis=(1, 2))
        moving = (start == 0) | (change > settled * jnp.linalg.norm(new, axis=(1, 2)))
        coverage = jnp.where(keeps, coverage + covered, coverage)
        return end, next_weighted, coverage, next_number, active & moving & (end < masks)

    start = jnp.asarray(0)
    state = (start, zeros, zeros, jnp.zeros(batch, start.dtype), jnp.full(batch, True))
    blocks = -(-masks // SETTLING_MASKS)
    _, weighted, coverage, number, _ = streaming.repeat_while(more, step, state, blocks)
    return weighted, coverage, number.astype(zeros.dtype)

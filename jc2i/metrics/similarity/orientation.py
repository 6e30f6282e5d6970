"""How alike two saliency maps are in the orientation of their edges."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jc2i import checks
from jc2i.metrics.similarity.correlation import centred, correlation
from jc2i.normalization import Maps, as_maps, normalize
from jc2i.precision import own_promotion


@own_promotion()
def hog_similarity(
    first: Maps,
    second: Maps,
    *,
    orientations: int = 9,
    cell: int = 16,
    block: int = 3,
) -> Float[Array, " batch"]:
    """Pearson's correlation of the histograms of oriented gradients of two saliency maps.

    What Adebayo et al. (2018) compare maps by, with their cells of 16 pixels. A histogram is that
    of `skimage.feature.hog` of the min-max normalised map (Dalal and Triggs 2005): central
    differences, summed by orientation over each cell, each block of cells normalised by its length,
    clipped at 0.2 and normalised again.

    Args:
      first: maps, raw or normalised.
      second: maps of the same shape.
      orientations: bins of an angle in [0, 180) degrees.
      cell: side of a cell in pixels; what no whole cell holds is left out.
      block: side of a block in cells, all of whose places in the grid of cells are taken. Maps are
        of at least `cell` x `block` pixels a side: 48 by default.

    Returns:
      One correlation a pair in [-1, 1]; 0 where a histogram is constant, as a constant map's is;
      NaN where a map is not finite.

    Raises:
      ValueError: if the shapes differ, are not of rank 3 or are smaller than a block; for an option
        out of range.
    """
    first = as_maps("first", first)
    second = as_maps("second", second, first.shape)
    orientations = checks.whole("orientations", orientations, most=360)
    cell, block = (
        checks.whole(name, side, most=checks.MOST)
        for name, side in (("cell", cell), ("block", block))
    )
    takes = f"maps[batch, height, width] of at least {cell * block} x {cell * block} pixels"
    checks.require(min(first.shape[1:]) >= cell * block, "first", checks.describe(first), takes)
    return _hog_similarity(first, second, orientations, cell, block)


@jax.jit(static_argnums=(2, 3, 4))
def _hog_similarity(first: Array, second: Array, orientations: int, cell: int, block: int) -> Array:
    def described(maps: Array) -> tuple[Array, Array]:
        return centred(_histograms(normalize(maps), orientations, cell, block)[:, None])

    return correlation(first, second, described)


def _histograms(maps: Array, orientations: int, cell: int, block: int) -> Array:
    """Each map's histograms of oriented gradients in a row, as scikit-image computes them."""
    batch, height, width = maps.shape
    down = jnp.pad(maps[:, 2:] - maps[:, :-2], ((0, 0), (1, 1), (0, 0)))
    right = jnp.pad(maps[:, :, 2:] - maps[:, :, :-2], ((0, 0), (0, 0), (1, 1)))
    # At the map's borders gradients lie along an axis, whose angle no rounding may move to the bin
    # before.
    turn = jnp.arctan2(down, right) / math.pi + 4 * jnp.finfo(maps.dtype).eps
    place = jnp.floor(turn * orientations).astype(jnp.int32) % orientations
    length = jnp.hypot(down, right)
    rows, columns = height // cell, width // cell
    votes = length[..., None] * jax.nn.one_hot(place, orientations, dtype=maps.dtype)
    votes = votes[:, : rows * cell, : columns * cell]
    cells = votes.reshape(batch, rows, cell, columns, cell, orientations).mean(axis=(2, 4))
    row, column = (
        jnp.arange(count - block + 1)[:, None] + jnp.arange(block) for count in (rows, columns)
    )
    blocks = cells[:, row[:, None, :, None], column[None, :, None, :]]
    blocks = blocks.reshape(batch, row.shape[0], column.shape[0], -1)

    def unit(blocks: Array) -> Array:
        return blocks / jnp.sqrt(jnp.square(blocks).sum(axis=-1, keepdims=True) + 1e-10)

    return unit(jnp.minimum(unit(blocks), 0.2)).reshape(batch, -1)

"""How alike two saliency maps are."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import rankdata
from jaxtyping import Array, Float

from jc2i import checks
from jc2i.normalization import Maps, as_maps, is_constant, lift, normalize


def structural_similarity(
    first: Maps,
    second: Maps,
    *,
    data_range: float | None = None,
    window: int = 11,
    sigma: float = 1.5,
) -> Float[Array, " batch"]:
    """Structural similarity of two saliency maps, an image at a time.

    mean over windows of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))
    with Gaussian windows, c1 = (0.01 range)^2, c2 = (0.03 range)^2 (Wang et al. 2004; C2I section
    4.3); equal to scikit-image's with Gaussian weights and without its samples' covariance.

    Args:
      first: maps, raw or normalised.
      second: maps of the same shape.
      data_range: largest possible difference of two values; None for the largest one there is in
        the two maps, image by image: 1 for min-max normalised maps.
      window: side of the Gaussian window in pixels, odd, at most the map's shorter side.
      sigma: standard deviation of the Gaussian window in pixels.

    Returns:
      One similarity a pair in [-1, 1], 1 for equal maps, constant ones too; NaN where a map is not
      finite.

    Raises:
      ValueError: if the shapes differ, are not of rank 3 or are smaller than the window; for an
        option out of range.
    """
    first = as_maps("first", first)
    second = as_maps("second", second, first.shape)
    side = min(first.shape[1:])
    takes = f"an odd side of at most {side}"
    window = checks.whole("window", window, takes)
    checks.require(window % 2 == 1 and window <= side, "window", window, takes)
    sigma = checks.number("sigma", sigma)
    if data_range is not None:
        data_range = checks.number("data_range", data_range, "a finite number above 0, or None")
    offsets = jnp.arange(window, dtype=float) - window // 2
    weights = jax.nn.softmax(-0.5 * jnp.square(offsets / jnp.asarray(sigma, offsets.dtype)))
    return _structural_similarity(first, second, data_range, weights)


def spearman(first: Maps, second: Maps, *, absolute: bool = False) -> Float[Array, " batch"]:
    """Spearman's rank correlation of two saliency maps, an image at a time.

    Pearson's correlation of the pixels' ranks, equal values sharing the mean of theirs (Spearman
    1904); with and without absolute values it is what Adebayo et al. (2018) compare maps by.

    Args:
      first: maps, raw or normalised.
      second: maps of the same shape.
      absolute: whether pixels are ranked by the absolute value of the map. (This is not the
        absolute value of the correlation.)

    Returns:
      One correlation a pair in [-1, 1]; 0 where a map is constant (`jc2i.is_constant` says which),
      as it ranks no pixel above another; NaN where a map is not finite.

    Raises:
      ValueError: if the shapes differ or are not of rank 3.
    """
    first = as_maps("first", first)
    second = as_maps("second", second, first.shape)
    return _spearman(first, second, checks.flag("absolute", absolute))


def pearson(first: Maps, second: Maps) -> Float[Array, " batch"]:
    """Pearson's correlation of two saliency maps, an image at a time.

    The covariance of the pixels' values by the product of their standard deviations.

    Args:
      first: maps, raw or normalised.
      second: maps of the same shape.

    Returns:
      One correlation a pair in [-1, 1]; 0 where a map is constant (`jc2i.is_constant` says which);
      NaN where a map is not finite.

    Raises:
      ValueError: if the shapes differ or are not of rank 3.
    """
    first = as_maps("first", first)
    second = as_maps("second", second, first.shape)
    return _pearson(first, second)


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
    orientations = checks.whole("orientations", orientations)
    cell, block = checks.whole("cell", cell), checks.whole("block", block)
    takes = f"maps[batch, height, width] of at least {cell * block} x {cell * block} pixels"
    checks.require(min(first.shape[1:]) >= cell * block, "first", checks.describe(first), takes)
    return _hog_similarity(first, second, orientations, cell, block)


@jax.jit
def _structural_similarity(
    first: Array, second: Array, data_range: Array | None, weights: Array
) -> Array:
    finite = jnp.isfinite(first).all(axis=(1, 2)) & jnp.isfinite(second).all(axis=(1, 2))
    dtype = jnp.promote_types(first.dtype, second.dtype)
    pair = jnp.concatenate([first.astype(dtype), second.astype(dtype)], axis=1)
    pair, factor = lift(jnp.where(finite[:, None, None], pair, 0))
    low, high = pair.min(axis=(1, 2), keepdims=True), pair.max(axis=(1, 2), keepdims=True)
    span = high - low
    if data_range is None:
        unit = jnp.where(span > 0, span, 1)
    else:
        # A range that is nothing beside the maps' own would overflow their squares.
        unit = jnp.maximum(data_range.astype(dtype) * factor, 1e-9 * span)
        unit = jnp.maximum(unit, jnp.finfo(dtype).tiny)
    # In units of the range and about a common centre: moments of a far-off map cancel otherwise.
    centre = low / 2 + high / 2
    a, b = jnp.split((pair - centre) / unit, 2, axis=1)
    weights = weights.astype(dtype)
    mean_a, mean_b, square_a, square_b, product = (
        _filtered(values, weights) for values in (a, b, a * a, b * b, a * b)
    )
    spread = jnp.maximum(square_a - mean_a**2, 0) + jnp.maximum(square_b - mean_b**2, 0)
    covariance = jnp.clip(product - mean_a * mean_b, -spread / 2, spread / 2)
    level = centre / unit
    levels = (level + mean_a) ** 2 + (level + mean_b) ** 2
    luminance = 1 - (mean_a - mean_b) ** 2 / (levels + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (spread + 0.03**2)
    return jnp.where(finite, (luminance * structure).mean(axis=(1, 2)), jnp.nan)


def _filtered(values: Array, weights: Array) -> Array:
    """Weighted means over the windows that lie within the map."""
    rows, columns = (_windows(side, weights) for side in values.shape[1:])
    means = jnp.einsum("ih,bhw->biw", rows, values, precision="highest")
    return jnp.einsum("jw,biw->bij", columns, means, precision="highest")


def _windows(side: int, weights: Array) -> Array:
    """A matrix whose products with a column of pixels are the means over its windows."""
    place = np.arange(side)[None] - np.arange(side - len(weights) + 1)[:, None]
    inside = (place >= 0) & (place < len(weights))
    return jnp.where(inside, weights[np.where(inside, place, 0)], 0)


@jax.jit(static_argnums=2)
def _spearman(first: Array, second: Array, absolute: bool) -> Array:
    flat = first.shape[1] * first.shape[2]

    def ranks(maps: Array) -> tuple[Array, Array]:
        maps = jnp.abs(maps) if absolute else maps
        rank = jax.vmap(rankdata)(maps.reshape(-1, flat))
        return (rank - (flat + 1) / 2) / flat, ~is_constant(maps)

    return _correlation(first, second, ranks)


@jax.jit
def _pearson(first: Array, second: Array) -> Array:
    return _correlation(first, second, _centred)


@jax.jit(static_argnums=(2, 3, 4))
def _hog_similarity(first: Array, second: Array, orientations: int, cell: int, block: int) -> Array:
    def described(maps: Array) -> tuple[Array, Array]:
        return _centred(_histograms(normalize(maps), orientations, cell, block)[:, None])

    return _correlation(first, second, described)


def _correlation(
    first: Array, second: Array, describe: Callable[[Array], tuple[Array, Array]]
) -> Array:
    """The cosine of what describes two maps, both centred, where both vary."""
    finite = jnp.isfinite(first).all(axis=(1, 2)) & jnp.isfinite(second).all(axis=(1, 2))
    (a, varies_a), (b, varies_b) = (
        describe(lift(jnp.where(finite[:, None, None], maps, 0))[0]) for maps in (first, second)
    )
    varies = varies_a & varies_b
    norm = jnp.sqrt((a * a).sum(1)) * jnp.sqrt((b * b).sum(1))
    correlation = jnp.clip((a * b).sum(1) / jnp.where(varies, norm, 1), -1, 1)
    return jnp.where(finite, jnp.where(varies, correlation, 0), jnp.nan)


def _centred(maps: Array) -> tuple[Array, Array]:
    """Each map's values in a row, less their mean, in units of their range; whether they vary."""
    values = normalize(maps).reshape(len(maps), -1)
    return values - values.mean(axis=1, keepdims=True), ~is_constant(maps)


def _histograms(maps: Array, orientations: int, cell: int, block: int) -> Array:
    """Each map's histograms of oriented gradients in a row, as scikit-image computes them."""
    batch, height, width = maps.shape
    down = jnp.pad(maps[:, 2:] - maps[:, :-2], ((0, 0), (1, 1), (0, 0)))
    right = jnp.pad(maps[:, :, 2:] - maps[:, :, :-2], ((0, 0), (0, 0), (1, 1)))
    # Modulo a half turn by whole bins: an angle a rounding below zero is in the last one.
    turn = jnp.arctan2(down, right) / math.pi * orientations
    place = jnp.floor(turn).astype(jnp.int32) % orientations
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

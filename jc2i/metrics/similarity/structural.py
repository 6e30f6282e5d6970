"""Structural similarity of two saliency maps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jc2i import checks
from jc2i.normalization import Maps, as_maps, lift
from jc2i.precision import own_promotion


@own_promotion()
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

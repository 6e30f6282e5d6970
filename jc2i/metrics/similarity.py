"""How alike two saliency maps are."""

from __future__ import annotations

import functools

import dm_pix
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jc2i import checks


def structural_similarity(
    first: Float[checks.Array, "batch height width"],
    second: Float[checks.Array, "batch height width"],
    *,
    data_range: float = 1.0,
    window: int = 11,
    sigma: float = 1.5,
) -> Float[Array, " batch"]:
    """Structural similarity of two saliency maps, an image at a time.

    mean over windows of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))
    with Gaussian windows, c1 = (0.01 range)^2, c2 = (0.03 range)^2 (Wang et al. 2004; C2I section
    4.3); computed by dm-pix, equal to scikit-image's with Gaussian weights.

    Args:
      first: maps, usually min-max normalised.
      second: maps of the same shape.
      data_range: largest possible difference of two values.
      window: side of the Gaussian window in pixels, odd, at most the map's shorter side.
      sigma: standard deviation of the Gaussian window in pixels.

    Returns:
      One similarity a pair in [-1, 1], 1 for equal maps; NaN where a map is not finite.

    Raises:
      ValueError: if the shapes differ, are not of rank 3 or are smaller than the window.
    """
    for argument, maps in (("first", first), ("second", second)):
        checks.require(
            getattr(maps, "ndim", None) == 3,
            argument,
            checks.describe(maps),
            "maps[batch, height, width]",
        )
    checks.require(
        first.shape == second.shape, "second", checks.describe(second), f"{first.shape}, as first"
    )
    side = min(first.shape[1:])
    checks.require(
        window % 2 == 1 and 0 < window <= side, "window", window, f"an odd side of at most {side}"
    )
    checks.positive(data_range=data_range, sigma=sigma)
    return _structural_similarity(
        jnp.asarray(first), jnp.asarray(second), data_range, window, sigma
    )


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _structural_similarity(
    first: Array, second: Array, data_range: float, window: int, sigma: float
) -> Array:
    finite = jnp.isfinite(first).all(axis=(1, 2)) & jnp.isfinite(second).all(axis=(1, 2))
    # Windows mix only pixels of one image, but a NaN is kept out all the same.
    pair = [jnp.where(finite[:, None, None], maps, 0)[..., None] for maps in (first, second)]
    similarity = dm_pix.ssim(*pair, max_val=data_range, filter_size=window, filter_sigma=sigma)
    return jnp.where(finite, similarity, jnp.nan)

"""Segments of an image: which region each pixel belongs to."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int

from jc2i import checks
from jc2i.options import PerImage

SEGMENTS = PerImage(3, integers=True, takes="integers[batch, height, width], one for each image")
"""What an option of segments takes: any integers, equal within a region."""


def numbered(segments: Int[checks.Array, "height width"]) -> Int[Array, "height width"]:
    """The same segments numbered from 0 without gaps, so that any codes may name them.

    Args:
      segments: any integers, equal within a region of one image.

    Returns:
      Integers from 0 to one less than the number of regions.
    """
    flat = segments.reshape(-1)
    order = jnp.argsort(flat)
    first = jnp.concatenate([jnp.zeros(1, bool), flat[order][1:] != flat[order][:-1]])
    number = jnp.cumsum(first.astype(jnp.int32))
    return jnp.zeros_like(number).at[order].set(number).reshape(segments.shape)


def require_fits(segments: checks.Array, images: checks.Array) -> None:
    """Refuses segments of another size than the images."""
    shape = images.shape[:3]
    takes = f"integers{list(shape)}"
    checks.require(segments.shape == shape, "segments", checks.describe(segments), takes)

"""Saliency maps of any dtype as floats, and brought to a common range."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Real

from jc2i import checks
from jc2i.precision import own_promotion

Maps: TypeAlias = (
    Real[checks.Array, "batch height width"] | Bool[checks.Array, "batch height width"]
)
"""What a metric accepts where it says maps: real numbers of any width, or truth values."""


def as_maps(
    argument: str, value: Any, shape: tuple[int, ...] | None = None
) -> Float[Array, "batch height width"]:
    """Saliency maps of any real dtype as floats that arithmetic can be done on.

    Integers, truth values and half floats become float32, which holds all of 24 bits exactly;
    float64 stays where JAX has it on.

    Args:
      argument: what a refusal calls the maps.
      value: maps[batch, height, width] of real numbers or truth values.
      shape: the shape that they must have; None for any of rank 3.

    Returns:
      The maps in float32 or wider; NaN and infinity stay.

    Raises:
      ValueError: if they are no such array, hold no pixel, or hold numbers too large for float32.
    """
    takes = "an array[batch, height, width]" + ("" if shape is None else f" of shape {list(shape)}")
    takes += " of real numbers"
    value = checks.array(argument, value, takes, of=checks.REAL, shape=shape or (None,) * 3)
    some = value.size > 0
    checks.require(some, argument, checks.describe(value), takes + ", of at least one pixel")
    if jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.itemsize > 4:
        return jnp.asarray(checks.held(argument, value))
    # On the host, as JAX would first cut 64-bit integers to their last 32 bits.
    value = value.astype(np.float32, copy=False) if isinstance(value, np.ndarray) else value
    return jnp.asarray(value).astype(np.float32)


@own_promotion()
def normalize(maps: Maps) -> Float[Array, "batch height width"]:
    """Min-max normalises each saliency map to [0, 1].

    (m - min m) / (max m - min m), C2I section 4.2. A constant map becomes zeros; a map with a NaN
    or an infinity becomes NaN, and no other map with it.

    Args:
      maps: raw maps, any range.

    Returns:
      Maps in [0, 1].

    Raises:
      ValueError: if the maps are not of rank 3.
    """
    return _normalize(as_maps("maps", maps))


@own_promotion()
def is_constant(maps: Maps) -> Bool[Array, " batch"]:
    """Which maps have one value everywhere, and so rank no pixel above another.

    Args:
      maps: raw or normalised maps.

    Returns:
      One truth value a map: true where `normalize` gives zeros.

    Raises:
      ValueError: if the maps are not of rank 3.
    """
    return _is_constant(as_maps("maps", maps))


def lift(
    maps: Float[Array, "batch height width"],
) -> tuple[Float[Array, "batch height width"], Float[Array, "batch 1 1"]]:
    """Scales each map by a power of two, after which differences neither over- nor underflow.

    By 2^64 where every value is below 1, else by 2^-8, which changes no ratio: nor does the
    reciprocal of a difference underflow, by which a compiler may multiply.

    Args:
      maps: floats of any range, as `as_maps` returns them.

    Returns:
      The scaled maps, and the factor of each.
    """
    info = jnp.finfo(maps.dtype)
    # XLA reads denormal numbers as zero: they are made anew from their bits, which count them.
    bits = jax.lax.bitcast_convert_type(maps, f"int{info.bits}")
    denormal = (bits & (2**info.nmant - 1)).astype(maps.dtype)
    denormal = denormal * 2.0 ** (64 + info.minexp - info.nmant)
    denormal = jnp.where(bits < 0, -denormal, denormal)
    up = jnp.where(jnp.abs(maps) < info.tiny, denormal, maps * 2.0**64)
    small = jnp.abs(maps).max(axis=(1, 2), keepdims=True) < 1
    factor = jnp.where(small, 2.0**64, 2.0**-8).astype(maps.dtype)
    return jnp.where(small, up, maps * 2.0**-8), factor


def length(values: Float[Array, ...], axes: tuple[int, ...]) -> Float[Array, ...]:
    """The Euclidean norm along some axes, also where the squares are no floats.

    Those of a saturated probability's gradient are zero in float32.

    Args:
      values: any values.
      axes: the axes, counted from the first.

    Returns:
      The norms, without these axes.
    """
    largest = jnp.abs(values).max(axis=axes, keepdims=True)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return jnp.sqrt(jnp.square(values / scale).sum(axis=axes)) * scale.squeeze(axes)


@jax.jit
def _normalize(maps: Array) -> Array:
    maps, _ = lift(maps)
    low = jnp.min(maps, axis=(1, 2), keepdims=True)
    high = jnp.max(maps, axis=(1, 2), keepdims=True)
    finite = jnp.isfinite(low) & jnp.isfinite(high)
    span = jnp.where(high > low, high - low, 1)
    return jnp.where(finite, (maps - low) / span, jnp.nan)


@jax.jit
def _is_constant(maps: Array) -> Array:
    maps, _ = lift(maps)
    low, high = jnp.min(maps, axis=(1, 2)), jnp.max(maps, axis=(1, 2))
    return (high == low) & jnp.isfinite(low)

"""Kernel densities of confidences on an interval, mirrored at both of its ends."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jc2i.checks import Array

FRACTIONS = 256
"""Steps between two nodes to which a sample is rounded.

Its share of a node is then a whole number, and sums of whole numbers are exact: they do not depend
on the order of the samples, on any device. Room for 2^31 / 256 = 8 million samples.
"""

DEGENERATE = 1e-2
"""Middle half of the values, relative to their deviation, below which it has no width."""


def mirrored(
    values: jax.Array, chosen: jax.Array, bandwidth: float | Array, lower: float, resolution: int
) -> jax.Array:
    """A Gaussian kernel density at equidistant nodes from `lower` to 1.

    f(s) = (1/n) sum over chosen i of sum over mirror images c of values_i of N(s; c, h^2)

    Samples are shared between their two neighbouring nodes (linear binning, Wand 1994, "Fast
    computation of multivariate kernel estimators"), and the sum over a sample and all its mirror
    images at both ends is a product in the cosine transform: cost n + r log r for r nodes,
    instead of n r. A kernel narrower than the step between nodes becomes as wide as that.

    Args:
      values: n numbers in [lower, 1].
      chosen: which of them to count.
      bandwidth: h, the kernel's standard deviation; may be 0.
      lower: the left end.
      resolution: number of steps between nodes.

    Returns:
      The density at the resolution + 1 nodes; its trapezoidal integral is mean(chosen).
    """
    step = (1 - lower) / resolution
    position = jnp.clip((values - lower) / step, 0, resolution)
    left = jnp.minimum(jnp.floor(position), resolution - 1)
    share = jnp.round((position - left) * FRACTIONS).astype(jnp.int32)
    left = left.astype(jnp.int32)
    whole = jnp.zeros(resolution + 1, jnp.int32)
    whole = whole.at[left].add(jnp.where(chosen, FRACTIONS - share, 0))
    whole = whole.at[left + 1].add(jnp.where(chosen, share, 0))
    mass = whole.astype(values.dtype) / (FRACTIONS * len(values))
    # An end and its own mirror image coincide.
    mass = mass.at[jnp.array([0, resolution])].multiply(2)
    period = jnp.concatenate([mass, mass[-2:0:-1]])
    frequency = jnp.pi * jnp.arange(resolution + 1) / resolution
    # Sharing between nodes has itself widened the kernel, by a variance of 1/6 on average.
    variance = jnp.maximum((bandwidth / step) ** 2 - 1 / 6, 0)
    spectrum = jnp.fft.rfft(period) * jnp.exp(-variance * frequency**2 / 2)
    return jnp.fft.irfft(spectrum, n=2 * resolution)[: resolution + 1] / step


def silverman(values: jax.Array, chosen: jax.Array) -> jax.Array:
    """Silverman's bandwidth of the chosen values: 0.9 min(std, IQR / 1.34) n^(-1/5).

    Silverman 1986, "Density estimation for statistics and data analysis", equation (3.31). As in
    R's `bw.nrd0`, the standard deviation has n - 1 degrees of freedom, and counts alone where half
    of the values are one: where IQR / 1.34 is below `DEGENERATE` of it (there: 0). Fewer than two
    values have bandwidth 0.

    Args:
      values: n numbers.
      chosen: which of them to count.

    Returns:
      The bandwidth.
    """
    number = jnp.sum(chosen)
    total = jnp.maximum(number, 1).astype(values.dtype)
    mean = jnp.sum(jnp.where(chosen, values, 0)) / total
    squares = jnp.sum(jnp.where(chosen, (values - mean) ** 2, 0))
    deviation = jnp.sqrt(squares / jnp.maximum(total - 1, 1))
    ordered = jnp.sort(jnp.where(chosen, values, jnp.inf))
    quartiles = [_interpolated(ordered, q * (total - 1)) for q in (0.25, 0.75)]
    spread = (quartiles[1] - quartiles[0]) / 1.34
    smaller = jnp.where(spread > DEGENERATE * deviation, jnp.minimum(deviation, spread), deviation)
    return jnp.where(number > 1, 0.9 * smaller * total ** (-1 / 5), 0)


def _interpolated(ordered: jax.Array, position: jax.Array) -> jax.Array:
    left = jnp.floor(position).astype(jnp.int32)
    low, high = ordered[left], ordered[jnp.ceil(position).astype(jnp.int32)]
    # Without the test, a whole position would give 0 * inf behind the last chosen value.
    return jnp.where(high > low, low + (position - left) * (high - low), low)

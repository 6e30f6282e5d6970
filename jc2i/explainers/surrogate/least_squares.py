"""Weighted least squares over masked images: the sums it needs, streamed, and its solution."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jc2i import streaming
from jc2i.options import Scalar


class Sums(NamedTuple):
    """Sums over samples j of weights w_j, visible regions z_j and changes d_j of the score.

    A change is the score's difference from that of sample 0, the whole image: of raw scores far
    from 0 the sums would cancel.

    Attributes:
      whole: the score of sample 0.
      second: the change of sample 1.
      weight: sum of w_j.
      regions: sum of w_j z_j.
      pairs: sum of w_j z_j z_j^T.
      change: sum of w_j d_j.
      regions_change: sum of w_j z_j d_j.
    """

    whole: Float[Array, " batch"]
    second: Float[Array, " batch"]
    weight: Float[Array, " batch"]
    regions: Float[Array, "batch regions"]
    pairs: Float[Array, "batch regions regions"]
    change: Float[Array, " batch"]
    regions_change: Float[Array, "batch regions"]


Samples = Callable[
    [Int[Array, " chunk"]],
    tuple[Bool[Array, "batch chunk regions"], Float[Array, "batch chunk"]],
]
"""Indices of samples -> which regions each shows, and its weight."""


def sums(
    scores: Callable[[Bool[Array, "batch chunk regions"]], Float[Array, "batch chunk"]],
    samples: Samples,
    count: int,
    chunk: int,
    start: Float[Array, "batch regions"],
) -> Sums:
    """The sums over all samples, of which a chunk at a time is in memory.

    Args:
      scores: which regions are visible -> the score.
      samples: the samples; number 0 shows the whole image.
      count: the number of samples.
      chunk: most samples a step.
      start: zeros, one for each region.

    Returns:
      The sums.
    """

    def add(state: Sums, index: Array, counted: Array) -> Sums:
        shown, weight = samples(index)
        values = scores(shown)
        whole = jnp.where(index[0] == 0, values[:, 0], state.whole)
        change = values - whole[:, None]
        on = shown.astype(change.dtype)
        weight = jnp.where(counted[None], weight, 0)
        weighted = weight[..., None] * on
        return Sums(
            whole,
            state.second + jnp.where((counted & (index == 1))[None], change, 0).sum(axis=1),
            state.weight + weight.sum(axis=1),
            state.regions + weighted.sum(axis=1),
            state.pairs + jnp.einsum("bkr,bks->brs", weighted, on, precision="highest"),
            state.change + (weight * change).sum(axis=1),
            state.regions_change + jnp.einsum("bkr,bk->br", weighted, change, precision="highest"),
        )

    none = start[:, 0]
    square = jnp.zeros((*start.shape, start.shape[1]), start.dtype)
    zeros = Sums(none, none, none, start, square, none, start)
    return streaming.fold(add, zeros, count, chunk)


def solve(
    matrix: Float[Array, "batch regions regions"],
    vector: Float[Array, "batch regions"],
    ridge: Scalar = 0.0,
) -> Float[Array, "batch regions"]:
    """The shortest x that minimises x^T A x - 2 b^T x + ridge |x|^2.

    What the samples leave undetermined (a region that no image has, too few samples) is 0, not
    whatever rounding makes of it, so that it is the same in every batch.

    Args:
      matrix: A, symmetric, of no negative eigenvalue.
      vector: b, in the range of A.
      ridge: at least 0.

    Returns:
      x.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    # Sums of weights round by a few units of the largest.
    least = 4 * max(16, matrix.shape[-1]) * jnp.finfo(matrix.dtype).eps
    determined = values > least * values[:, -1:]
    along = jnp.einsum("brs,br->bs", vectors, vector, precision="highest")
    along = jnp.where(determined, along / jnp.where(determined, values + ridge, 1), 0)
    return jnp.einsum("brs,bs->br", vectors, along, precision="highest")

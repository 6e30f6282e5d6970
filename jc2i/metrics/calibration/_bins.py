"""Confidences and outcomes, bin by bin."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Bins(NamedTuple):
    """What each bin holds: arrays[bins]; an empty bin has count 0, and 0 for its means."""

    confidence: jax.Array
    accuracy: jax.Array
    gap: jax.Array
    count: jax.Array


def fill(confidences: jax.Array, correct: jax.Array, bins: int, estimator: str) -> Bins:
    """Means by bin.

    Args:
      confidences: in [0, 1].
      correct: whether each came true.
      bins: m.
      estimator: `"equal_width"`: (k/m, (k+1)/m], 0 in the first; `"equal_mass"`: as many samples
        in each as can be, equal confidences never apart.

    Returns:
      Mean confidence, mean outcome, mean of outcome - confidence, number of samples.
    """
    # A bin holds the confidences above the edge before and up to its own.
    edges = _equal_width(bins) if estimator == "equal_width" else _equal_mass(confidences, bins)
    index = jnp.searchsorted(edges, confidences, side="left")
    members = index[None] == jnp.arange(bins)[:, None]
    outcomes = correct.astype(confidences.dtype)
    count = jnp.sum(members, axis=1)
    total = jnp.maximum(count, 1)

    def mean(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(members, values, 0), axis=1) / total

    return Bins(mean(confidences), mean(outcomes), mean(outcomes - confidences), count)


def _equal_width(bins: int) -> np.ndarray:
    """The upper edges of all bins but the last, which takes the rest."""
    return np.arange(1, bins) / np.float64(bins)


def _equal_mass(confidences: jax.Array, bins: int) -> jax.Array:
    samples = len(confidences)
    last = -(-np.arange(1, bins) * samples // bins) - 1
    return jnp.sort(confidences)[np.maximum(last, 0)]

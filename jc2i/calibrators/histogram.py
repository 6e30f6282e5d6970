"""Histogram binning, one class against the rest."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jc2i import checks, labelled
from jc2i.calibrators import _classes
from jc2i.checks import Array


@_classes.calibrator
class Histogram:
    """Maps each class's probability to its frequency in a bin, then renormalises.

    z -> ln(q / sum_k q_k), q_k = max(frequency of k in the bin of softmax(z)_k, floor). Zadrozny
    and Elkan 2001, "Obtaining calibrated probability estimates from decision trees and naive
    Bayesian classifiers".

    Attributes:
      edges: the upper ends of all bins but the last, an array[bins - 1, classes], not falling.
      values: the frequency in each bin, an array[bins, classes], in [0, 1].
      floor: the least probability before renormalisation, an array of rank 0 in (0, 1); it keeps
        the logarithm finite.
    """

    edges: Any = _classes.leaf("edges classes", values="in [0, 1] and not falling")
    values: Any = _classes.leaf("edges+1 classes", values="in [0, 1]")
    floor: Any = _classes.leaf(values="above 0 and below 1")

    def __post_init__(self) -> None:
        _classes.require_sound(self)

    def __call__(
        self, logits: Float[Array, "*batch classes"]
    ) -> Float[jax.Array, "*batch classes"]:
        """Returns the logarithm of the calibrated probabilities.

        Raises:
          ValueError: if it was fitted for another number of classes, or the number of its bins is
            not one above that of their edges.
        """

        def calibrated(logits: jax.Array, edges: jax.Array, values: jax.Array, floor: jax.Array):
            bins = len(edges) + 1
            checks.require(len(values) == bins, "values", f"{len(values)} bins", f"{bins} (edges)")
            probabilities = jax.nn.softmax(logits)
            bins = jax.vmap(jnp.searchsorted, (-1, -1), -1)(edges, probabilities)
            chosen = jax.vmap(jnp.take, (-1, -1), -1)(values, bins)
            # NaN would be in the last bin, of the highest confidence.
            chosen = jnp.where(jnp.isnan(probabilities), jnp.nan, chosen)
            return jax.nn.log_softmax(jnp.log(jnp.maximum(chosen, floor)))

        return _classes.apply(self, logits, calibrated)


def _check(values: dict[str, Any]) -> None:
    takes = "a whole number above 1"
    values["bins"] = checks.whole("bins", values["bins"], takes, 2, labelled.MOST_BINS)
    labelled.number(values, "floor", "a number between 0 and 1", lambda got: 0 < got < 1)


@labelled.public("logits", _check)
def fit_histogram(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    bins: int = 15,
    floor: float | Float[Array, ""] = 1e-6,
) -> Histogram:
    """Fits histogram binning of each class against the rest on a hold-out.

    Bins hold as many probabilities of the hold-out as each other, equal ones never apart.
    Zadrozny and Elkan 2001.

    Args:
      logits: uncalibrated scores of the hold-out.
      labels: its classes, in [0, classes). A class that does not occur gets the floor.
      bins: their number for each class, at least 2.
      floor: the least probability before renormalisation, in (0, 1).

    Returns:
      The calibrator.

    Raises:
      ValueError: for logits that are empty, not finite, not of rank 2 or probabilities, for labels
        that are not one class a row, and for options out of range.
    """
    probabilities = jax.nn.softmax(labelled.widened(logits))
    last = -(-np.arange(1, bins) * len(labels) // bins) - 1
    edges = jnp.sort(probabilities, axis=0)[np.maximum(last, 0)]
    right = jax.nn.one_hot(labels, probabilities.shape[1], dtype=probabilities.dtype)

    def frequencies(edges: jax.Array, scores: jax.Array, right: jax.Array) -> jax.Array:
        index = jnp.searchsorted(edges, scores)
        count = jnp.zeros(bins, scores.dtype).at[index].add(1)
        # What is above the highest edge, where no sample was, is as what is just below it.
        nearest = jax.lax.cummax(jnp.where(count > 0, jnp.arange(bins), 0))
        return (jnp.zeros_like(count).at[index].add(right) / jnp.maximum(count, 1))[nearest]

    values = jax.vmap(frequencies, (1, 1, 1), 1)(edges, probabilities, right)
    return Histogram(edges, values, jnp.asarray(floor, probabilities.dtype))

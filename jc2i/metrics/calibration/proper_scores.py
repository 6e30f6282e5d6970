"""Proper scores: least for the true probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jc2i import labelled
from jc2i.checks import Array
from jc2i.metrics.calibration import _probabilities


@labelled.public("probabilities", _probabilities.check)
@labelled.compiled()
def brier_score(
    probabilities: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[jax.Array, ""]:
    """Mean squared distance between the probabilities and the one-hot label.

    mean_i sum_k (p_ik - [y_i = k])^2, Brier 1950, "Verification of forecasts expressed in terms of
    probability", equation (2).

    Args:
      probabilities: of each class; each row sums to 1.
      labels: the true classes, in [0, classes).

    Returns:
      The score, in [0, 2]; 0 is best.

    Raises:
      ValueError: for rows that are no probabilities and labels that are not one class a row.
    """
    wide = labelled.widened(probabilities)
    truth = jax.nn.one_hot(labels, wide.shape[1], dtype=wide.dtype)
    return jnp.mean(jnp.sum((wide - truth) ** 2, axis=1))


@labelled.public("probabilities", _probabilities.check)
@labelled.compiled()
def negative_log_likelihood(
    probabilities: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[jax.Array, ""]:
    """Mean negative logarithm of the probability of the label.

    mean_i(-ln p_i[y_i]), Guo et al. 2017, equation (6) as a mean.

    Args:
      probabilities: of each class; each row sums to 1.
      labels: the true classes, in [0, classes).

    Returns:
      The negative log-likelihood, at least 0. A probability of 0 counts as the smallest normal
      number (float32: -ln of it is 87), so that one saturated row does not make it infinite.

    Raises:
      ValueError: for rows that are no probabilities and labels that are not one class a row.
    """
    wide = labelled.widened(probabilities)
    chosen = jnp.take_along_axis(wide, labels[:, None], axis=1)
    return -jnp.mean(jnp.log(jnp.maximum(chosen, jnp.finfo(wide.dtype).tiny)))

"""Dirichlet calibration: an affine map of the log-probabilities."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jc2i import labelled
from jc2i.calibrators import _affine, _classes
from jc2i.checks import Array


@_classes.calibrator
class Dirichlet:
    """Maps the log-probabilities by a matrix and a bias: z -> W ln softmax(z) + b.

    C2I section 3.1; Kull et al. 2019, "Beyond temperature scaling: Obtaining well-calibrated
    multi-class probabilities with Dirichlet calibration", the linear parametrisation.

    Attributes:
      weight: W, an array[classes, classes].
      bias: b, an array[classes].
    """

    weight: Any = _classes.leaf("classes classes")
    bias: Any = _classes.leaf("classes")

    def __post_init__(self) -> None:
        _classes.require_sound(self)

    def __call__(
        self, logits: Float[Array, "*batch classes"]
    ) -> Float[jax.Array, "*batch classes"]:
        """Returns the calibrated logits.

        Raises:
          ValueError: if it was fitted for another number of classes.
        """

        def calibrated(logits: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
            return _affine.apply(weight, jax.nn.log_softmax(logits)) + bias

        return _classes.apply(self, logits, calibrated)


@labelled.public("logits", _affine.check)
def fit_dirichlet(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    regularization: str = "l2",
    l2: float | Float[Array, ""] = 1e-2,
    off_diagonal: float | Float[Array, ""] = 1e-2,
    bias_weight: float | Float[Array, ""] = 1e-2,
) -> Dirichlet:
    """Fits Dirichlet calibration by penalised maximum likelihood on a hold-out.

    min over W, b of mean_i(-ln softmax(W ln softmax(z_i) + b)[y_i]) + penalty, by L-BFGS to
    convergence. The penalty is

        "l2"    l2 (sum_jk W_jk^2 + sum_j b_j^2)                    (C2I's released code)
        "odir"  off_diagonal mean_{j != k} W_jk^2 + bias_weight mean_j b_j^2
                                        (off-diagonal and intercept, Kull et al. 2019, section 4)

    Args:
      logits: uncalibrated scores of the hold-out.
      labels: its classes, in [0, classes).
      regularization: `"l2"` or `"odir"`.
      l2: weight of `"l2"`, at least 0.
      off_diagonal: weight of `"odir"` for the off-diagonal elements, at least 0.
      bias_weight: weight of `"odir"` for the biases, at least 0.

    Returns:
      The calibrator.

    Raises:
      ValueError: for logits that are empty, not finite or not of rank 2, for labels that are not
        one class a row, for another regularization and for negative weights.
    """
    features = jax.nn.log_softmax(labelled.widened(logits))
    classes = features.shape[1]
    penalties = _affine.penalties(regularization, l2, off_diagonal, bias_weight, classes)
    result = _affine.fit(features, jnp.asarray(labels), jnp.eye(classes), penalties)
    return Dirichlet(result.weight, result.bias)

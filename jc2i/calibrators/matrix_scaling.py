"""Matrix scaling: an affine map of the logits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jc2i import labelled
from jc2i.calibrators import _affine, _classes
from jc2i.checks import Array


@_classes.calibrator
class MatrixScaling:
    """Maps the logits by a matrix and a bias: z -> W z + b.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2, equation (8).

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
            return _affine.apply(weight, logits) + bias

        return _classes.apply(self, logits, calibrated)


@labelled.public("logits", _affine.check)
def fit_matrix_scaling(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    regularization: str = "l2",
    l2: float | Float[Array, ""] = 1e-2,
    off_diagonal: float | Float[Array, ""] = 1e-2,
    bias_weight: float | Float[Array, ""] = 1e-2,
) -> MatrixScaling:
    """Fits matrix scaling by penalised maximum likelihood on a hold-out.

    min over W, b of mean_i(-ln softmax(W z_i + b)[y_i]) + penalty, by L-BFGS to convergence; the
    penalties are those of `fit_dirichlet`. Guo et al. 2017, section 4.2; ODIR: Kull et al. 2019.

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
    logits = jnp.asarray(logits)
    classes = logits.shape[1]
    penalties = _affine.penalties(regularization, l2, off_diagonal, bias_weight, classes)
    result = _affine.fit(logits, jnp.asarray(labels), jnp.eye(classes), penalties)
    return MatrixScaling(result.weight, result.bias)

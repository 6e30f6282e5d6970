"""Vector scaling: one scale and one bias a class."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jc2i import labelled
from jc2i.calibrators import _affine, _classes
from jc2i.checks import Array


@_classes.calibrator
class VectorScaling:
    """Scales and shifts the logit of each class: z -> w * z + b.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.

    Attributes:
      scale: w, an array[classes].
      bias: b, an array[classes].
    """

    scale: Any = _classes.leaf("classes")
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

        def calibrated(logits: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            return logits * scale + bias

        return _classes.apply(self, logits, calibrated)


@labelled.public("logits", _affine.check)
def fit_vector_scaling(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    l2: float | Float[Array, ""] = 0.0,
) -> VectorScaling:
    """Fits vector scaling by maximum likelihood on a hold-out.

    min over w, b of mean_i(-ln softmax(w * z_i + b)[y_i]) + l2 (sum w^2 + sum b^2), by L-BFGS to
    convergence. Guo et al. 2017, section 4.2.

    Args:
      logits: uncalibrated scores of the hold-out.
      labels: its classes, in [0, classes). Without a penalty each must occur: otherwise its bias
        has no optimum, and a warning says so.
      l2: weight of the penalty, at least 0.

    Returns:
      The calibrator.

    Raises:
      ValueError: for logits that are empty, not finite or not of rank 2, for labels that are not
        one class a row, and for a negative penalty.
    """
    each = jnp.ones(logits.shape[1])
    penalties = _affine.Penalties(each * l2, each * l2)
    result = _affine.fit(jnp.asarray(logits), jnp.asarray(labels), each, penalties)
    return VectorScaling(result.weight, result.bias)

"""Isotonic regression, one class against the rest."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jc2i import checks, labelled
from jc2i.calibrators import _classes
from jc2i.checks import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Isotonic:
    """Maps each class's probability by its own rising function, then renormalises.

    z -> ln(q / sum_k q_k), q_k = max(f_k(softmax(z)_k), floor), with f_k linear between its knots
    and constant outside them. Zadrozny and Elkan 2002, "Transforming classifier scores into
    accurate multiclass probability estimates".

    Attributes:
      thresholds: probabilities of the knots, an array[knots, classes], rising along the knots.
      values: f_k at the knots, an array[knots, classes], not falling along the knots.
      floor: the least probability before renormalisation, an array of rank 0 above 0; it keeps
        the logarithm finite.
    """

    thresholds: Any
    values: Any
    floor: Any

    def __call__(self, logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
        """Returns the logarithm of the calibrated probabilities.

        Raises:
          ValueError: if it was fitted for another number of classes.
        """
        _classes.check(self, logits, thresholds=2, values=2, floor=0)
        probabilities = jax.nn.softmax(logits)
        interpolate = jax.vmap(jnp.interp, in_axes=(-1, -1, -1), out_axes=-1)
        fitted = interpolate(probabilities, self.thresholds, self.values)
        return jax.nn.log_softmax(jnp.log(jnp.maximum(fitted, self.floor)))


def _check(values: dict[str, Any]) -> None:
    takes = "concrete arrays: isotonic regression is fitted on the host, not under jit or vmap"
    checks.require(
        checks.is_concrete(values["logits"], values["labels"]), "logits", "a tracer", takes
    )
    checks.require(0 < values["floor"] < 1, "floor", values["floor"], "a number between 0 and 1")


@labelled.public("logits", _check)
def fit_isotonic(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    floor: float = 1e-6,
) -> Isotonic:
    """Fits one isotonic regression a class, that class against the rest, on a hold-out.

    min over rising f_k of sum_i (f_k(softmax(z_i)_k) - [y_i = k])^2, by pool adjacent violators
    (scikit-learn, on the host). Zadrozny and Elkan 2002.

    Args:
      logits: uncalibrated scores of the hold-out.
      labels: its classes, in [0, classes). A class that does not occur gets the floor.
      floor: the least probability before renormalisation, in (0, 1).

    Returns:
      The calibrator. Its number of knots depends on the data.

    Raises:
      ValueError: for logits that are empty, not finite, not of rank 2 or traced, for labels that
        are not one class a row, and for a floor out of range.
    """
    from sklearn.isotonic import IsotonicRegression

    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32)))
    thresholds, values = [], []
    for label, scores in enumerate(probabilities.T):
        regression = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        regression.fit(scores, np.asarray(labels) == label)
        thresholds.append(regression.X_thresholds_)
        values.append(regression.y_thresholds_)
    return Isotonic(_padded(thresholds), _padded(values), jnp.float32(floor))


def _padded(knots: list[np.ndarray]) -> jax.Array:
    """One array[knots, classes]: the last knot is repeated, which changes no interpolation."""
    # A function needs two knots to be interpolated.
    longest = max(2, *map(len, knots))
    columns = [np.pad(column, (0, longest - len(column)), mode="edge") for column in knots]
    return jnp.asarray(np.stack(columns, axis=1), jnp.float32)

"""Isotonic regression, one class against the rest."""

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
class Isotonic:
    """Maps each class's probability by its own rising function, then renormalises.

    z -> ln(q / sum_k q_k), q_k = max(f_k(softmax(z)_k), floor), with f_k linear between its knots
    and constant outside them. Zadrozny and Elkan 2002, "Transforming classifier scores into
    accurate multiclass probability estimates".

    Attributes:
      thresholds: probabilities of the knots, an array[knots, classes], rising along the knots.
      values: f_k at the knots, an array[knots, classes] in [0, 1], not falling along the knots.
      floor: the least probability before renormalisation, an array of rank 0 in (0, 1); it keeps
        the logarithm finite.
    """

    thresholds: Any = _classes.leaf("knots classes", values="in [0, 1] and not falling")
    values: Any = _classes.leaf("knots classes", values="in [0, 1] and not falling")
    floor: Any = _classes.leaf(values="above 0 and below 1")

    def __post_init__(self) -> None:
        _classes.require_sound(self)

    def __call__(
        self, logits: Float[Array, "*batch classes"]
    ) -> Float[jax.Array, "*batch classes"]:
        """Returns the logarithm of the calibrated probabilities.

        Raises:
          ValueError: if it was fitted for another number of classes.
        """

        def calibrated(logits: jax.Array, knots: jax.Array, values: jax.Array, floor: jax.Array):
            interpolate = jax.vmap(jnp.interp, in_axes=(-1, -1, -1), out_axes=-1)
            fitted = interpolate(jax.nn.softmax(logits), knots, values)
            return jax.nn.log_softmax(jnp.log(jnp.maximum(fitted, floor)))

        return _classes.apply(self, logits, calibrated)


def _check(values: dict[str, Any]) -> None:
    takes = "concrete arrays: isotonic regression is fitted on the host, not under jit or vmap"
    checks.require(
        checks.is_concrete(values["logits"], values["labels"]), "logits", "a tracer", takes
    )
    labelled.number(values, "floor", "a number between 0 and 1", lambda got: 0 < got < 1)


@labelled.public("logits", _check)
def fit_isotonic(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    *,
    floor: float | Float[Array, ""] = 1e-6,
) -> Isotonic:
    """Fits one isotonic regression a class, that class against the rest, on a hold-out.

    min over rising f_k of sum_i (f_k(softmax(z_i)_k) - [y_i = k])^2, by pool adjacent violators
    (SciPy, on the host in float64). Zadrozny and Elkan 2002.

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
    probabilities = np.asarray(jax.nn.softmax(labelled.widened(logits)))
    right = np.asarray(labels)[:, None] == np.arange(probabilities.shape[1])
    knots = [_knots(*column) for column in zip(probabilities.T, right.T, strict=True)]
    thresholds, values = (_padded(columns) for columns in zip(*knots, strict=True))
    dtype = probabilities.dtype
    return Isotonic(
        jnp.asarray(thresholds, dtype), jnp.asarray(values, dtype), jnp.asarray(floor, dtype)
    )


def _knots(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rising function of one class: the ends of its constant pieces, and its values there."""
    from scipy.optimize import isotonic_regression

    thresholds, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    frequencies = np.bincount(index, right) / counts
    values = isotonic_regression(frequencies, weights=counts.astype(float)).x
    differs = values[1:] != values[:-1]
    ends = np.append(True, differs) | np.append(differs, True)
    return thresholds[ends], values[ends]


def _padded(knots: tuple[np.ndarray, ...]) -> np.ndarray:
    """One array[knots, classes]: the last knot is repeated, which changes no interpolation."""
    # A function needs two knots to be interpolated.
    longest = max(2, *map(len, knots))
    return np.stack([np.pad(knot, (0, longest - len(knot)), mode="edge") for knot in knots], axis=1)

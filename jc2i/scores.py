"""What is explained: the logits or the probabilities of a model, calibrated or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jc2i import checks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PlainFunction:
    """A model without weights (a lambda, say) as a pytree without leaves."""

    function: Callable = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        return self.function(images)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Logits:
    """A model's logits after a calibrator, as a callable pytree."""

    model: Any
    calibrator: Any = None

    def __call__(self, images: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        scores = self.model(images)
        return scores if self.calibrator is None else self.calibrator(scores)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Probabilities:
    """The softmax of a model's calibrated logits, as a callable pytree."""

    logits: Logits
    softmax: str = dataclasses.field(default="exact", metadata={"static": True})

    def __call__(self, images: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        function = exact_softmax if self.softmax == "exact" else jax.nn.softmax
        return function(self.logits(images))


def as_pytree(model: Any) -> Any:
    """A model as a callable pytree of arrays: one without leaves is wrapped as static.

    Raises:
      ValueError: if the model cannot be called.
    """
    checks.require(callable(model), "model", repr(model), "a callable: images -> scores")
    leaves = jax.tree.leaves(model)
    return PlainFunction(model) if leaves and leaves[0] is model else model


def logits(model: Any, calibrator: Any = None) -> Logits:
    """Composes a model with a calibrator into a callable pytree: images -> logits.

    Args:
      model: callable pytree, images -> logits[batch, classes].
      calibrator: callable pytree, logits -> logits; None leaves them as they are.

    Returns:
      A callable pytree whose leaves are the weights of both, so that new weights or another
      temperature do not recompile what takes it as an argument.

    Raises:
      ValueError: if the model or the calibrator cannot be called.
    """
    checks.require(
        calibrator is None or callable(calibrator),
        "calibrator",
        repr(calibrator),
        "a callable: logits -> logits, or None",
    )
    return Logits(as_pytree(model), None if calibrator is None else as_pytree(calibrator))


def probabilities(model: Any, calibrator: Any = None, *, softmax: str = "exact") -> Probabilities:
    """Composes a model with a calibrator into a callable pytree: images -> probabilities.

    softmax(calibrator(model(images))), C2I section 3.1.

    Args:
      model: callable pytree, images -> logits[batch, classes].
      calibrator: callable pytree, logits -> logits; None for the uncalibrated model.
      softmax: `"exact"` keeps the gradient of a saturated probability exact in float32
        (`exact_softmax`); `"plain"` is `jax.nn.softmax`, whose gradient becomes rounding noise
        when 1 - p falls below 1e-7.

    Returns:
      A callable pytree whose leaves are the weights of both.

    Raises:
      ValueError: if the model or the calibrator cannot be called, or for another softmax.
    """
    checks.one_of("softmax", softmax, ("exact", "plain"))
    return Probabilities(logits(model, calibrator), softmax)


@jax.custom_vjp
def exact_softmax(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
    """Softmax over the last axis whose backward rule does not cancel at saturation.

    dz_i = p_i (g_i - sum_j p_j g_j). With one p near 1 both terms are near g there and their
    difference is lost. The rule is unchanged by adding a constant to g: taken as g - g_max, g at
    the largest probability, the term of that probability vanishes from the sum and only small
    terms, each exact, remain.

    Args:
      logits: scores, any finite values.

    Returns:
      Probabilities, equal to `jax.nn.softmax`.
    """
    return jax.nn.softmax(logits)


def _softmax_forward(logits: Array) -> tuple[Array, Array]:
    probabilities = jax.nn.softmax(logits)
    return probabilities, probabilities


def _softmax_backward(probabilities: Array, cotangent: Array) -> tuple[Array]:
    largest = jnp.argmax(probabilities, axis=-1, keepdims=True)
    shifted = cotangent - jnp.take_along_axis(cotangent, largest, axis=-1)
    mean = jnp.sum(probabilities * shifted, axis=-1, keepdims=True)
    return (probabilities * (shifted - mean),)


exact_softmax.defvjp(_softmax_forward, _softmax_backward)


def of_targets(
    scores: Float[Array, "batch classes"], targets: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """Each image's score of its own target class."""
    return jnp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]

"""What is explained: logits, probabilities or log-odds of a model, calibrated or not."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jc2i import checks, pytrees

MODEL, CALIBRATOR = "a callable: images -> scores", "a callable: logits -> logits, or None"
TWO = "two classes at least: jc2i.two_classes(model) gives one logit z the logits (0, z)"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Logits:
    """A model's logits after a calibrator, as a callable pytree."""

    model: Any
    calibrator: Any = None

    def __call__(self, images: Float[checks.Array, "batch ..."]) -> Float[Array, "batch classes"]:
        scores = of_model(self.model, images)
        if self.calibrator is None:
            return scores
        takes = "one that returns as many rows"
        with pytrees.at_fault("calibrator", scores):
            calibrated = self.calibrator(scores)
        return _floats("calibrator", calibrated, scores.shape[:1], takes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Probabilities:
    """The softmax of a model's calibrated logits, as a callable pytree."""

    logits: Logits
    softmax: str = dataclasses.field(default="exact", metadata={"static": True})

    def __call__(self, images: Float[checks.Array, "batch ..."]) -> Float[Array, "batch classes"]:
        function = exact_softmax if self.softmax == "exact" else jax.nn.softmax
        return function(several(self.logits(images)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LogOdds:
    """Each class's logarithm of the odds against all others, as a callable pytree."""

    logits: Logits

    def __call__(self, images: Float[checks.Array, "batch ..."]) -> Float[Array, "batch classes"]:
        return odds(several(self.logits(images)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TwoClasses:
    """A network with one logit as one with two."""

    model: Any

    def __call__(self, images: Float[checks.Array, "batch ..."]) -> Float[Array, "batch 2"]:
        takes = "one that returns [batch] or [batch, 1], one logit an image"
        checks.require(checks.is_array(images), "images", checks.describe(images), "an array")
        with pytrees.at_fault("model", images):
            score = self.model(images)
        score = _floats("model", score, images.shape[:1], takes)
        alone = score.ndim == 1 or (score.ndim == 2 and score.shape[1] == 1)
        checks.require(alone, "model", f"one that returns {checks.describe(score)}", takes)
        score = score.reshape(-1)
        return jnp.stack([jnp.zeros_like(score), score], axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class InType:
    """A model that takes images of one type alone, given others."""

    model: Any
    dtype: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Float[checks.Array, "batch ..."]) -> Float[Array, "batch classes"]:
        return self.model(images.astype(self.dtype))


def of_model(model: Any, images: checks.Array) -> Array:
    """A model's scores, refused where they are none: one float for each image and class."""
    got = checks.describe(images)
    checks.require(checks.is_array(images), "images", got, "an array")
    takes = f"a callable that returns scores[batch, classes], floats, for {got}"
    with pytrees.at_fault("model", images):
        scores = model(images)
    scores = _floats("model", scores, images.shape[:1], takes)
    several = scores.ndim == 2 and scores.shape[1] > 0
    checks.require(several, "model", f"one that returns {checks.describe(scores)}", takes)
    return scores


def _floats(argument: str, returned: Any, rows: tuple[int, ...], takes: str) -> Array:
    """What a callable returned, refused unless it is an array of floats with so many rows."""
    got = f"one that returns {checks.describe(returned)}"
    checks.require(isinstance(returned, jax.Array | np.ndarray), argument, got, takes)
    fits = jnp.issubdtype(returned.dtype, jnp.floating) and returned.shape[:1] == rows
    checks.require(fits, argument, got, takes)
    return jnp.asarray(returned)


def several(scores: Array) -> Array:
    """Scores, refused where they are of one class."""
    alone = scores.shape[1] < 2
    checks.require(not alone, "model", "one that returns a single score an image", TWO)
    return scores


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
    model = pytrees.as_pytree("model", model, MODEL)
    if calibrator is not None:
        calibrator = pytrees.as_pytree("calibrator", calibrator, CALIBRATOR)
    return Logits(model, calibrator)


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


def log_odds(model: Any, calibrator: Any = None) -> LogOdds:
    """Composes a model with a calibrator into a callable pytree: images -> log-odds.

    z_c - ln sum_{k != c} exp z_k = ln p_c / (1 - p_c). It does not saturate, and grows with the
    logits as they grow, so that a temperature changes its scale and hardly its shape.

    Args:
      model: callable pytree, images -> logits[batch, classes].
      calibrator: callable pytree, logits -> logits; None for the uncalibrated model.

    Returns:
      A callable pytree whose leaves are the weights of both.

    Raises:
      ValueError: if the model or the calibrator cannot be called.
    """
    return LogOdds(logits(model, calibrator))


def two_classes(model: Any) -> TwoClasses:
    """A network with one logit z an image as a classifier with the logits (0, z).

    Their softmax is (1 - sigmoid(z), sigmoid(z)).

    Args:
      model: callable pytree, images -> logits[batch] or [batch, 1].

    Returns:
      A callable pytree, images -> logits[batch, 2].

    Raises:
      ValueError: if the model cannot be called; when called, if it returns several logits.
    """
    return TwoClasses(pytrees.as_pytree("model", model, MODEL))


def odds(logits: Float[checks.Array, "batch classes"]) -> Float[Array, "batch classes"]:
    """z_c - ln sum_{k != c} exp z_k for every class c, without cancellation.

    Args:
      logits: scores, any finite values.

    Returns:
      The log-odds.
    """
    logits = jnp.asarray(logits)
    top = jax.nn.one_hot(jnp.argmax(logits, axis=1), logits.shape[1], dtype=bool)
    # Of the most probable class, the others are summed; of another, p <= 1/2 is taken off the sum.
    others = jax.nn.logsumexp(jnp.where(top, -jnp.inf, logits), axis=1, keepdims=True)
    every = jax.nn.logsumexp(logits, axis=1, keepdims=True)
    share = jnp.exp(jnp.where(top, -jnp.inf, logits - every))
    return logits - jnp.where(top, others, every + jnp.log1p(-share))


@jax.custom_vjp
def exact_softmax(logits: Float[checks.Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
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
    scores: Float[checks.Array, "batch classes"], targets: Int[checks.Array, " batch"]
) -> Float[Array, " batch"]:
    """Each image's score of its own target class, an infinite one `bounded`."""
    return bounded(jnp.take_along_axis(scores, targets[:, None], axis=1, mode="clip")[:, 0])


LARGEST = 1e30
"""A score whose sums and differences are floats too."""


def bounded(scores: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Scores of which an infinite one (a class that is masked out) is a large number.

    Differences of infinities would be NaN; a score beyond the bound has no slope.
    """
    most = min(LARGEST, float(jnp.finfo(scores.dtype).max))
    return jnp.clip(scores, -most, most)


def leads_of_targets(
    scores: Float[checks.Array, "batch classes"], targets: Int[checks.Array, " batch"]
) -> Float[Array, " batch"]:
    """Each image's score of its own target class, less the highest of the others."""
    own = jnp.arange(scores.shape[1])[None] == targets[:, None]
    return of_targets(scores, targets) - bounded(jnp.where(own, -jnp.inf, scores).max(axis=1))

"""Maximum likelihood of affine calibrators, with quadratic penalties."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jc2i import checks, labelled

TOLERANCE = {np.float32: 1e-6, np.float64: 1e-9}
"""Largest absolute slope at the end, in the variables of the search."""

CONVERGED = 1e-7
"""Largest absolute slope of a fit in float64 of which no warning says that it is not at its end."""

ROUNDING = {np.float32: 1e-7, np.float64: 1e-15}
"""A relative decrease of the loss below which it is rounding."""

STALL = 50
"""Steps without a smaller loss or slope after which what is left is rounding."""

MAX_STEPS = 3000
"""Where a fit that has no finite optimum is cut off."""

CONDITION = 1e-6
"""Least curvature that is divided by, relative to the largest."""


class Penalties(NamedTuple):
    """The weight of each squared parameter in the loss, arrays of their shapes."""

    weight: jax.Array
    bias: jax.Array


class Fit(NamedTuple):
    """An affine map and how its optimisation ended.

    Attributes:
      weight: a matrix, or (for a diagonal one) a vector.
      bias: a vector.
      slope: largest absolute slope, in the variables of the search.
      left: by how much the loss is above its least, at most; a bound only where every parameter
        has a penalty.
      steps: of L-BFGS.
    """

    weight: jax.Array
    bias: jax.Array
    slope: jax.Array
    left: jax.Array
    steps: jax.Array


def apply(weight: jax.Array, features: jax.Array) -> jax.Array:
    """W x for a matrix, w * x for a vector, in full precision on every device."""
    if weight.ndim == 1:
        return weight * features
    return jnp.matmul(features, weight.T, precision=jax.lax.Precision.HIGHEST)


def penalties(
    regularization: str, l2: Any, off_diagonal: Any, bias_weight: Any, classes: int
) -> Penalties:
    """What the options of `fit_dirichlet` and `fit_matrix_scaling` stand for."""
    everywhere, each = jnp.ones((classes, classes)), jnp.ones(classes)
    if regularization == "l2":
        return Penalties(everywhere * l2, each * l2)
    elsewhere = everywhere - jnp.eye(classes)
    return Penalties(
        elsewhere * (off_diagonal / (classes * (classes - 1))), each * (bias_weight / classes)
    )


def check(values: dict[str, Any]) -> None:
    """Refuses penalties that are not finite, or below zero."""
    labelled.word(values, "regularization", ("l2", "odir"))
    for name in ("l2", "off_diagonal", "bias_weight"):
        takes = "a finite number of at least 0"
        labelled.number(values, name, takes, lambda got: 0 <= got < math.inf)


def fit(features: jax.Array, labels: jax.Array, start: jax.Array, penalties: Penalties) -> Fit:
    """Minimises mean NLL + sum(penalty * parameter^2) from a start, by L-BFGS, to convergence.

    In float64 wherever there are values: with a small penalty the loss is so flat that float32's
    rounding hides a slope that leads far. Under `jit` and `vmap` in the dtype of the features.

    Args:
      features: what the affine map is applied to, [batch, classes].
      labels: classes, [batch].
      start: the first weight, a matrix or (for a diagonal one) a vector; the first bias is 0.
      penalties: of the weight and of the bias.

    Returns:
      The affine map. A warning says where the likelihood has no finite optimum, and how far from
      the least loss a search is that stopped before its end.
    """
    dtype = labelled.widened(features).dtype
    concrete = checks.is_concrete(features, labels, *penalties)
    with jax.enable_x64(True) if concrete else contextlib.nullcontext():
        wide = jnp.float64 if concrete else dtype
        inputs = (features, start, penalties)
        inputs = jax.tree.map(lambda array: jnp.asarray(array, wide), inputs)
        result, right, raw_right, class_missing = _fit(inputs[0], labels, *inputs[1:])
        slope, left = (value.astype(jnp.float32) for value in (result.slope, result.left))
        weight, bias = result.weight.astype(dtype), result.bias.astype(dtype)
        result = Fit(weight, bias, slope, left, result.steps)
    if concrete:
        _warn(result, penalties, bool(right), bool(raw_right), bool(class_missing))
    return result


def _warn(
    result: Fit, penalties: Penalties, right: bool, raw_right: bool, class_missing: bool
) -> None:
    free_weight, free_bias = (bool(jnp.all(penalty == 0)) for penalty in penalties)
    free_diagonal = bool(jnp.any(penalties.weight == 0))
    all_bound = not free_diagonal and bool(jnp.all(penalties.bias > 0))
    consequence = "the parameters are finite but arbitrary; a penalty or more rows would fix them"
    if (free_weight and free_bias and right) or (free_diagonal and raw_right):
        message = "the hold-out has no finite optimum: no row of it is classified wrongly"
    elif free_bias and class_missing:
        message = "the hold-out has no finite optimum: a class is missing from it"
    elif not result.slope < CONVERGED:
        left = f"a slope of {float(result.slope):.1e} is left after {int(result.steps)} steps"
        message = f"the fit did not converge: {left} (converged: {CONVERGED:.0e})"
        if all_bound:
            # A little more, so that its two digits are a bound too.
            consequence = f"the loss is at most {1.06 * float(result.left):.1e} above its least"
        else:
            message += ", which without a penalty on each parameter bounds no distance in loss"
    else:
        return
    warnings.warn(f"{message}; {consequence}", RuntimeWarning, stacklevel=5)


class _Search(NamedTuple):
    parameters: Any
    state: Any
    slope: jax.Array
    best_slope: jax.Array
    best_loss: jax.Array
    since_best: jax.Array
    steps: jax.Array


@jax.jit
def _fit(
    features: jax.Array, labels: jax.Array, start: jax.Array, penalties: Penalties
) -> tuple[Fit, jax.Array, jax.Array, jax.Array]:
    import optax

    dtype = features.dtype
    tolerance, rounding = (limits[dtype.type] for limits in (TOLERANCE, ROUNDING))
    variables = _diagonal if start.ndim == 1 else _whitened
    parameters, scores, natural = variables(features, start, penalties)
    rows = jnp.arange(len(labels))

    def penalised(scores: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
        likelihood = -jnp.mean(jax.nn.log_softmax(scores)[rows, labels])
        penalty = jnp.sum(penalties.weight * weight**2) + jnp.sum(penalties.bias * bias**2)
        return likelihood + penalty

    def loss(parameters: Any) -> jax.Array:
        return penalised(scores(parameters), *natural(parameters))

    def natural_loss(weight: jax.Array, bias: jax.Array) -> jax.Array:
        return penalised(apply(weight, features) + bias, weight, bias)

    solver = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(search: _Search) -> _Search:
        value, gradient = value_and_gradient(search.parameters, state=search.state)
        updates, state = solver.update(
            gradient, search.state, search.parameters, value=value, grad=gradient, value_fn=loss
        )
        parameters = optax.apply_updates(search.parameters, updates)
        slope = _largest(optax.tree.get(state, "grad"))
        value = optax.tree.get(state, "value")
        better = (slope < search.best_slope) | (value < search.best_loss * (1 - rounding))
        return _Search(
            parameters,
            state,
            slope,
            jnp.minimum(slope, search.best_slope),
            jnp.minimum(value, search.best_loss),
            jnp.where(better, 0, search.since_best + 1),
            search.steps + 1,
        )

    def unfinished(search: _Search) -> jax.Array:
        stalled = search.since_best >= STALL
        return (search.slope > tolerance) & ~stalled & (search.steps < MAX_STEPS)

    infinity = jnp.asarray(jnp.inf, dtype)
    zero = jnp.asarray(0)
    first = _Search(parameters, solver.init(parameters), infinity, infinity, infinity, zero, zero)
    last = jax.lax.while_loop(unfinished, step, first)
    weight, bias = natural(last.parameters)
    right = jnp.all(jnp.argmax(apply(weight, features) + bias, axis=1) == labels)
    raw_right = jnp.all(jnp.argmax(features, axis=1) == labels)
    counts = jnp.bincount(labels, length=features.shape[1])
    left = _distance(jax.grad(natural_loss, (0, 1))(weight, bias), penalties)
    return Fit(weight, bias, last.slope, left, last.steps), right, raw_right, jnp.any(counts == 0)


def _distance(slopes: tuple[jax.Array, jax.Array], penalties: Penalties) -> jax.Array:
    """The most that a loss can be above its least: sum slope^2 / (4 penalty) over the parameters.

    The likelihood is convex and a penalty adds the curvature 2 penalty, so that the loss lies above
    the parabola loss + slope d + penalty d^2 in the step d of each parameter, whose least value is
    loss - slope^2 / (4 penalty) (Boyd and Vandenberghe 2004, "Convex Optimization", section 9.1.2).
    """

    def each(slope: jax.Array, penalty: jax.Array) -> jax.Array:
        curved = penalty > 0
        return jnp.sum(jnp.where(curved, slope**2 / (4 * jnp.where(curved, penalty, 1)), 0))

    return sum(map(each, slopes, penalties), jnp.zeros((), slopes[0].dtype))


# A change of variables, not of the problem. In these the curvatures are nearly alike, so L-BFGS
# needs fewer steps, and float32 is enough. Both return the first parameters, their scores, and
# their weight and bias.


def _diagonal(
    features: jax.Array, start: jax.Array, penalties: Penalties
) -> tuple[Any, Callable, Callable]:
    """Scales and biases of features of mean 0 and deviation 1."""
    mean, deviation = features.mean(0), features.std(0)
    deviation = jnp.where(deviation > 0, deviation, 1)
    standard = (features - mean) / deviation

    def scores(parameters: tuple[jax.Array, jax.Array]) -> jax.Array:
        return standard * parameters[0] + parameters[1]

    def natural(parameters: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        scale = parameters[0] / deviation
        return scale, parameters[1] - scale * mean

    return (start * deviation, start * mean), scores, natural


def _whitened(
    features: jax.Array, start: jax.Array, penalties: Penalties
) -> tuple[Any, Callable, Callable]:
    """U of [W b] = U R, with R^-2 about the curvature of the loss in a row of [W b]."""
    batch, classes = features.shape
    augmented = jnp.concatenate([features, jnp.ones((batch, 1), features.dtype)], axis=1)
    # Of the likelihood: p (1 - p) of an undecided row, times the second moments of its features.
    moments = apply(augmented.T, augmented.T) / batch * (1 - 1 / classes) / classes
    penalty = jnp.append(penalties.weight.mean(0), penalties.bias.mean())
    curvatures, axes = jnp.linalg.eigh(moments + 2 * jnp.diag(penalty))
    root = jnp.sqrt(jnp.maximum(curvatures, CONDITION * curvatures[-1]))
    shrink, stretch = (apply(axes * power, axes) for power in (1 / root, root))
    whitened = apply(shrink, augmented)

    def scores(parameters: jax.Array) -> jax.Array:
        return apply(parameters, whitened)

    def natural(parameters: jax.Array) -> tuple[jax.Array, jax.Array]:
        both = apply(shrink, parameters)
        return both[:, :-1], both[:, -1]

    first = jnp.concatenate([start, jnp.zeros((classes, 1), start.dtype)], axis=1)
    return apply(stretch, first), scores, natural


def _largest(tree: Any) -> jax.Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))

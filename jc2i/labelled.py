"""What every function of scores and labels does with its arguments before it computes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jc2i import checks
from jc2i.precision import own_promotion

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

MOST_BINS = 10**4
"""Bins of a histogram: each has a number for every row."""

ROW_TOLERANCE = 1e-3
"""How near to 1 the rows of logits sum that are taken for probabilities."""


def public(
    scores: str, check: Callable[[dict[str, Any]], None] | None = None
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorates a function `(scores, labels, ...)`: it refuses bad input before tracing.

    Values are looked at only where there are any: under `jit`, `vmap` and `grad` shapes and dtypes
    alone are checked. The function is always called with every option, so equal calls spelled
    differently compile once.

    Args:
      scores: the name of the argument that holds scores[batch, classes].
      check: further refusals, given the arguments by name, defaults included; it may replace an
        option by an equal one of the type that the function computes with.

    Returns:
      The decorator; the function keeps its signature and documentation.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            bound = checks.bind(function.__name__, signature, arguments, options)
            values = bound.arguments
            with own_promotion():
                _check_scores(scores, values)
                if check is not None:
                    check(values)
                return function(*bound.args, **bound.kwargs)

        return wrapper

    return decorate


def compiled(
    *static: str,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """`jax.jit` with the options that are static; to a type checker the function stays itself."""
    return functools.partial(jax.jit, static_argnames=static)


def _check_scores(scores: str, values: dict[str, Any]) -> None:
    values[scores] = checks.finite_batch(scores, values[scores], 2, "batch, classes")
    batch, classes = values[scores].shape
    checks.require(classes >= 2, scores, f"{classes} class", "at least 2 classes")
    of_rows = f"rows of {scores}"
    values["labels"] = checks.class_indices("labels", values["labels"], batch, classes, of_rows)
    concrete = checks.is_concrete(values[scores])
    if scores == "logits" and concrete and _are_probabilities(values[scores]):
        takes = "logits, unnormalised; of probabilities p, pass log(p)"
        raise checks.invalid("logits", "probabilities (rows in [0, 1] that sum to 1)", takes)


def _are_probabilities(logits: jax.Array) -> bool:
    with jax.ensure_compile_time_eval():
        return bool(_sum_to_one(logits))


@jax.jit
def _sum_to_one(logits: jax.Array) -> jax.Array:
    sums = jnp.sum(widened(logits), axis=1)
    inside = (jnp.min(logits) >= 0) & (jnp.max(logits) <= 1)
    return inside & (jnp.max(jnp.abs(sums - 1)) < ROW_TOLERANCE)


def widened(values: Any) -> jax.Array:
    """An array of at least float32, in which sums are exact enough."""
    values = jnp.asarray(values)
    return values.astype(jnp.float64 if values.dtype == jnp.float64 else jnp.float32)


def number(values: dict[str, Any], name: str, takes: str, valid: Callable[[float], bool]) -> None:
    """Replaces a numeric option by an array of rank 0, traced and so never recompiled for.

    Args:
      values: the arguments by name; without the option nothing is done.
      name: of the option: a number, a NumPy scalar, an array of rank 0 or a tracer of one.
      takes: what the refusal says.
      valid: whether a number is in range; NaN never is.

    Raises:
      ValueError: for anything else, and for numbers out of range.
    """
    if name not in values:
        return
    number = checks.number(name, values[name], takes, valid)
    if isinstance(number, checks.Tracer):
        values[name] = widened(number)
        return
    wide = any(jnp.asarray(v).dtype == jnp.float64 for v in _scores(values))
    values[name] = np.asarray(number, np.float64 if wide else np.float32)


def _scores(values: dict[str, Any]) -> list[Any]:
    return [values[name] for name in ("logits", "probabilities") if name in values]


def whole(values: dict[str, Any], name: str, most: int = checks.MOST) -> None:
    """Replaces a count by a Python integer above 0; refuses anything else."""
    if name in values:
        values[name] = checks.whole(name, values[name], most=most)


def flag(values: dict[str, Any], name: str) -> None:
    """Replaces a choice of two by a Python bool; refuses anything else."""
    if name in values:
        values[name] = checks.flag(name, values[name])


def word(values: dict[str, Any], name: str, choices: tuple[str, ...]) -> None:
    """Refuses an option that is none of the words."""
    if name in values:
        checks.one_of(name, values[name], choices)

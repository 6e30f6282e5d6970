"""What every function of scores and labels does with its arguments before it computes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from jc2i import checks

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def public(
    scores: str, check: Callable[[dict[str, Any]], None] | None = None
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorates a function `(scores, labels, ...)`: it refuses bad input before tracing.

    Values are looked at only where there are any: under `jit`, `vmap` and `grad` shapes and dtypes
    alone are checked.

    Args:
      scores: the name of the argument that holds scores[batch, classes].
      check: further refusals, given the arguments by name, defaults included.

    Returns:
      The decorator; the function keeps its signature and documentation.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            bound = signature.bind(*arguments, **options)
            bound.apply_defaults()
            values = bound.arguments
            values[scores] = checks.finite_batch(scores, values[scores], 2, "batch, classes")
            batch, classes = values[scores].shape
            checks.require(classes >= 2, scores, f"{classes} class", "at least 2 classes")
            values["labels"] = checks.class_indices(
                "labels", values["labels"], batch, classes, f"rows of {scores}"
            )
            if check is not None:
                check(values)
            return function(*bound.args, **bound.kwargs)

        return wrapper

    return decorate

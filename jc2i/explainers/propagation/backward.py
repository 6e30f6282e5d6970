"""A unit of a program with another way back than its gradient's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from jaxtyping import Array

from jc2i import checks
from jc2i.tracing.units import Application, Rule


def back(rule: Callable[..., Sequence[Array]], function: Callable | None = None) -> Rule:
    """A table's entry: a unit computed as it stands, with a rule in place of its gradient.

    Args:
      rule: (application, inputs, held, outputs, arriving) -> what arrives at the inputs.
      function: (application, inputs, held) -> outputs, in place of the unit's own.

    Returns:
      The entry.
    """

    def entry(application: Application) -> Sequence[Any]:
        def compute(inputs: tuple, held: tuple) -> tuple:
            if function is not None:
                return function(application, inputs, held)
            return application.function(inputs, held)

        def forward(inputs: tuple, held: tuple) -> tuple[tuple, tuple]:
            outputs = compute(inputs, held)
            return outputs, (inputs, held, outputs)

        def backward(kept: tuple, arriving: tuple) -> tuple:
            found = rule(application, *kept, arriving)
            return tuple(map(_as, found, kept[0])), None

        call = jax.custom_vjp(compute)
        call.defvjp(forward, backward)
        return call(application.inputs, application.held)

    return entry


def _as(arriving: Array, values: Array) -> Array:
    """What arrives at values that were perhaps repeated along some axes and cast."""
    repeated = [i for i, n in enumerate(values.shape) if n == 1 and arriving.shape[i] > 1]
    return arriving.sum(axis=repeated, keepdims=True).astype(values.dtype)


def gradient(function: Callable, inputs: tuple, held: tuple, arriving: tuple) -> tuple:
    """What the function's own gradient brings to its inputs."""
    _, vjp = jax.vjp(lambda *inputs: function(inputs, held), *inputs)
    return vjp(arriving)


def refusing(method: str) -> Rule:
    """The entry of all units that a table does not know."""

    def entry(application: Application) -> NoReturn:
        name = application.unit.equation.primitive.name
        where = f" at {application.unit.source}" if application.unit.source else ""
        got = f"one with {name}{where} of two values that depend on the image"
        raise checks.invalid("model", got, f"operations that {method} has a rule for")

    return entry


def own(application: Application) -> Sequence[Any]:
    """The entry of units whose own gradient is the rule."""
    return application.function(application.inputs, application.held)

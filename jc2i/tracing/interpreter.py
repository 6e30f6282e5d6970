"""The interpreter: one walk over a model's jaxpr in which rules give equations another meaning.

`evaluate` runs a jaxpr equation by equation. A table of rules, by primitive, replaces the equations
it names; every other one is bound as it stands. The walk goes

- into calls (`jit`, `closed_call`), whose rematerialised kind stays rematerialised;
- into `scan`, which is taken apart step by step if an equation with a rule is inside and left as it
  stands if none is;
- into functions with a derivative of their own if the table says so, with `ENTER` as their rule;
- never into `while` and `cond`.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp


class Step(enum.Enum):
    """What may stand in a table, or be returned by a rule, in place of values."""

    LEAVE = "the equation as it stands"
    ENTER = "what its body computes, under the same rules, with loops unrolled"
    KEEP = "the same loop or rematerialised call, its body under the same rules"


LEAVE, ENTER, KEEP = Step.LEAVE, Step.ENTER, Step.KEEP

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}
"""Primitives that only call an inner jaxpr, with the parameter that holds it."""

REMATERIALIZED = ("checkpoint", "remat2")
"""Those of them whose values a gradient computes anew."""

_BODIES = CALLS | {
    "scan": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}

OTHERS = "*"
"""The key of the rule for every equation that has none of its own and is not entered."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """An equation as a rule sees it, beside its inputs' values.

    Attributes:
      equation: of the jaxpr, with parameters, `invars` and `outvars` and their `aval`s.
      dependent: for each input, whether it depends on the arguments that were said to vary: on the
        image, so that a residual and a bias can be told apart, or a gate and a scale.
      uses: for each output, how often it is read: by equations, or as a result.
    """

    equation: jex.JaxprEqn
    dependent: tuple[bool, ...]
    uses: tuple[int, ...]

    @property
    def parameters(self) -> dict[str, Any]:
        """The equation's parameters."""
        return self.equation.params

    @property
    def name(self) -> str:
        """A readable name: the function's where the equation calls one, else the primitive's."""
        primitive = self.equation.primitive.name
        if primitive in CALLS:
            return self.parameters.get("name") or primitive
        if primitive not in ("custom_jvp_call", "custom_vjp_call"):
            return primitive
        # These have no name of their own: relu's stands in the only equation of its body.
        body, _ = body_of(self.equation)
        inner = body.eqns[0].params.get("name") if len(body.eqns) == 1 else None
        return inner or body.debug_info.func_name

    @property
    def source(self) -> str:
        """Where the model's author wrote it, `file:line`; empty where JAX does not know."""
        traceback = self.equation.source_info.traceback
        for frame in traceback.frames if traceback else []:
            if not frame.file_name.startswith(_HERE) and not _INSTALLED & {
                *Path(frame.file_name).parts
            }:
                return f"{frame.file_name}:{frame.line_num}"
        return ""

    def as_it_stands(self, *inputs: Any) -> list[Any]:
        """The outputs that the equation itself gives."""
        return bind(self.equation, *inputs)


# Lines of libraries, of JAX and Flax for instance, and of this package say nothing of the model.
_INSTALLED = {"site-packages", "dist-packages"}
_HERE = str(Path(__file__).parent)

Rule = Callable[..., "Sequence[Any] | Step"]
"""A rule takes the `Operation` and its inputs, and returns its outputs or a `Step`."""

Rules = Mapping[str, "Rule | Step"]
"""By the name of the primitive: what takes its place."""


def trace(function: Callable, *arguments: Any) -> tuple[jex.ClosedJaxpr, Any]:
    """The jaxpr of a function at these arguments, and the tree structure of its result."""

    def named(*given: Any) -> Any:
        # JAX reads the name of what it traces: not every callable has one, and of one without it
        # would print all the weights.
        return function(*given)

    closed, shape = jax.make_jaxpr(named, return_shape=True)(*arguments)
    return closed, jax.tree.structure(shape)


def rewritten(function: Callable, rules: Rules) -> Callable[..., Any]:
    """A function with some of its primitives replaced.

    Args:
      function: any JAX function.
      rules: by primitive name, what takes its place.

    Returns:
      A function of the same arguments, all of which count as varying, and of the same structure.
    """

    def evaluated(*arguments: Any) -> Any:
        closed, structure = trace(function, *arguments)
        outputs = evaluate(closed, rules, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(structure, outputs)

    return evaluated


def evaluate(
    closed: jex.ClosedJaxpr,
    rules: Rules,
    *arguments: Any,
    dependent: Sequence[bool] | None = None,
) -> list[Any]:
    """Evaluates a jaxpr with some primitives replaced.

    Args:
      closed: the jaxpr; its constants do not depend on the image.
      rules: by primitive name, a function `(operation, *inputs) -> outputs`, or a `Step`.
      *arguments: values of its input variables, flat.
      dependent: for each argument, whether it varies (the image) or is fixed (a weight); None: all
        vary.

    Returns:
      The values of its outputs, flat.
    """
    flags = [True] * len(arguments) if dependent is None else list(dependent)
    outputs, _ = _walk(closed.jaxpr, closed.consts, rules, arguments, flags)
    return outputs


def bind(equation: jex.JaxprEqn, *inputs: Any) -> list[Any]:
    """The outputs of an equation as it stands."""
    primitive = equation.primitive
    outputs = primitive.bind(*inputs, **primitive.get_bind_params(equation.params))
    return list(outputs) if primitive.multiple_results else [outputs]


def _walk(
    jaxpr: jex.Jaxpr,
    constants: Sequence[Any],
    rules: Rules,
    arguments: Sequence[Any],
    dependent: Sequence[bool],
) -> tuple[list[Any], list[bool]]:
    """The values of the outputs, and which of them depend on what varies."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    flags = dict(zip(jaxpr.invars, dependent, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    def varies(atom: Any) -> bool:
        return not isinstance(atom, jex.Literal) and flags.get(atom, False)

    uses = collections.Counter(
        atom
        for atoms in (jaxpr.outvars, *(equation.invars for equation in jaxpr.eqns))
        for atom in atoms
        if not isinstance(atom, jex.Literal)
    )
    for equation in jaxpr.eqns:
        operation = Operation(
            equation,
            tuple(varies(atom) for atom in equation.invars),
            tuple(uses[variable] for variable in equation.outvars),
        )
        inputs = [read(atom) for atom in equation.invars]
        outputs, outgoing = _apply(operation, rules, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
        flags.update(zip(equation.outvars, outgoing, strict=True))
    return [read(atom) for atom in jaxpr.outvars], [varies(atom) for atom in jaxpr.outvars]


def _apply(
    operation: Operation, rules: Rules, inputs: list[Any]
) -> tuple[Sequence[Any], Sequence[bool]]:
    primitive = operation.equation.primitive.name
    rule = rules.get(primitive)
    if rule is None:
        rule = _usual_step(operation.equation, rules)
    step = rule if isinstance(rule, Step) else rule(operation, *inputs)
    if step is ENTER and primitive == "scan":
        return _unrolled(operation, rules, inputs)
    if step is ENTER or (step is KEEP and primitive in CALLS and primitive not in REMATERIALIZED):
        body, constants = body_of(operation.equation)
        return _walk(body, constants, rules, inputs, operation.dependent)
    if step is KEEP and primitive == "scan":
        outputs = _rescanned(operation, rules, inputs)
    elif step is KEEP:
        return _rematerialized(operation, rules, inputs)
    else:
        outputs = operation.as_it_stands(*inputs) if isinstance(step, Step) else step
    return outputs, [any(operation.dependent)] * len(operation.equation.outvars)


def _usual_step(equation: jex.JaxprEqn, rules: Rules) -> Rule | Step:
    primitive = equation.primitive.name
    if primitive in REMATERIALIZED:
        return KEEP
    if primitive in CALLS:
        return ENTER
    if primitive == "scan" and any(
        inner.primitive.name in rules
        for inner in equations(body_of(equation)[0])
        if inner.primitive.name not in _BODIES
    ):
        return ENTER
    return rules.get(OTHERS, LEAVE)


def body_of(equation: jex.JaxprEqn) -> tuple[jex.Jaxpr, Sequence[Any]]:
    """The jaxpr that a call, a scan or a function with a derivative of its own runs, and constants.

    Raises:
      ValueError: for an equation that the interpreter cannot enter.
    """
    primitive = equation.primitive.name
    if primitive not in _BODIES:
        raise ValueError(f"equation: got {primitive}, takes one of {', '.join(_BODIES)}")
    inner = equation.params[_BODIES[primitive]]
    if isinstance(inner, jex.ClosedJaxpr):
        return inner.jaxpr, inner.consts
    return inner, ()


def bodies(equation: jex.JaxprEqn) -> Iterator[jex.Jaxpr]:
    """Every jaxpr among an equation's parameters, the branches of a `cond` too."""
    for value in equation.params.values():
        for inner in value if isinstance(value, tuple | list) else [value]:
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield inner


def equations(jaxpr: jex.Jaxpr) -> Iterator[jex.JaxprEqn]:
    """The equations of a jaxpr and of all that it calls, each once."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in bodies(equation):
            yield from equations(inner)


def _rematerialized(
    operation: Operation, rules: Rules, inputs: list[Any]
) -> tuple[Sequence[Any], Sequence[bool]]:
    body, constants = body_of(operation.equation)
    outgoing: list[bool] = []

    def call(*inputs: Any) -> list[Any]:
        outputs, outgoing[:] = _walk(body, constants, rules, inputs, operation.dependent)
        return outputs

    parameters = operation.parameters
    call = jax.checkpoint(call, prevent_cse=parameters["prevent_cse"], policy=parameters["policy"])
    return call(*inputs), outgoing


def _parts(operation: Operation, inputs: Sequence[Any]) -> tuple[list, list, list]:
    """Of a scan's inputs: the constants, the first carry and what is read slice by slice."""
    first = operation.parameters["num_consts"]
    last = first + operation.parameters["num_carry"]
    return list(inputs[:first]), list(inputs[first:last]), list(inputs[last:])


def _unrolled(
    operation: Operation, rules: Rules, inputs: list[Any]
) -> tuple[Sequence[Any], Sequence[bool]]:
    """The steps of a scan one behind the other."""
    body, constants = body_of(operation.equation)
    fixed, carry, sliced = _parts(operation, inputs)
    fixed_flags, carry_flags, sliced_flags = _parts(operation, operation.dependent)
    length, count = operation.parameters["length"], len(carry)
    if not length:
        outputs = operation.as_it_stands(*inputs)
        return outputs, [any(operation.dependent)] * len(outputs)
    stacked: list[list[Any]] = []
    stacked_flags = [False] * (len(body.outvars) - count)
    order = reversed(range(length)) if operation.parameters["reverse"] else range(length)
    for i in order:
        slices = [jax.lax.index_in_dim(values, i, keepdims=False) for values in sliced]
        outputs, flags = _walk(
            body,
            constants,
            rules,
            [*fixed, *carry, *slices],
            [*fixed_flags, *carry_flags, *sliced_flags],
        )
        carry, carry_flags = outputs[:count], flags[:count]
        stacked.append(outputs[count:])
        stacked_flags = [a or b for a, b in zip(stacked_flags, flags[count:], strict=True)]
    if operation.parameters["reverse"]:
        stacked.reverse()
    columns = [jnp.stack(column) for column in zip(*stacked, strict=True)]
    return [*carry, *columns], [*carry_flags, *stacked_flags]


def _rescanned(operation: Operation, rules: Rules, inputs: list[Any]) -> list[Any]:
    """The same scan with the rules applied to its body."""
    body, constants = body_of(operation.equation)
    fixed, carry, sliced = _parts(operation, inputs)
    fixed_flags, carry_flags, sliced_flags = _parts(operation, operation.dependent)
    # What a step hands on may depend on all that a step reads.
    flags = [*fixed_flags, *[any(operation.dependent)] * len(carry_flags), *sliced_flags]

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs, _ = _walk(body, constants, rules, [*fixed, *carry, *slices], flags)
        return outputs[: len(carry)], outputs[len(carry) :]

    parameters = {name: operation.parameters[name] for name in ("length", "reverse", "unroll")}
    carry, stacked = jax.lax.scan(step, carry, sliced, **parameters)
    return [*carry, *stacked]

"""A model's program as units: linear maps, activations, and the single operations between them.

A network may write a batch normalisation as five operations or within its convolution, and a gelu
as one function or as eight products and sums. Rules that pass something else than a gradient
backwards (`jc2i.explainers.propagation`) must not depend on it. So `read` takes a model's program
apart, once and without computing anything, into

linear       a convolution or product with weights, and all that scales and shifts its outputs
activation   an elementwise function of one value that is not affine: relu, gelu, prelu, ...
affine       an elementwise function a x + b of one value that follows no linear map
scale        an elementwise function a x of one value: a cast, a sign, a division by a count
softmax      a softmax along some axes
held         what the model's author gave no gradient, and, if asked for, what a normalisation
             divides by
fixed        what does not depend on the image
<primitive>  every other operation, by JAX's name

and `Program.evaluate` runs them, each under the rule that a table has for its kind.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.extend import source_info_util
from jaxtyping import Array

from jc2i import checks
from jc2i.tracing import linear
from jc2i.tracing.interpreter import CALLS, ENTER, LEAVE, OTHERS, Operation, Step, bind, evaluate
from jc2i.tracing.interpreter import trace as traced

ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp
    convert_element_type copy copy_p cos cosh div eq erf erf_inv erfc exp exp2 expm1 floor ge gt
    integer_pow is_finite le log log1p logistic lt max min mul ne neg nextafter not or pow
    reduce_precision rem round rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh
    xor""".split()
)
"""Primitives whose value at a place depends on their inputs at that place alone."""

MOVEMENT = frozenset(
    """broadcast_in_dim concatenate dynamic_slice dynamic_update_slice gather name pad reshape rev
    slice split squeeze stack tile transpose unstack""".split()
)
"""Primitives that put values elsewhere; their own transposes put anything back."""

SUMS = frozenset("cumsum reduce_sum reduce_window_sum".split())
"""Primitives that add values up."""

REDUCTIONS = SUMS | frozenset(
    """argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_window_max
    reduce_window_min""".split()
)
"""Primitives that make fewer values of many."""

KNOWN = ELEMENTWISE | MOVEMENT | REDUCTIONS | frozenset(linear.PRIMITIVES)
"""All that a program may hold where it depends on the image."""

_SCALES = frozenset("neg convert_element_type copy copy_p reduce_precision".split())
_ABOVE_ZERO = frozenset("abs exp exp2 logistic sqrt square".split())
_KEEPS_SIGN = (
    MOVEMENT | REDUCTIONS | frozenset("add convert_element_type copy div min mul".split())
) - {
    "argmax",
    "argmin",
    "dynamic_slice",
    "dynamic_update_slice",
    "gather",
}
_LEVELS = ("scale", "affine", "activation")
_SCALE, _AFFINE, _ACTIVATION = range(3)


@dataclasses.dataclass(frozen=True)
class Unit:
    """One step of a program.

    Attributes:
      kind: see the module.
      equations: what it computes, in order.
      inputs: the values that depend on the image of which it is a function.
      held: those among what it reads that depend on the image and are taken for fixed.
      outputs: what it gives.
      first: whether no linear map stands between it and the image.
      nonnegative: whether its inputs are known not to be below 0, behind a rectifier, say.
      chain: of a linear map: how its outputs are scaled and shifted.
    """

    kind: str
    equations: tuple[jex.JaxprEqn, ...]
    inputs: tuple[Any, ...]
    held: tuple[Any, ...]
    outputs: tuple[Any, ...]
    first: bool = False
    nonnegative: bool = False
    chain: linear.Chain | None = None

    @property
    def equation(self) -> jex.JaxprEqn:
        """The operation, or the first of several."""
        return self.equations[0]

    @property
    def axes(self) -> tuple[int, ...]:
        """Of a softmax, the axes it sums over."""
        return next(e.params["axes"] for e in self.equations if "axes" in e.params)

    @property
    def source(self) -> str:
        """Where the model's author wrote it, as `Operation.source`."""
        return Operation(self.equation, (), ()).source


@dataclasses.dataclass(frozen=True)
class Application:
    """A unit at its inputs, as a rule sees it.

    Attributes:
      unit: what is applied.
      inputs: the values of `unit.inputs`.
      held: the values of `unit.held`.
      function: (inputs, held) -> the outputs, both tuples.
      linear: of a linear map: its kernel and its bias.
    """

    unit: Unit
    inputs: tuple[Array, ...]
    held: tuple[Array, ...]
    function: Callable[[tuple, tuple], tuple]
    linear: linear.Linear | None = None


Rule = Callable[[Application], Sequence[Any]]
"""An application -> the unit's outputs, perhaps with another way back than their gradient's."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A model's program at images of one shape, taken apart."""

    closed: jex.ClosedJaxpr
    structure: Any
    units: tuple[Unit, ...]

    def evaluate(self, rules: Mapping[str, Rule], images: checks.Array) -> Any:
        """What the model returns, each unit under its rule.

        Args:
          rules: by kind; `OTHERS` for those that are not named. Units without a rule are computed
            as they stand, with their own gradients.
          images: images of the shape and type that the program was read at.

        Returns:
          The model's result.
        """
        outputs = self._run(rules, images, self.closed.jaxpr.outvars)
        return jax.tree.unflatten(self.structure, outputs)

    def value(self, variable: Any, images: checks.Array) -> Array:
        """The value that a variable of the program has at some images.

        Args:
          variable: an input or output of one of the units.
          images: images of the shape and type that the program was read at.

        Returns:
          The value.
        """
        return self._run({}, images, [variable])[0]

    def _run(
        self, rules: Mapping[str, Rule], images: checks.Array, wanted: Sequence[Any]
    ) -> list[Any]:
        jaxpr = self.closed.jaxpr
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, self.closed.consts, strict=True))
        values.update(zip(jaxpr.invars, jax.tree.leaves(images), strict=True))
        missing = set(_variables(wanted)) - set(values)
        for unit in self.units:
            if not missing:
                break
            values.update(zip(unit.outputs, _applied(unit, rules, values), strict=True))
            missing.difference_update(unit.outputs)
        return [_read(values, atom) for atom in wanted]


def _applied(unit: Unit, rules: Mapping[str, Rule], values: Mapping[Any, Any]) -> Sequence[Any]:
    inputs = tuple(values[variable] for variable in unit.inputs)
    held = tuple(values[variable] for variable in unit.held)

    def run(inputs: tuple, held: tuple) -> tuple:
        inner = dict(values)
        inner.update(zip((*unit.inputs, *unit.held), (*inputs, *held), strict=True))
        for equation in unit.equations:
            outputs = bind(equation, *(_read(inner, atom) for atom in equation.invars))
            inner.update(zip(equation.outvars, outputs, strict=True))
        return tuple(inner[variable] for variable in unit.outputs)

    if unit.kind == "fixed":
        return run(inputs, held)
    function: Callable[[tuple, tuple], tuple] = run
    layer = None
    if unit.chain is not None:
        layer = unit.chain.linear(lambda atom: _read(values, atom))
        function = _of(layer)
    held = tuple(map(jax.lax.stop_gradient, held))
    rule = rules.get(unit.kind, rules.get(OTHERS))
    if rule is None:
        return function(inputs, held)
    return rule(Application(unit, inputs, held, function, layer))


def _of(layer: linear.Linear) -> Callable[[tuple, tuple], tuple]:
    return lambda inputs, held: (layer(*inputs),)


def _read(values: Mapping[Any, Any], atom: Any) -> Any:
    return atom.val if isinstance(atom, jex.Literal) else values[atom]


def read(
    model: Callable,
    images: checks.Array | jax.ShapeDtypeStruct,
    *,
    method: str = "",
    whole: Collection[str] = (),
    normalisations_held: bool = False,
    known: Collection[str] | None = KNOWN,
) -> Program:
    """Takes a model's program apart.

    Calls, loops with a fixed number of steps and functions with a derivative of their own are
    entered, the loops step by step, and nothing of it is rematerialised.

    Args:
      model: images -> scores, any JAX function.
      images: images that it accepts.
      method: what needs rules, for the message of a refusal.
      whole: primitives that would be entered and are not.
      normalisations_held: whether what a normalisation divides by, a value reduced over axes and
        inverted, is taken for fixed.
      known: primitives that may depend on the image; None for all.

    Returns:
      The program.

    Raises:
      ValueError: for a primitive that is not known, with the line of the model that uses it.
    """

    def enter(operation: Operation, *inputs: Any) -> Step:
        name = operation.equation.primitive.name
        if operation.source:
            calls.append(operation)
        return LEAVE if name in whole else ENTER

    def others(operation: Operation, *inputs: Any) -> list[Any]:
        name = operation.equation.primitive.name
        differentiable = any(map(_is_real, operation.equation.outvars))
        # JAX keeps no line within its own functions: theirs is that of their call.
        located = operation if operation.source or not calls else calls[-1]
        if known is not None and any(operation.dependent) and differentiable:
            where = f" at {located.source}" if located.source else ""
            is_complex = any(map(_is_complex, operation.equation.outvars))
            takes = f"operations that {method or 'this'} has a rule for, of real numbers"
            checks.require(
                name in known and not is_complex, "model", f"one with {name}{where}", takes
            )
        with source_info_util.user_context(located.equation.source_info.traceback):
            return bind(operation.equation, *inputs)

    entered = [*CALLS, "scan", "custom_jvp_call", "custom_vjp_call"]
    rules = {**dict.fromkeys(entered, enter), OTHERS: others}

    def flat(images: Any) -> Any:
        closed, tree = traced(model, images)
        structure.append(tree)
        return evaluate(closed, rules, *jax.tree.leaves(images))

    calls: list[Operation] = []
    structure: list[Any] = []
    closed, _ = traced(flat, images)
    units = _Reader(closed.jaxpr, normalisations_held).units
    return Program(closed, structure[0], tuple(units))


def _is_real(variable: Any) -> bool:
    return jnp.issubdtype(variable.aval.dtype, jnp.inexact)


def _is_complex(variable: Any) -> bool:
    return jnp.issubdtype(variable.aval.dtype, jnp.complexfloating)


class _Reader:
    """Reads a flat program from its beginning to its end.

    An elementwise function is not a unit yet when its operations are read: it grows while
    operation after operation depends on the image through its root alone, and becomes one when
    something else reads its value.
    """

    def __init__(self, jaxpr: jex.Jaxpr, normalisations_held: bool) -> None:
        self.normalisations_held = normalisations_held
        self.units: list[Unit] = []
        self.makers = {v: equation for equation in jaxpr.eqns for v in equation.outvars}
        self.order = {id(equation): i for i, equation in enumerate(jaxpr.eqns)}
        self.readers: dict[Any, list[Any]] = collections.defaultdict(list)
        for equation in jaxpr.eqns:
            for variable in set(_variables(equation.invars)):
                self.readers[variable].append(equation)
        self.results = set(_variables(jaxpr.outvars))
        self.dependent = set(jaxpr.invars)
        for equation in jaxpr.eqns:
            if not self.dependent.isdisjoint(_variables(equation.invars)):
                self.dependent.update(equation.outvars)
        self.held: set[Any] = set()
        self.reduced: set[Any] = set()
        self.behind: set[Any] = set()
        """Values behind a linear map."""
        self.members: dict[Any, tuple[Any, int]] = {}
        """Values of elementwise functions that are not units yet: the root, and the level."""
        self.chains: dict[int, linear.Chain] = {}
        """By their last equation."""
        self.softmaxes: dict[int, tuple[Any, tuple]] = {}
        self.skipped: set[int] = set()
        self.nonnegative: set[Any] = set()
        for equation in jaxpr.eqns:
            if self._is_nonnegative(equation):
                self.nonnegative.update(equation.outvars)
        for equation in jaxpr.eqns:
            self._look_ahead(equation)
        for equation in jaxpr.eqns:
            if id(equation) not in self.skipped:
                self._read(equation)
        for variable in jaxpr.outvars:
            self._finish([variable])

    def _look_ahead(self, equation: jex.JaxprEqn) -> None:
        """Finds what is one unit although it is several operations: linear maps, softmaxes."""
        name = equation.primitive.name
        if name in linear.PRIMITIVES:
            chain = linear.chain(equation, self._is_fixed, self._only_reader, self.makers)
            if chain is not None:
                self.chains[id(chain.equations[-1])] = chain
                self.skipped.update(id(e) for e in chain.equations[:-1])
        elif name == "div":
            found = self._softmax(equation)
            if found is not None:
                self.softmaxes[id(equation)] = found
                self.skipped.update(id(e) for e in found[1][:-1])

    def _is_nonnegative(self, equation: jex.JaxprEqn) -> bool:
        """Whether an operation's values cannot be below 0, as far as its inputs tell."""

        def known(atom: Any) -> bool:
            if isinstance(atom, jex.Literal):
                return bool(jnp.ndim(atom.val) == 0 and atom.val >= 0)
            return atom in self.nonnegative

        name, known_inputs = equation.primitive.name, list(map(known, equation.invars))
        if name in _ABOVE_ZERO:
            return True
        if name == "max":
            return any(known_inputs)
        if name == "clamp":
            return known_inputs[0]
        return name in _KEEPS_SIGN and all(known_inputs)

    def _is_fixed(self, atom: Any) -> bool:
        return isinstance(atom, jex.Literal) or atom not in self.dependent

    def _only_reader(self, variable: Any) -> jex.JaxprEqn | None:
        readers = self.readers[variable]
        alone = len(readers) == 1 and variable not in self.results
        return readers[0] if alone and list(readers[0].invars).count(variable) == 1 else None

    def _softmax(self, division: jex.JaxprEqn) -> tuple[Any, tuple] | None:
        """The input and the equations of exp(x) / sum exp(x), where a division ends one."""
        numerator, below = cast("list[Any]", division.invars)
        exponential = None if isinstance(numerator, jex.Literal) else self.makers.get(numerator)
        if exponential is None or exponential.primitive.name != "exp":
            return None
        equations = [division]
        while not isinstance(below, jex.Literal) and below in self.makers:
            maker = self.makers[below]
            equations.insert(0, maker)
            if maker.primitive.name == "reduce_sum":
                break
            if maker.primitive.name not in ("broadcast_in_dim", "reshape"):
                return None
            below = maker.invars[0]
        if equations[0].primitive.name != "reduce_sum" or equations[0].invars[0] is not numerator:
            return None
        # What another operation reads, the sum for its logarithm, say, has to be there by itself.
        inside = {id(e) for e in equations}
        made = [numerator, *(v for e in equations[:-1] for v in e.outvars)]
        if any(v in self.results or {id(e) for e in self.readers[v]} - inside for v in made):
            return None
        equations.insert(0, exponential)
        given: Any = exponential.invars[0]
        shift = self.makers.get(given)
        if shift is not None and shift.primitive.name == "sub" and self._only_reader(given):
            largest = shift.invars[1]
            if isinstance(largest, jex.Literal) or self._comes_from_stop_gradient(largest):
                equations.insert(0, shift)
                given = shift.invars[0]
        return (given, tuple(equations)) if given in self.dependent else None

    def _comes_from_stop_gradient(self, variable: Any) -> bool:
        while variable in self.makers:
            maker = self.makers[variable]
            if maker.primitive.name == "stop_gradient":
                return True
            if maker.primitive.name not in ("broadcast_in_dim", "reshape"):
                return False
            variable = maker.invars[0]
        return variable not in self.dependent

    def _read(self, equation: jex.JaxprEqn) -> None:
        name = equation.primitive.name
        varying = [v for v in dict.fromkeys(_variables(equation.invars)) if v in self.dependent]
        if not varying:
            self._emit("fixed", (equation,), ())
            return
        if (name in REDUCTIONS) or (
            name in ELEMENTWISE | MOVEMENT and all(v in self.reduced for v in varying)
        ):
            self.reduced.update(equation.outvars)
        if id(equation) in self.chains:
            chain = self.chains[id(equation)]
            self._finish([chain.input])
            self._emit("linear", chain.equations, [chain.input], chain)
            return
        if id(equation) in self.softmaxes:
            given, equations = self.softmaxes[id(equation)]
            outside = {v for e in equations for v in _variables(e.invars)} - {
                v for e in equations for v in e.outvars
            }
            self._finish(outside)
            self._emit("softmax", equations, [given])
            return
        free = [v for v in varying if v not in self.held]
        if not free or name == "stop_gradient" or self._is_divisor(equation, free):
            self._finish(varying)
            self._emit("held", (equation,), ())
            self.held.update(equation.outvars)
            return
        if name not in ELEMENTWISE:
            self._emit_alone(equation, varying, free)
            return
        roots = {self._root(v) for v in free}
        if len(roots) > 1:  # what chooses by a comparison of something else is held
            for v in free:
                if not _is_real(v):
                    self._finish([v])
            free = [v for v in free if v not in self.held]
            roots = {self._root(v) for v in free}
        if len(roots) == 1:
            (output,) = equation.outvars
            self.members[output] = (roots.pop(), self._level(equation, free))
            return
        self._emit_alone(equation, varying, free)

    def _emit_alone(self, equation: jex.JaxprEqn, varying: list, free: list) -> None:
        """Makes a unit of one operation, by its own name where it can be differentiated."""
        self._finish(varying)
        differentiable = any(map(_is_real, equation.outvars))
        self._emit(equation.primitive.name if differentiable else "held", (equation,), free)
        if not differentiable:
            self.held.update(equation.outvars)

    def _is_divisor(self, equation: jex.JaxprEqn, free: list) -> bool:
        """Whether a normalisation divides by it: a reduced value, inverted."""
        name = equation.primitive.name
        inverted = (
            name == "rsqrt"
            or (name == "integer_pow" and equation.params["y"] < 0)
            or (name == "div" and self._is_fixed(equation.invars[0]))
        )
        return self.normalisations_held and inverted and all(v in self.reduced for v in free)

    def _root(self, variable: Any) -> Any:
        return self.members[variable][0] if variable in self.members else variable

    def _level(self, equation: jex.JaxprEqn, free: list) -> int:
        """How far from a multiple of its root an elementwise value is."""
        name, atoms = equation.primitive.name, equation.invars
        level = max(self.members[v][1] if v in self.members else _SCALE for v in free)
        inside = [not isinstance(a, jex.Literal) and a in free for a in atoms]
        if not all(map(_is_real, [*free, *equation.outvars])):
            return _ACTIVATION
        if name in _SCALES or (name == "mul" and sum(inside) == 1):
            return level
        if name == "div" and inside == [True, False]:
            return level
        if name in ("add", "add_any", "sub"):
            return level if all(inside) else max(level, _AFFINE)
        if name == "select_n" and not inside[0]:
            return max(level, _AFFINE)
        return _ACTIVATION

    def _finish(self, atoms: Iterable[Any]) -> None:
        """Makes units of the elementwise functions whose values are read from outside."""
        for variable in dict.fromkeys(_variables(atoms)):
            if variable not in self.members:
                continue
            root, level = self.members[variable]
            needed, equations = [variable], {}
            while needed:
                maker = self.makers[needed.pop()]
                equations[id(maker)] = maker
                needed += [v for v in _variables(maker.invars) if v in self.members]
            ordered = tuple(sorted(equations.values(), key=lambda e: self.order[id(e)]))
            del self.members[variable]
            kind = _LEVELS[level] if _is_real(variable) else "held"
            self._emit(kind, ordered, [root] if kind != "held" else (), outputs=(variable,))
            if kind == "held":
                self.held.add(variable)

    def _emit(
        self,
        kind: str,
        equations: Sequence[jex.JaxprEqn],
        inputs: Iterable[Any],
        chain: linear.Chain | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        inputs = tuple(inputs)
        outputs = tuple(equations[-1].outvars if outputs is None else outputs)
        inside = {v for equation in equations for v in equation.outvars}
        others = dict.fromkeys(v for e in equations for v in _variables(e.invars))
        held = tuple(v for v in others if v in self.dependent and v not in {*inputs, *inside})
        first = self.behind.isdisjoint({*inputs, *held})
        if kind == "linear" or not first:
            self.behind.update(outputs)
        nonnegative = self.nonnegative.issuperset(inputs)
        self.units.append(
            Unit(kind, tuple(equations), inputs, held, outputs, first, nonnegative, chain)
        )


def _variables(atoms: Iterable[Any]) -> Iterable[Any]:
    return (atom for atom in atoms if not isinstance(atom, jex.Literal))

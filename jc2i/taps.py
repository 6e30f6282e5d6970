"""Looking inside a model: its named activations, read or replaced.

A model names an activation with JAX's own `jax.ad_checkpoint.checkpoint_name(value, "name")`. Any
function will do, a Flax NNX or Linen module among them, because names are looked up in the jaxpr.

- `names`: what there is
- `capture`: an activation
- `replace`: the scores with another value in an activation's place
- `cut`: both from one trace, the second as a function of the value
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, overload

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jaxtyping import Float

from jc2i import checks, pytrees, scores
from jc2i.checks import Array, describe, invalid, require
from jc2i.tracing.interpreter import (
    CALLS,
    ENTER,
    LEAVE,
    Operation,
    Step,
    bind,
    bodies,
    body_of,
    evaluate,
    trace,
)


def names(
    model: Callable, images: Float[Array, "batch ..."] | jax.ShapeDtypeStruct
) -> dict[str, jax.ShapeDtypeStruct]:
    """The named activations of a model, in order of execution.

    A name that is used several times appears as `name#0`, `name#1`, ..., one in a `scan` once for
    each step. Names inside `while`, branches and functions with a derivative of their own are left
    out: they can be neither read nor replaced.

    Args:
      model: images -> scores, any JAX function.
      images: images that the model accepts, or a `jax.ShapeDtypeStruct` of them.

    Returns:
      The shape and type of each activation.
    """
    closed, _ = _traced(model, images)
    taps = [tap for tap in _taps(closed.jaxpr) if tap.inside is None]
    used = [tap.name for tap in taps]
    seen: dict[str, int] = {}
    listed = {}
    for tap in taps:
        count = seen[tap.name] = seen.get(tap.name, -1) + 1
        label = tap.name if used.count(tap.name) == 1 else f"{tap.name}#{count}"
        listed[label] = jax.ShapeDtypeStruct(tap.shape, tap.dtype)
    return listed


@overload
def capture(model: Callable, images: Float[Array, "batch ..."], layer: str) -> jax.Array: ...
@overload
def capture(
    model: Callable, images: Float[Array, "batch ..."], layer: Sequence[str]
) -> tuple[jax.Array, ...]: ...
def capture(
    model: Callable, images: Float[Array, "batch ..."], layer: str | Sequence[str]
) -> jax.Array | tuple[jax.Array, ...]:
    """The value of a named activation, or of several at once.

    Under `jit`, what the model computes after the activation falls away.

    Args:
      model: images -> scores, any JAX function.
      images: images that the model accepts.
      layer: a name of `names(model, images)`, or several.

    Returns:
      The activation, or a tuple of one for each name.

    Raises:
      ValueError: for a name that there is not (the message lists those there are), that is used
        several times, or that is inside a `while`, a branch or a custom derivative.
    """
    return cut(model, images, layer)[0]


def replace(
    model: Callable,
    images: Float[Array, "batch ..."],
    layer: str | Sequence[str],
    value: Array | Sequence[Array],
) -> Float[jax.Array, "batch classes"]:
    """The scores of a model whose named activation has another value.

    Under `jit`, what only the replaced activation depended on falls away; a connection around the
    layer still works. The scores are differentiable with respect to the value.

    Args:
      model: images -> scores, any JAX function.
      images: images that the model accepts.
      layer: a name of `names(model, images)`, or several.
      value: what takes the activation's place, of its shape and type; one for each name.

    Returns:
      The scores.

    Raises:
      ValueError: as `capture`, or for a value of another shape or type.
    """
    behind: Callable[[Any], jax.Array] = cut(model, images, layer)[1]
    return behind(value)


@overload
def cut(
    model: Callable, images: Float[Array, "batch ..."], layers: str
) -> tuple[jax.Array, Callable[[Array], jax.Array]]: ...
@overload
def cut(
    model: Callable, images: Float[Array, "batch ..."], layers: Sequence[str]
) -> tuple[tuple[jax.Array, ...], Callable[[Sequence[Array]], jax.Array]]: ...
def cut(
    model: Callable, images: Float[Array, "batch ..."], layers: str | Sequence[str]
) -> tuple[Any, Callable[[Any], jax.Array]]:
    """A model in two parts: a named activation, and the scores as a function of its value.

    What does not depend on the activation, a connection around the layer for instance, is computed
    once, here: a loop over many values in its place computes only what is behind the layer. A
    `scan` or a rematerialised call around the activation is taken apart.

    Args:
      model: images -> scores, any JAX function.
      images: images that the model accepts.
      layers: a name of `names(model, images)`, or several.

    Returns:
      The activation, or a tuple of one for each name; and a function `value(s) -> scores` that
      takes what `replace` takes, under any of JAX's transformations.

    Raises:
      ValueError: as `capture`; the function, for a value of another shape or type.
    """
    listed = [layers] if isinstance(layers, str) else layers
    fits = isinstance(listed, list | tuple) and len(listed) > 0
    fits = fits and all(isinstance(layer, str) for layer in listed)
    require(fits, "layers", describe(layers), "a name of an activation, or a list of several")
    takes = "an array of images that the model accepts"
    images = jnp.asarray(checks.array("images", images, takes, of=checks.REAL))
    closed, structure = _traced(model, images)
    taps = list(_taps(closed.jaxpr))
    keys = [_resolve(taps, layer) for layer in listed]
    opened = _opened(closed, {key: _tap(taps, key) for key in keys}, jax.tree.leaves(images))
    known, later = _front(opened)
    # One activation may lie behind another: its own value stands in each one's place here.
    own = dict(zip(opened.places.values(), opened.clean, strict=True))
    activations = dict(zip(opened.places, _run(later, known, opened.clean, own), strict=True))

    def behind(value: Any) -> jax.Array:
        values = [value] if isinstance(layers, str) else value
        fits = isinstance(values, list | tuple) and len(values) == len(keys)
        require(fits, "value", describe(value), f"a list of one for each of {listed}")
        given = dict(known)
        for layer, key, new in zip(listed, keys, values, strict=True):
            given[opened.places[key]] = _fitting(new, layer, _tap(taps, key))
        return jax.tree.unflatten(structure, _run(later, given, opened.results))

    found = tuple(activations[key] for key in keys)
    return (found[0] if isinstance(layers, str) else found), behind


def _traced(model: Callable, images: Any) -> tuple[jex.ClosedJaxpr, Any]:
    """A model's jaxpr, and the structure of its result."""
    require(callable(model), "model", describe(model), scores.MODEL)
    if not isinstance(images, jax.ShapeDtypeStruct):
        takes = "an array of images that the model accepts, or a jax.ShapeDtypeStruct"
        images = checks.array("images", images, takes, of=checks.REAL)
    with pytrees.at_fault("model", images):
        return trace(model, images)


_Key = tuple[str, int]
"""A name, and which of its uses."""


class _Tap(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: Any
    inside: str | None
    """The primitive whose body hides it, or None."""


class _Opened(NamedTuple):
    """A model's program in which the wanted activations are inputs, and results.

    No equation but `while`, branches and custom derivatives has both a part before one of them and
    a part behind it.
    """

    known: dict[Any, Any]
    """The values of its constants and of the images."""
    equations: Sequence[jex.JaxprEqn]
    results: Sequence[Any]
    places: dict[_Key, Any]
    """The variables that are read in the activations' places."""
    clean: Sequence[Any]
    """The activations themselves, in the order of `places`."""


def _opened(closed: jex.ClosedJaxpr, wanted: dict[_Key, _Tap], arguments: Sequence[Any]) -> _Opened:
    def evaluated(arguments: list[Any], places: list[Any]) -> tuple[list[Any], list[Any]]:
        opening = _Opening(dict(zip(wanted, places, strict=True)))
        rules = dict.fromkeys([*CALLS, "scan"], opening.body) | {"name": opening.name}
        outputs = evaluate(closed, rules, *arguments)
        return outputs, [opening.found[key] for key in wanted]

    shapes = [jax.ShapeDtypeStruct(tap.shape, tap.dtype) for tap in wanted.values()]
    opened = jax.make_jaxpr(evaluated)(list(arguments), shapes)
    jaxpr, count = opened.jaxpr, len(arguments)
    known = dict(zip(jaxpr.constvars, opened.consts, strict=True))
    known.update(zip(jaxpr.invars[:count], arguments, strict=True))
    places = dict(zip(wanted, jaxpr.invars[count:], strict=True))
    last = len(jaxpr.outvars) - len(places)
    return _Opened(known, jaxpr.eqns, jaxpr.outvars[:last], places, jaxpr.outvars[last:])


class _Opening:
    """The rules that put other values in the places of names, and take the bodies around apart."""

    def __init__(self, places: dict[_Key, Any]) -> None:
        self.places = places
        self.found: dict[_Key, Any] = {}
        self.seen: Counter[str] = Counter()

    def name(self, operation: Operation, value: Any) -> Sequence[Any] | Step:
        name = operation.parameters["name"]
        key = (name, self.seen[name])
        self.seen[name] += 1
        if key not in self.places:
            return LEAVE
        self.found[key] = value
        return [self.places[key]]

    def body(self, operation: Operation, *_: Any) -> Step:
        inside = Counter(tap.name for tap in _taps_of(operation.equation) if tap.inside is None)
        for name, number in self.places:
            if 0 <= number - self.seen[name] < inside[name]:
                return ENTER
        self.seen.update(inside)
        return LEAVE


_NOTHING: Mapping[Any, Any] = MappingProxyType({})


def _front(opened: _Opened) -> tuple[dict[Any, Any], list[jex.JaxprEqn]]:
    """The values that depend on no activation, and the equations that do."""
    known, later = dict(opened.known), []
    behind = set(opened.places.values())
    for equation in opened.equations:
        if not behind.isdisjoint(_variables(equation.invars, _NOTHING)):
            later.append(equation)
            behind.update(equation.outvars)
        else:
            _evaluate(equation, known)
    return known, later


def _run(
    equations: Sequence[jex.JaxprEqn],
    known: Mapping[Any, Any],
    results: Sequence[Any],
    same: Mapping[Any, Any] = _NOTHING,
) -> list[Any]:
    """The values of some results, and no equation that they do not need.

    `same` says which variables have the value of another one, computed before they are read.
    """
    needed = set(_variables(results, same))
    kept = []
    for equation in reversed(equations):
        if equation.effects or not needed.isdisjoint(equation.outvars):
            kept.append(equation)
            needed.update(_variables(equation.invars, same))
    values = dict(known)
    for equation in reversed(kept):
        _evaluate(equation, values, same)
    return [_read(atom, values, same) for atom in results]


def _evaluate(
    equation: jex.JaxprEqn, values: dict[Any, Any], same: Mapping[Any, Any] = _NOTHING
) -> None:
    inputs = [_read(atom, values, same) for atom in equation.invars]
    values.update(zip(equation.outvars, bind(equation, *inputs), strict=True))


def _read(atom: Any, values: Mapping[Any, Any], same: Mapping[Any, Any]) -> Any:
    while not isinstance(atom, jex.Literal) and atom in same:
        atom = same[atom]
    return atom.val if isinstance(atom, jex.Literal) else values[atom]


def _variables(atoms: Sequence[Any], same: Mapping[Any, Any]) -> list[Any]:
    """The variables among the inputs of an equation, those of the same value as one."""
    found = []
    for atom in atoms:
        while not isinstance(atom, jex.Literal) and atom in same:
            atom = same[atom]
        if not isinstance(atom, jex.Literal):
            found.append(atom)
    return found


def _taps(jaxpr: jex.Jaxpr) -> Iterator[_Tap]:
    """All names, in order of execution."""
    for equation in jaxpr.eqns:
        yield from _taps_of(equation)


def _taps_of(equation: jex.JaxprEqn) -> Iterator[_Tap]:
    primitive = equation.primitive.name
    if primitive == "name":
        value: Any = equation.outvars[0].aval
        yield _Tap(equation.params["name"], value.shape, value.dtype, None)
    elif primitive in CALLS or primitive == "scan":
        inside = list(_taps(body_of(equation)[0]))
        yield from inside * equation.params.get("length", 1)
    else:
        for inner in bodies(equation):
            yield from (tap._replace(inside=tap.inside or primitive) for tap in _taps(inner))


def _resolve(taps: Sequence[_Tap], layer: str) -> _Key:
    reachable = [tap.name for tap in taps if tap.inside is None]
    name, _, number = layer.rpartition("#")
    numbered = bool(name) and number.isdecimal() and layer not in reachable
    key = (name, int(number)) if numbered else (layer, 0)
    uses = reachable.count(key[0])
    if numbered and key[1] < uses:
        return key
    if not numbered and uses == 1:
        return key
    got = repr(layer)
    if uses:
        listed = ", ".join(repr(f"{key[0]}#{i}") for i in range(uses))
        got += "" if numbered else f", which names {uses} activations"
        raise invalid("layer", got, listed)
    hidden = sorted({str(tap.inside) for tap in taps if tap.name == key[0]})
    if hidden:
        got += f", which is inside {' and '.join(hidden)} and cannot be reached"
    listed = ", ".join(dict.fromkeys(reachable)) or "none: this model names no activation"
    raise invalid("layer", got, f"one of {listed}" if reachable else listed)


def _tap(taps: Sequence[_Tap], key: _Key) -> _Tap:
    return [tap for tap in taps if tap.inside is None and tap.name == key[0]][key[1]]


def _fitting(value: Any, layer: str, tap: _Tap) -> jax.Array:
    takes = f"{tap.dtype}{list(tap.shape)}, as {layer!r} is"
    value = checks.array("value", value, takes, of=checks.NUMERIC, shape=tap.shape)
    require(value.dtype == tap.dtype, "value", describe(value), takes)
    return jnp.asarray(value)

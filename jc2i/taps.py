"""Looking inside a model: its named activations, read or replaced.

A model names an activation with JAX's own `jax.ad_checkpoint.checkpoint_name(value, "name")`. Any
function will do, a Flax NNX or Linen module among them, because names are looked up in the jaxpr.

- `names`: what there is
- `capture`: an activation
- `replace`: the scores with another value in an activation's place
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jc2i.checks import Array, describe, invalid, require
from jc2i.jaxpr import CALLS, REMATERIALIZED, Rule, body, evaluate, trace


def names(
    model: Callable, images: Float[Array, "batch ..."] | jax.ShapeDtypeStruct
) -> dict[str, jax.ShapeDtypeStruct]:
    """The named activations of a model, in order of execution.

    A name that is used several times appears as `name#0`, `name#1`, ... Names inside loops,
    branches and functions with a derivative of their own are left out: they can be neither read
    nor replaced.

    Args:
      model: images -> scores, any JAX function.
      images: images that the model accepts, or a `jax.ShapeDtypeStruct` of them.

    Returns:
      The shape and type of each activation.
    """
    closed, _ = trace(model, images)
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
        several times, or that is inside a loop, a branch or a custom derivative.
    """
    closed, _ = trace(model, images)
    layers = [layer] if isinstance(layer, str) else list(layer)
    wanted = [_resolve(closed.jaxpr, each) for each in layers]
    found: dict[_Key, jax.Array] = {}

    def keep(key: _Key, value: jax.Array) -> jax.Array:
        found[key] = value
        return value

    # A value that a rematerialised call computes cannot leave it, so such calls are taken apart.
    rules: dict[str, Rule] = {"name": _Named(keep)}
    for name in REMATERIALIZED:
        rules[name] = functools.partial(_inline, name, rules)
    evaluate(closed.jaxpr, closed.consts, rules, *jax.tree.leaves(images))
    values = tuple(found[key] for key in wanted)
    return values[0] if isinstance(layer, str) else values


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
    closed, structure = trace(model, images)
    layers = [layer] if isinstance(layer, str) else list(layer)
    values = [value] if isinstance(layer, str) else list(value)
    require(
        len(values) == len(layers), "value", f"{len(values)} values", f"one for each of {layers}"
    )
    replacements = {}
    for each, new in zip(layers, values, strict=True):
        key = _resolve(closed.jaxpr, each)
        replacements[key] = _fitting(new, each, _tap(closed.jaxpr, key))
    rules = {"name": _Named(lambda key, old: replacements.get(key, old))}
    outputs = evaluate(closed.jaxpr, closed.consts, rules, *jax.tree.leaves(images))
    return jax.tree.unflatten(structure, outputs)


def _inline(
    name: str, rules: Mapping[str, Rule], parameters: Mapping[str, Any], *inputs: Array
) -> Sequence[Array]:
    return body(name, parameters, rules)(*inputs)


_Key = tuple[str, int]
"""A name, and which of its uses."""


class _Tap(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: Any
    inside: str | None
    """The primitive whose body hides it, or None."""


class _Named:
    """The rule for named values: counts the uses of each name in order of execution."""

    def __init__(self, rule: Callable[[_Key, jax.Array], jax.Array]) -> None:
        self.rule = rule
        self.seen: dict[str, int] = {}

    def __call__(self, parameters: Mapping[str, Any], value: jax.Array) -> list[jax.Array]:
        name = parameters["name"]
        count = self.seen[name] = self.seen.get(name, -1) + 1
        return [self.rule((name, count), value)]


def _taps(jaxpr: jex.Jaxpr, inside: str | None = None) -> Iterator[_Tap]:
    for equation in jaxpr.eqns:
        primitive, parameters = equation.primitive.name, equation.params
        if primitive == "name":
            value: Any = equation.outvars[0].aval
            yield _Tap(parameters["name"], value.shape, value.dtype, inside)
            continue
        for inner in _bodies(parameters):
            yield from _taps(inner, inside or (None if primitive in CALLS else primitive))


def _bodies(parameters: Mapping[str, Any]) -> Iterator[jex.Jaxpr]:
    for value in parameters.values():
        for inner in value if isinstance(value, tuple | list) else [value]:
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield inner


def _resolve(jaxpr: jex.Jaxpr, layer: str) -> _Key:
    taps = list(_taps(jaxpr))
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


def _tap(jaxpr: jex.Jaxpr, key: _Key) -> _Tap:
    return [tap for tap in _taps(jaxpr) if tap.inside is None and tap.name == key[0]][key[1]]


def _fitting(value: Any, layer: str, tap: _Tap) -> jax.Array:
    takes = f"{tap.dtype}{list(tap.shape)}, as {layer!r} is"
    arrays = isinstance(value, jax.Array | np.ndarray)
    if not arrays or value.shape != tap.shape or value.dtype != tap.dtype:
        raise invalid("value", describe(value), takes)
    return jnp.asarray(value)

"""A callable taken apart: its arrays, which are arguments of a compiled program, and the rest.

A model is compiled once for each structure and called with any weights. So `as_pytree` opens what
holds weights without being a pytree (`functools.partial`, bound methods, plain objects with a
`__call__`), and `split` tells a pytree's arrays from its other leaves, which are static. A plain
function stays whole: what it closes over is a constant of the compiled program, as under `jax.jit`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np

from jc2i import checks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PlainFunction:
    """A callable without arrays (a lambda, say) as a pytree without leaves."""

    function: Callable = dataclasses.field(metadata={"static": True})

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **options)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Partial:
    """A `functools.partial` whose arguments are leaves."""

    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*self.arguments, *arguments, **{**self.options, **options})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Bound:
    """A method whose object's arrays are leaves."""

    owner: Any
    function: Callable = dataclasses.field(metadata={"static": True})

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(rebuilt(self.owner), *arguments, **options)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Instance:
    """An object of a class that JAX does not know, by its attributes."""

    attributes: dict[str, Any]
    kind: type = dataclasses.field(metadata={"static": True})

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return rebuilt(self)(*arguments, **options)


@dataclasses.dataclass(frozen=True)
class Same:
    """Something that cannot be hashed: equal to itself alone."""

    value: Any = dataclasses.field(compare=False)
    identity: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", id(self.value))


@dataclasses.dataclass(frozen=True)
class Rest:
    """What is left of a pytree without its arrays, hashable."""

    structure: Any
    leaves: tuple[Hashable, ...]


ABSENT = object()
"""Stands in `Rest.leaves` where an array was."""


def as_pytree(argument: str, function: Any, takes: str) -> Any:
    """A callable as a callable pytree: leaves that hold arrays of their own are opened.

    Raises:
      ValueError: if it cannot be called, or taken apart: an attribute leads back to it, say.
    """
    if not callable(function):  # described only then: a model's weights are fetched to be printed
        raise checks.invalid(argument, checks.describe(function), takes)
    try:
        if not _is_leaf(function):
            return function
        opened = _opened(function)
    except Exception as error:  # one that holds itself, or a dict whose keys have no order
        why = f"{type(error).__name__}: {error}"
        got = f"an object of {type(function).__name__} that JAX cannot take apart ({why})"
        raise checks.invalid(argument, got, takes) from error
    return PlainFunction(opened) if _is_leaf(opened) else opened


@contextlib.contextmanager
def at_fault(argument: str, images: Any) -> Iterator[None]:
    """Around the call of a model or explainer: what goes wrong in it is said in its name.

    A `TypeError` or `ValueError` of a model is most often that of images that do not fit it.

    Args:
      argument: `"model"`, or what else is called.
      images: what it is called on.

    Raises:
      ValueError: for any exception but a refusal, which says itself what is wrong.
    """
    try:
        yield
    except checks.Refusal:
        raise
    except Exception as error:
        got, why = checks.describe(images), f"{type(error).__name__}: {error}"
        looks = isinstance(error, _LOOKING)
        if argument == "model" and isinstance(error, TypeError | ValueError) and not looks:
            raise checks.invalid("images", got, f"images that the model accepts ({why})") from error
        takes = "a function that JAX can trace" if looks else f"a callable that takes {got}"
        raise checks.invalid(argument, f"one that raises {why}", takes) from error


_LOOKING = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.UnexpectedTracerError,
)
"""What JAX raises of a function that looks at values, which a traced one has not."""


def _is_leaf(value: Any) -> bool:
    return jax.tree_util.all_leaves([value])


def _opened(value: Any) -> Any:
    if not _is_leaf(value):
        return jax.tree.map(_opened, value)
    if isinstance(value, functools.partial):
        return Partial(_opened(value.func), *_opened((value.args, value.keywords)))
    if isinstance(value, types.MethodType):
        owner = value.__self__
        # An object that compares by value (a Linen module) is static as it stands.
        opens = _is_leaf(owner) and _compares_by_identity(owner) and hasattr(owner, "__dict__")
        return Bound(_instance(owner) if opens else owner, value.__func__)
    plain = isinstance(value, types.FunctionType | types.BuiltinFunctionType | type)
    if plain or not callable(value) or not hasattr(value, "__dict__"):
        return value
    # What wraps another function (jax.jit, functools.cache) is that function.
    if hasattr(value, "__wrapped__") or not _compares_by_identity(value):
        return value
    return _instance(value)


def _compares_by_identity(value: Any) -> bool:
    return type(value).__hash__ is object.__hash__


def _instance(value: Any) -> Instance:
    return Instance(
        {name: _opened(attribute) for name, attribute in vars(value).items()}, type(value)
    )


def rebuilt(value: Any) -> Any:
    """An object again, where `as_pytree` took one apart."""
    if not isinstance(value, Instance):
        return value
    built = object.__new__(value.kind)
    vars(built).update(
        jax.tree.map(rebuilt, value.attributes, is_leaf=lambda part: isinstance(part, Instance))
    )
    return built


def flattened(argument: str, tree: Any) -> tuple[list[Any], Any]:
    """A pytree's leaves, and its structure.

    Args:
      argument: what a refusal calls it.
      tree: the pytree.

    Raises:
      ValueError: it holds itself, is too deep, or has a dict whose keys have no order.
    """
    try:
        return jax.tree.flatten(tree)
    except Exception as error:  # JAX has no common type for what a pytree cannot be
        got = f"{checks.describe(tree)}, which JAX cannot take apart ({error})"
        takes = "leaves in dicts, lists and tuples"
        raise checks.invalid(argument, got, takes) from error


def split(tree: Any) -> tuple[list[Any], Rest]:
    """A pytree's arrays, and all the rest of it as something hashable.

    Floating-point numbers count as arrays, so that another value does not compile again; whole
    numbers and truth values do not, as they choose what is computed.
    """
    leaves, structure = jax.tree.flatten(tree)
    arrays = [leaf for leaf in leaves if is_array(leaf)]
    rest = tuple(ABSENT if is_array(leaf) else _hashable(leaf) for leaf in leaves)
    return arrays, Rest(structure, rest)


def join(arrays: list[Any], rest: Rest) -> Any:
    """The pytree that `split` took apart, perhaps with other arrays."""
    remaining = iter(arrays)
    leaves = [
        next(remaining) if leaf is ABSENT else leaf.value if isinstance(leaf, Same) else leaf
        for leaf in rest.leaves
    ]
    return jax.tree.unflatten(rest.structure, leaves)


def is_array(value: Any) -> bool:
    """Whether a leaf is an argument of a compiled program: an array, or a number with a point."""
    if isinstance(value, np.ndarray | np.generic):
        numeric = checks.holds(value, np.number) or value.dtype.kind == "V"  # bfloat16
        return bool(numeric or (value.dtype == bool and value.ndim > 0))
    return isinstance(value, jax.Array | float | complex)


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return Same(value)
    return value

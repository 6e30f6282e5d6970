"""What a computation depends on, as a short name that is the same in every process.

A value is walked down to its plain parts. Nothing of it that changes from one process to the next
(an address, a hash of a word, the order of a set) reaches the name. Of installed packages a
function or class is known by its name and the package's version, of this package by a hash of the
sources, and everywhere else by its code, with what it closes over and the globals that it reads.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import importlib.metadata
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jc2i import checks

DEEPEST = 100
"""Levels of nesting beyond which a value is not followed."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...))
_OWN = __name__.partition(".")[0]


@dataclasses.dataclass(frozen=True)
class Unknown:
    """A part that nothing lasting is known of."""

    what: str


def digest(*values: Any) -> str:
    """A short name for what a computation depends on, for the `tag` of `map_batches`.

    Two names are equal only if everything is: the structure of pytrees with their static fields,
    the types, dtypes and values of their leaves, functions with what they close over.

    Args:
      *values: words, numbers, functions, and pytrees of arrays (a model or calibrator).

    Returns:
      Twelve hexadecimal digits of a SHA-256, the same in every process.

    Raises:
      ValueError: if a value has a part that nothing lasting is known of (an open file, say).
    """
    sha = hashlib.sha256()
    add(sha, values)
    return sha.hexdigest()[:12]


def add(sha: Any, value: Any) -> None:
    """Adds a value to a hash, whatever it is made of.

    Raises:
      ValueError: as `digest`.
    """
    for part in parts(value):
        if isinstance(part, Unknown):
            takes = "arrays, numbers, words, functions, and what is made of them"
            raise checks.invalid("digest", part.what, takes)
        _add(sha, part)


def _add(sha: Any, part: Any) -> None:
    if isinstance(part, str):
        content = part.encode("utf-8", "surrogatepass")
        sha.update(f"{len(content)} ".encode())
        sha.update(content)
        return
    array = part
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        sha.update(str(jax.random.key_impl(array)).encode())
        array = jax.random.key_data(array)
    # Of two numbers of one dtype, a weakly typed one gives other results.
    weak = "weak " if getattr(array, "weak_type", False) else ""
    array = np.ascontiguousarray(array)
    sha.update(f"{weak}{array.dtype}{array.shape}".encode())
    sha.update(array.reshape(-1).view(np.uint8).data)


def parts(value: Any) -> Iterator[Any]:
    """The plain parts of a value: words, arrays, and what is unknown."""
    return _Walk().parts(value)


class _Walk:
    """One walk: what lies on the way to the present part, and the functions that were met."""

    def __init__(self) -> None:
        self.way: list[int] = []
        self.met: dict[int, tuple[int, Any]] = {}

    def parts(self, value: Any) -> Iterator[Any]:
        if type(value) in _PLAIN:
            yield f"{type(value).__name__} {value!r}"
        elif isinstance(value, Tracer):
            yield Unknown("a value that is being traced")
        elif isinstance(value, jax.Array) and value.is_deleted():
            yield Unknown("an array that is deleted")
        elif isinstance(value, jax.Array | np.ndarray | np.generic):
            yield from self._array(value)
        elif id(value) in self.way:  # within itself
            yield f"{len(self.way) - self.way.index(id(value))} up"
        elif len(self.way) > DEEPEST:
            yield Unknown(f"a value nested more than {DEEPEST} deep")
        else:
            self.way.append(id(value))
            yield from self._compound(value)
            self.way.pop()

    def _array(self, value: Any) -> Iterator[Any]:
        if value.dtype == object:
            yield from self._several("objects", [value.shape, *value.reshape(-1).tolist()])
        else:
            yield value

    def _compound(self, value: Any) -> Iterator[Any]:
        name = _name(value)
        if name is not None:
            yield name
        elif isinstance(value, type):
            yield from self._class(value)
        elif isinstance(value, types.ModuleType):
            yield from self._module(value)
        elif isinstance(value, enum.Enum):
            yield from self._several("enum", [type(value), value.name])
        elif isinstance(value, types.SimpleNamespace):
            yield from self._several("namespace", [vars(value)])
        elif isinstance(value, np.dtype | PurePath | range | slice):
            yield from self._several("value", [type(value), repr(value)])
        elif isinstance(value, dict | types.MappingProxyType):
            yield from self._several(
                "dict", [type(value), *self._sorted(value.items(), lambda item: item[0])]
            )
        elif isinstance(value, set | frozenset):
            yield from self._several("set", [type(value), *self._sorted(value)])
        elif isinstance(value, tuple | list):
            yield from self._several("sequence", [type(value), *value])
        elif isinstance(value, functools.partial):
            yield from self._several("partial", [value.func, value.args, value.keywords])
        elif isinstance(value, types.MethodType):
            yield from self._several("method", [value.__func__, value.__self__])
        elif isinstance(value, types.BuiltinFunctionType) and value.__self__ is not None:
            yield from self._several("method", [value.__name__, value.__self__])
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.CodeType):
            yield from self._code(value)
        elif isinstance(value, property):
            yield from self._several("property", [value.fget, value.fset])
        elif callable(inner := getattr(value, "__wrapped__", None)):  # jax.jit, functools.cache
            yield from self._several("wrapped", [type(value), inner])
        elif (node := jax.tree_util.default_registry.flatten_one_level(value)) is not None:
            children, static = node
            yield from self._several("node", [type(value), static, *children])
        else:
            yield from self._object(value)

    def _several(self, kind: str, values: list[Any]) -> Iterator[Any]:
        yield f"{kind} {len(values)}"
        for value in values:
            yield from self.parts(value)

    def _sorted(self, values: Any, key: Any = lambda value: value) -> list[Any]:
        """In an order that does not depend on the process."""

        def order(value: Any) -> str:
            sha = hashlib.sha256()
            for part in _Walk().parts(key(value)):
                _add(sha, repr(part) if isinstance(part, Unknown) else part)
            return sha.hexdigest()

        return sorted(values, key=order)

    def _module(self, module: types.ModuleType) -> Iterator[Any]:
        path = getattr(module, "__file__", None)
        if path is None or not Path(path).is_file():
            yield Unknown(f"the module {module.__name__}, which has no file")
        else:
            yield f"module {module.__name__}"
            yield hashlib.sha256(Path(path).read_bytes()).hexdigest()

    def _class(self, kind: type) -> Iterator[Any]:
        if (again := self._again(kind)) is None:
            yield f"class {kind.__module__}.{kind.__qualname__}"
            members = {
                name: member.__func__ if isinstance(member, staticmethod | classmethod) else member
                for name, member in vars(kind).items()
                if name not in _OF_NO_EFFECT and not _is_of_c(member)
            }
            yield from self._several("members", [kind.__bases__, members])
        else:
            yield again

    def _function(self, function: Any) -> Iterator[Any]:
        if _checks_types(function):
            yield from self.parts(function.__wrapped__)
            return
        if (again := self._again(function)) is not None:
            yield again
            return
        code = function.__code__
        read = {name: function.__globals__[name] for name in _globals(code, function.__globals__)}
        closed = []
        for cell in function.__closure__ or ():
            try:
                closed.append(cell.cell_contents)
            except ValueError:  # not assigned yet
                closed.append(None)
        defaults = (function.__defaults__, function.__kwdefaults__)
        yield from self._several("function", [code, defaults, closed, read])

    def _again(self, value: Any) -> str | None:
        """Which of those met before it is; they are kept alive, so that no two share an address."""
        if id(value) in self.met:
            return f"{self.met[id(value)][0]} again"
        self.met[id(value)] = (len(self.met), value)
        return None

    def _code(self, code: types.CodeType) -> Iterator[Any]:
        arguments = code.co_argcount + code.co_kwonlyargcount
        constants = list(code.co_consts)
        if constants and isinstance(constants[0], str) and not _reads_first_constant(code):
            constants[0] = None  # the docstring
        values = [code.co_code, code.co_exceptiontable, code.co_flags, code.co_names]
        values += [code.co_posonlyargcount, code.co_kwonlyargcount, code.co_varnames[:arguments]]
        yield from self._several("code", [*values, code.co_freevars, constants])

    def _object(self, value: Any) -> Iterator[Any]:
        kind = type(value)
        if not _keeps_attributes(kind):
            yield Unknown(f"an object of {kind.__module__}.{kind.__qualname__}")
            return
        slots = [name for base in kind.__mro__ for name in _slots(base)]
        attributes = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        attributes |= getattr(value, "__dict__", {})
        yield from self._several("object", [kind, attributes])


_OF_NO_EFFECT = (
    "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__firstlineno__",
    "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__",
    "__abstractmethods__", "_abc_impl", "__orig_bases__", "__parameters__",
)  # fmt: skip


def _is_of_c(member: Any) -> bool:
    """Whether a class's member is made by Python itself for a slot or a field."""
    kind = type(member)
    written = isinstance(member, types.FunctionType | property | staticmethod | classmethod)
    return hasattr(kind, "__get__") and not written and not _keeps_attributes(kind)


def _reads_first_constant(code: types.CodeType) -> bool:
    return any(s.opname == "LOAD_CONST" and s.arg == 0 for s in dis.get_instructions(code))


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _keeps_attributes(kind: type) -> bool:
    """Whether a class is written in Python down to its root, so that attributes are all it has."""
    root = kind
    while root.__base__ not in (object, None):
        root = root.__base__
    return root is not object and not {"__weakref__", "__slots__"}.isdisjoint(vars(root))


def _checks_types(function: Any) -> bool:
    """Whether a function only checks the types of what it passes on (jaxtyping, in tests)."""
    return hasattr(function, "__wrapped__") and function.__globals__.get("__name__", "").startswith(
        ("jaxtyping.", "beartype.")
    )


def _globals(code: types.CodeType, there: dict[str, Any]) -> list[str]:
    """The globals that code reads, that of the functions inside it too, sorted."""
    names = {
        step.argval
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in there
    }
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(_globals(constant, there))
    return sorted(names)


def _name(value: Any) -> str | None:
    """A function's, class's or module's name and version, if these say what it is."""
    if isinstance(value, types.ModuleType):
        version = _version(value.__name__)
        return version and f"module {value.__name__} {version}"
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if module is None and isinstance(value, np.ufunc):
        module, name = "numpy", value.__name__
    if module is None and isinstance(value, types.BuiltinFunctionType):
        module = "builtins"
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        return None
    version = _version(module)
    if version is None:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}.{name} {version}" if found is value else None


@functools.cache
def _version(module: str) -> str | None:
    """The version of an installed package, of Python, or of this code; None for a user's own."""
    top = module.partition(".")[0]
    if top == "__main__":
        return None
    if top == _OWN:
        return _own_version()
    if top in sys.builtin_module_names or top in sys.stdlib_module_names:
        return ".".join(map(str, sys.version_info[:3]))
    path = getattr(sys.modules.get(top), "__file__", None)
    places = [sysconfig.get_path(place) for place in ("purelib", "platlib")]
    if path is None or not any(Path(path).is_relative_to(place) for place in places):
        return None
    version = getattr(sys.modules[top], "__version__", None)
    if isinstance(version, str):
        return version
    try:
        return importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _own_version() -> str:
    """A hash of this package's sources, but of those that no kept result depends on."""
    root = Path(__file__).parents[1]
    sha = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if inside.parts[0] not in _NO_NUMBERS:
            sha.update(f"{inside.as_posix()}\n".encode())
            sha.update(path.read_bytes())
    return sha.hexdigest()[:12]


_NO_NUMBERS = ("cli", "data", "parallel", "plots.py", "statistics.py", "files.py", "zipped.py")

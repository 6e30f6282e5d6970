"""Calibrators as small files."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jc2i import calibrators, checks, files
from jc2i.zipped import Arrays, restored, storable

NAME = "calibrator"
"""The entry of the file that holds the name of the class."""

MAX_BYTES = 2**26
"""What a calibrator may take in memory unless `max_bytes` says more: 64 MiB, of which a matrix for
1,000 classes takes 4."""


def save(calibrator: Any, path: str | os.PathLike[str]) -> None:
    """Writes a calibrator to a file: the name of its class and its arrays, as NumPy's `.npz`.

    The file appears under its name only when it is complete.

    Args:
      calibrator: one of this package's.
      path: the file; one that exists is replaced.

    Raises:
      ValueError: if it is not one of this package's calibrators.
    """
    kinds = _classes()
    name = type(calibrator).__name__
    if kinds.get(name) is not type(calibrator):
        got = checks.describe(calibrator)
        raise checks.invalid("calibrator", got, f"one of {', '.join(kinds)}")
    fields = dataclasses.fields(calibrator)
    leaves = {field.name: getattr(calibrator, field.name) for field in fields}
    _check("calibrator", kinds[name], {key: np.asarray(leaf) for key, leaf in leaves.items()})
    entries = dict(_encoded(key, leaf) for key, leaf in leaves.items())
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{NAME: np.asarray(name)}, **entries)
    files.write_whole(Path(checks.path("path", path)), content.getvalue())


def load(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Any:
    """Reads a calibrator that `save` wrote; nothing in the file is executed.

    Args:
      path: the file.
      max_bytes: the most bytes that its arrays may take, unless the file is large itself (four
        times its size).

    Returns:
      The calibrator.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no calibrator's file, is damaged or too large, or holds a class unknown
        here.
    """
    checks.count(max_bytes=max_bytes)
    kinds, where = _classes(), checks.path("path", path)
    entries = _entries(path, max_bytes)
    named = entries.pop(NAME, np.asarray("no class name"))
    name = checks.describe(named) if named.ndim else str(named)
    if name not in kinds:
        takes = f"a calibrator: one of {', '.join(kinds)}"
        raise checks.invalid(where, files.one_line(name), takes)
    leaves = [_decoded(where, entry, array) for entry, array in entries.items()]
    found = sorted(leaf for leaf, _ in leaves)
    expected = sorted(field.name for field in dataclasses.fields(kinds[name]))
    if found != expected:
        raise checks.invalid(where, f"{name} of {found}", f"its arrays {expected}")
    _check(where, kinds[name], {leaf: np.asarray(value) for leaf, value in leaves})
    return kinds[name](**dict(leaves))


def _classes() -> dict[str, Any]:
    public = {name: getattr(calibrators, name) for name in calibrators.__all__}
    return {name: kind for name, kind in public.items() if isinstance(kind, type)}


def _check(argument: str, kind: Any, leaves: dict[str, np.ndarray]) -> None:
    """What `save` and `load` refuse alike."""
    shapes = [array.shape for array in leaves.values() if array.ndim]
    classes = shapes[0][-1] if shapes else 2
    checks.require(classes > 1, argument, f"{kind.__name__} for {classes} classes", "2 or more")
    logits = jax.ShapeDtypeStruct((1, classes), np.float32)
    try:
        shape = jax.eval_shape(kind(**leaves), logits).shape
    except checks.Refusal as refusal:
        got = f"{kind.__name__} with {refusal}"
        raise checks.invalid(argument, got, "one calibrator") from None
    except (TypeError, ValueError):
        shape = None
    if shape != logits.shape:
        got = f"{kind.__name__} of shapes {[list(shape) for shape in shapes]}"
        raise checks.invalid(argument, got, "leaves for one number of classes")


# A file's entry is named by the leaf; where its type is none of NumPy's, by leaf.type.


def _encoded(name: str, leaf: Any) -> tuple[str, np.ndarray]:
    if type(leaf) in (int, float):
        return f"{name}.{type(leaf).__name__}", np.asarray(leaf)
    array = np.asarray(leaf)
    bits = storable(array)
    return name if bits is array else f"{name}.{array.dtype.name}", bits


def _decoded(path: str, entry: str, array: np.ndarray) -> tuple[str, Any]:
    name, _, kind = entry.partition(".")
    try:
        if kind in ("int", "float"):
            return name, {"int": int, "float": float}[kind](array.item())
        if kind:
            array = restored(array, kind)
    except (TypeError, ValueError):
        got = f"{entry!r} = {checks.describe(array)}"
        raise checks.invalid(path, got, f"a {kind!r}") from None
    held = jax.dtypes.canonicalize_dtype(array.dtype) if array.dtype.kind in "fiuV" else None
    # Without 64-bit numbers in JAX, NumPy holds them.
    return name, jnp.asarray(array) if held == array.dtype else array


def _entries(path: str | os.PathLike[str], max_bytes: int) -> dict[str, np.ndarray]:
    name, takes = checks.path("path", path), "a file that jc2i.calibrators.save wrote"
    with (
        files.opened(path, name) as file,
        files.refusing(name, "", "another or a damaged file", takes, reasoned=False),
    ):
        arrays = Arrays(file, max_bytes, "max_bytes")
        return {entry: arrays[entry] for entry in arrays}

"""Calibrators as small files."""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jc2i import calibrators, checks
from jc2i.files import write_whole

NAME = "calibrator"
"""The entry of the file that holds the name of the class."""


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
        raise checks.invalid("calibrator", repr(calibrator), f"one of {', '.join(kinds)}")
    fields = dataclasses.fields(calibrator)
    leaves = {field.name: getattr(calibrator, field.name) for field in fields}
    _check("calibrator", kinds[name], {key: np.asarray(leaf) for key, leaf in leaves.items()})
    entries = dict(_encoded(key, leaf) for key, leaf in leaves.items())
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{NAME: np.asarray(name)}, **entries)
    write_whole(Path(path), content.getvalue())


def load(path: str | os.PathLike[str]) -> Any:
    """Reads a calibrator that `save` wrote; nothing in the file is executed.

    Args:
      path: the file.

    Returns:
      The calibrator.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no calibrator's file, is damaged, or holds a class unknown here.
    """
    kinds = _classes()
    entries = _entries(path)
    name = str(entries.pop(NAME, "no class name"))
    if name not in kinds:
        raise checks.invalid(str(path), name, f"a calibrator: one of {', '.join(kinds)}")
    leaves = dict(_decoded(str(path), entry, array) for entry, array in entries.items())
    expected = sorted(field.name for field in dataclasses.fields(kinds[name]))
    if sorted(leaves) != expected:
        raise checks.invalid(str(path), f"{name} of {sorted(leaves)}", f"its arrays {expected}")
    _check(str(path), kinds[name], {key: np.asarray(leaf) for key, leaf in leaves.items()})
    return kinds[name](**leaves)


def _classes() -> dict[str, Any]:
    public = {name: getattr(calibrators, name) for name in calibrators.__all__}
    return {name: kind for name, kind in public.items() if isinstance(kind, type)}


def _check(argument: str, kind: Any, leaves: dict[str, np.ndarray]) -> None:
    """What `save` and `load` refuse alike."""
    for field in dataclasses.fields(kind):
        array = leaves[field.name]
        got = f"{field.name} = {checks.describe(array)}"
        number = jnp.issubdtype(array.dtype, jnp.floating) or array.dtype.kind in "iu"
        if not number or not np.isfinite(array.astype(float)).all():
            raise checks.invalid(argument, got, "finite floating-point numbers")
        takes = field.metadata.get("values", "")
        values = array.astype(float)
        valid = {"above 0": (values > 0).all, "not falling": lambda v=values: _rising(v)}
        if takes and not valid[takes]():
            raise checks.invalid(argument, got, f"{field.name} {takes}")
    shapes = [array.shape for array in leaves.values() if array.ndim]
    classes = shapes[0][-1] if shapes else 2
    logits = jax.ShapeDtypeStruct((1, classes), np.float32)
    try:
        shape = jax.eval_shape(kind(**leaves), logits).shape
    except checks.Refusal as refusal:
        raise checks.invalid(
            argument, f"{kind.__name__} with {refusal}", "one calibrator"
        ) from None
    except (TypeError, ValueError):
        shape = None
    if shape != logits.shape:
        got = f"{kind.__name__} of shapes {[list(shape) for shape in shapes]}"
        raise checks.invalid(argument, got, "leaves for one number of classes")


def _rising(values: np.ndarray) -> bool:
    return values.ndim == 0 or bool((np.diff(values, axis=0) >= 0).all())


# A file's entry is named by the leaf; where its type is none of NumPy's, by leaf.type.


def _encoded(name: str, leaf: Any) -> tuple[str, np.ndarray]:
    if type(leaf) in (int, float):
        return f"{name}.{type(leaf).__name__}", np.asarray(leaf)
    array = np.asarray(leaf)
    if array.dtype.kind == "V":
        return f"{name}.{array.dtype.name}", array.view(f"u{array.dtype.itemsize}")
    return name, array


def _decoded(path: str, entry: str, array: np.ndarray) -> tuple[str, Any]:
    name, _, kind = entry.partition(".")
    try:
        if kind in ("int", "float"):
            return name, {"int": int, "float": float}[kind](array.item())
        if kind:
            array = array.view(jnp.dtype(kind))
    except (TypeError, ValueError):
        raise checks.invalid(path, f"{entry} = {checks.describe(array)}", f"a {kind}") from None
    held = jax.dtypes.canonicalize_dtype(array.dtype) if array.dtype.kind in "fiuV" else None
    # Without 64-bit numbers in JAX, NumPy holds them.
    return name, jnp.asarray(array) if held == array.dtype else array


def _entries(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        try:
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
            takes = "a file that jc2i.calibrators.save wrote"
            raise checks.invalid(str(path), "another or a damaged file", takes) from None

"""Calibrators as small files."""

from __future__ import annotations

import dataclasses
import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jc2i import checks
from jc2i.calibrators.dirichlet import Dirichlet
from jc2i.calibrators.identity import Identity
from jc2i.calibrators.isotonic import Isotonic
from jc2i.calibrators.matrix_scaling import MatrixScaling
from jc2i.calibrators.temperature import Temperature
from jc2i.calibrators.vector_scaling import VectorScaling
from jc2i.files import write_whole

CLASSES = {
    kind.__name__: kind
    for kind in (Identity, Temperature, VectorScaling, MatrixScaling, Dirichlet, Isotonic)
}

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
    name = type(calibrator).__name__
    if CLASSES.get(name) is not type(calibrator):
        raise checks.invalid("calibrator", repr(calibrator), f"one of {', '.join(CLASSES)}")
    fields = dataclasses.fields(calibrator)
    arrays = {field.name: np.asarray(getattr(calibrator, field.name)) for field in fields}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **{NAME: np.asarray(name)}, **arrays)
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
    entries = _entries(path)
    name = str(entries.pop(NAME, "no class name"))
    if name not in CLASSES:
        raise checks.invalid(str(path), name, f"a calibrator: one of {', '.join(CLASSES)}")
    expected = sorted(field.name for field in dataclasses.fields(CLASSES[name]))
    if sorted(entries) != expected:
        raise checks.invalid(str(path), f"{name} of {sorted(entries)}", f"its arrays {expected}")
    for entry, array in entries.items():
        if not np.issubdtype(array.dtype, np.floating) or not np.isfinite(array).all():
            got = f"{entry} = {checks.describe(array)}"
            raise checks.invalid(str(path), got, "finite floating-point numbers")
    return CLASSES[name](**{entry: jnp.asarray(array) for entry, array in entries.items()})


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

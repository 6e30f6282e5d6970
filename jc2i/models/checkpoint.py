"""Models on disk: a folder with the architecture as JSON beside an orbax checkpoint."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jc2i import checks, files
from jc2i.checks import Refusal, invalid
from jc2i.files import replacing
from jc2i.models.classifier import (
    Classifier,
    require_classifier,
    require_same_shapes,
    require_sound,
    shapes,
    weights,
    with_weights,
)
from jc2i.models.registry import outline

_DESCRIPTION = "model.json"
_WEIGHTS = "weights"
_LONGEST_DESCRIPTION = 2**20
_TAKES = "a folder that jc2i.models.save wrote"

MAX_BYTES = 2**31
"""Bytes of a model's files that are read unless `max_bytes` says more: 2 GiB."""


def save(model: Classifier, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Writes a model to a folder, whole or not at all.

    Args:
      model: made by `create`, `load` or `from_torch`, trained or not.
      path: the folder to make.
      overwrite: whether a model that is there already is replaced.

    Raises:
      FileExistsError: if there is something at `path`, unless it is a model and `overwrite` is
        True.
    """
    require_classifier(model)
    overwrite = checks.flag("overwrite", overwrite)
    path = Path(checks.path("path", path)).absolute()
    if path.exists() and not (overwrite and (path / _DESCRIPTION).is_file()):
        hint = "holds no model" if overwrite else "exists: pass overwrite=True to replace a model"
        raise FileExistsError(f"{path} {hint}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        new.mkdir()
        values = {name: np.asarray(value) for name, value in weights(model).items()}
        write_arrays(new / _WEIGHTS, values)
        description = {
            "architecture": model.architecture,
            "options": model.options,
            "files": checksums(new / _WEIGHTS),
            "checksum": _checksum(model.architecture, model.options),
        }
        (new / _DESCRIPTION).write_text(json.dumps(description, indent=2, default=_plain) + "\n")


def _checksum(architecture: str, options: Mapping[str, Any]) -> str:
    """Of what is said of a model, where a mean that another digit stands in still makes one."""
    said = json.dumps([architecture, options], sort_keys=True, default=_plain)
    return hashlib.sha256(said.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """A NumPy or JAX number among the options as Python's, which JSON can hold."""
    return np.asarray(value).tolist()


def load_folder(path: Path, options: Mapping[str, Any], max_bytes: int = MAX_BYTES) -> Classifier:
    """Reads a model that `save` wrote.

    Args:
      path: the folder, as an absolute path.
      options: what replaces the options that the model was saved with.
      max_bytes: the most bytes that its files may have.

    Returns:
      A callable pytree `images -> logits` in evaluation mode, its weights equal to the bit and of
      the type they were saved in.

    Raises:
      ValueError: if it is no model of this package, damaged or larger than `max_bytes`, or a weight
        is NaN or infinite.
    """
    description = _description(path, max_bytes)
    model = _described(path, description, options)
    # Of the shapes that the files state first: a few bytes may stand for more than there is memory.
    takes = f"the weights of {model.architecture}"
    with files.refusing("path", str(path), "damaged", _TAKES):
        stated = array_shapes(path / _WEIGHTS)
    require_same_shapes(str(path), shapes(model), stated, takes)
    checksum = _checksum(description["architecture"], description["options"])
    if description.get("checksum", checksum) != checksum:
        raise invalid("path", f"{path} (its {_DESCRIPTION} is damaged, or was edited)", _TAKES)
    with files.refusing("path", str(path), "damaged", _TAKES):
        values = read_arrays(path / _WEIGHTS)
    require_same_shapes(str(path), shapes(model), values, takes)
    require_sound(str(path), values)
    return with_weights(model, values, cast=False)


def _described(
    path: Path, description: Mapping[str, Any], options: Mapping[str, Any]
) -> Classifier:
    """The outline of a model, whose weights are not there yet."""
    try:
        return outline(description["architecture"], **description["options"] | options)
    # Whatever may be made of words where there should be numbers.
    except Exception as error:
        if isinstance(error, Refusal) and str(error).split(":")[0] in options:
            raise
        got = f"{path} (its {_DESCRIPTION}: {files.one_line(error)})"
        raise invalid("path", got, _TAKES) from error


def _description(path: Path, max_bytes: int) -> dict[str, Any]:
    unreadable = f"{path} (without a {_DESCRIPTION} that can be read)"
    try:
        text = files.read(path / _DESCRIPTION, "path", _LONGEST_DESCRIPTION, "")
        description = json.loads(text)
        known = {"architecture", "options", "files"} <= description.keys()
        known = known and isinstance(description["options"], dict)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise invalid("path", unreadable, _TAKES) from error
    if not known:
        raise invalid("path", unreadable, _TAKES)
    with files.refusing("path", str(path)):
        files.require_size(_size(path / _WEIGHTS), max_bytes, "max_bytes", "bytes of weights")
    # Checked first: over a damaged file orbax prints hundreds of lines, and it fills some gaps.
    if description["files"] != checksums(path / _WEIGHTS):
        raise invalid("path", f"{path} (damaged or incomplete)", _TAKES)
    return description


def _size(folder: Path) -> int:
    """The bytes of the files in a folder, in which nothing is but folders and files."""
    size = 0
    for file in folder.rglob("*"):
        status = file.stat()
        if not file.is_dir():
            files.require_regular(file, status.st_mode, "path")
            size += status.st_size
    return size


def write_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays to a folder, an absolute path, as an orbax checkpoint."""
    with _checkpointer() as checkpointer:
        checkpointer.save(folder, dict(arrays))


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote; whether it is whole, `checksums` tell."""
    with _checkpointer() as checkpointer:
        return checkpointer.restore(folder)


def _checkpointer() -> Any:
    """One that does not wait for other processes of a run: they read and write as they need."""
    import orbax.checkpoint

    if jax.process_count() == 1:
        return orbax.checkpoint.StandardCheckpointer()
    own = jax.process_index()
    options = orbax.checkpoint.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )
    return orbax.checkpoint.StandardCheckpointer(multiprocessing_options=options)


def array_shapes(folder: Path) -> dict[str, Any]:
    """What `read_arrays` would give, by what the files state: shapes and types alone.

    Raises:
      files.TooLarge: they state more than files of their size hold.
    """
    import jax
    import orbax.checkpoint

    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        found = checkpointer.metadata(folder)
    found = getattr(found, "item_metadata", found)
    stated = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in getattr(found, "tree", found).items()
    }
    size = sum(math.prod(array.shape) * array.dtype.itemsize for array in stated.values())
    most = max(files.MOST, files.EXPANSION * _size(folder))
    files.require_size(size, most, "", "bytes of weights in much smaller files")
    return stated


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder, by its path there."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        with files.opened(path, "path") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        found[path.relative_to(folder).as_posix()] = checksum
    return found

"""Models on disk: a folder with the architecture as JSON beside an orbax checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jc2i.checks import invalid
from jc2i.files import replacing
from jc2i.models.classifier import (
    Classifier,
    require_same_shapes,
    require_sound,
    weights,
    with_weights,
)
from jc2i.models.registry import blank

_DESCRIPTION = "model.json"
_WEIGHTS = "weights"


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
    path = Path(path).absolute()
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
        }
        (new / _DESCRIPTION).write_text(json.dumps(description, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    """A NumPy or JAX number among the options as Python's, which JSON can hold."""
    return np.asarray(value).tolist()


def load_folder(path: Path, options: Mapping[str, Any]) -> Classifier:
    """Reads a model that `save` wrote.

    Args:
      path: the folder, as an absolute path.
      options: what replaces the options that the model was saved with.

    Returns:
      A callable pytree `images -> logits` in evaluation mode, its weights equal to the bit and of
      the type they were saved in.

    Raises:
      ValueError: if it is no model of this package, or damaged, or a weight is NaN or infinite.
    """
    description = _description(path)
    model = blank(description["architecture"], **description["options"] | options)
    values = read_arrays(path / _WEIGHTS)
    expected = {name: value.shape for name, value in weights(model).items()}
    require_same_shapes(str(path), expected, values, f"the weights of {model.architecture}")
    require_sound(str(path), values)
    return with_weights(model, values, cast=False)


def _description(path: Path) -> dict[str, Any]:
    takes = "a folder that jc2i.models.save wrote"
    try:
        description = json.loads((path / _DESCRIPTION).read_text())
        known = {"architecture", "options", "files"} <= description.keys()
    except (OSError, ValueError, AttributeError):
        known, description = False, {}
    if not known:
        raise invalid("path", f"{path} (without a {_DESCRIPTION} that can be read)", takes)
    # Checked first: over a damaged file orbax prints hundreds of lines, and it fills some gaps.
    if description["files"] != checksums(path / _WEIGHTS):
        raise invalid("path", f"{path} (damaged or incomplete)", takes)
    return description


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


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder, by its path there."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def save_torch(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes what torch.save would: dicts, in which arrays are tensors and the rest is plain."""

    def save(content: Any) -> Path:
        storages: list[np.ndarray] = []
        pickled = b"\x80\x02" + _pickled(content, storages) + b"."
        with zipfile.ZipFile(tmp_path / "checkpoint.pt", "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            for key, storage in enumerate(storages):
                archive.writestr(f"archive/data/{key}", storage.tobytes())
        return tmp_path / "checkpoint.pt"

    return save


def _pickled(value: Any, storages: list[np.ndarray]) -> bytes:
    if isinstance(value, dict):
        entries = (_plain(name) + _pickled(each, storages) + b"s" for name, each in value.items())
        return b"}" + b"".join(entries)
    if not isinstance(value, np.ndarray):
        return _plain(value)
    kind = {"float32": b"Float", "int64": b"Long"}[str(value.dtype)]
    key, place = _plain(str(len(storages))), _plain("cpu")
    storages.append(value)
    storage = b"(%sctorch\n%sStorage\n%s%s%stQ" % (
        *(_plain("storage"), kind, key, place, _plain(value.size)),
    )
    steps = tuple(step // value.itemsize for step in value.strides)
    arguments = storage + _plain(0) + _plain(value.shape) + _plain(steps)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(%stR" % arguments


def _plain(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]

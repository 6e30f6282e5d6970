"""Reading PyTorch weight files without torch, and without running what is in them.

`torch.save` pickles, and unpickling runs code: a pickle names functions, which the reader imports
and calls. The reader here imports nothing. A name on the list below gets a harmless stand-in, any
other is refused.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided

from jc2i.checks import invalid

# The pickled number that opens a file of torch.save before version 1.6.
_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LEGACY_PROTOCOL = 1001
_ZIP_START = b"PK\x03\x04"

_STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

# What training scripts leave beside the weights. It is passed over, so its stand-in holds nothing.
_PASSED_OVER = {
    ("argparse", "Namespace"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
    ("torch", "device"),
}

# Under which key a training script's file may hold the weights, and their moving average.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_AVERAGED = ("state_dict_ema", "model_state_dict_ema", "model_ema", "ema_state_dict", "ema")
# What modules around a network put before its names: torch.compile, parallel training and
# torch.optim.swa_utils, Lightning.
_PREFIXES = ("_orig_mod.", "module.", "model.")
# How many models torch.optim.swa_utils averaged.
_COUNTER = "n_averaged"


def read_torch_file(
    path: str | os.PathLike[str], *, averaged: bool = True
) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch weight file by name, without torch and without running its code.

    It reads `torch.save`'s zip format, the pickle format of versions before 1.6, and safetensors;
    a state dict by itself or under `"state_dict"`, `"model_state_dict"`, `"model"` or `"net"`, or
    its moving average under `"state_dict_ema"`, `"model_state_dict_ema"`, `"model_ema"`,
    `"ema_state_dict"` or `"ema"`. Prefixes that all names have are taken off: `module.` (parallel
    training), `_orig_mod.` (torch.compile) and `model.` (Lightning), and in one another; the
    counter `n_averaged` of averaged weights is passed over.

    Args:
      path: the file.
      averaged: which weights are read from a file that holds both: True for the moving average,
        which is what training loops that keep one evaluate and publish, False for the raw ones.

    Returns:
      Read-only arrays; tensors that share storage in the file share memory here.

    Raises:
      ValueError: for a file that is none of these, is truncated, names anything but tensors and
        plain values, or holds averaged weights alone where `averaged` is False.
    """
    data = Path(path).read_bytes()
    try:
        if data.startswith(_ZIP_START):
            content, storages = _read_zip(data)
        elif data.startswith(_LEGACY_START):
            content, storages = _read_legacy(data)
        elif data[8:9] == b"{":
            from safetensors.numpy import load_file

            return _without_prefixes(load_file(path))
        else:
            raise _Refused("empty file" if not data else "unknown format")
        return _without_prefixes(_state_dict(content, storages, averaged))
    # Unpickling garbage raises errors of almost every kind.
    except Exception as error:
        reason = str(error) if isinstance(error, _Refused) else f"damaged or truncated: {error}"
        takes = "a whole PyTorch weight file (torch.save or safetensors)"
        raise invalid("path", f"{os.fspath(path)} ({reason})", takes) from error


class _Refused(Exception):
    """The content is readable but nothing that this reader takes."""


class _Tensor(NamedTuple):
    """A tensor as pickled: a window on a storage that is read later."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Unpickles plain values and tensors; records the storages that the tensors lie in.

    A pickle may set attributes on what `find_class` gives it, so that is never anything shared and
    mutable: strings, built-in types, bound methods, and a class of this unpickler's own.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.storages: dict[str, tuple[np.dtype, int]] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) in _PASSED_OVER:
            ignore = {"__init__": lambda *_: None, "__setstate__": lambda *_: None}
            return type("PassedOver", (), ignore)
        stand_ins: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
        }
        if (module, name) not in stand_ins:
            raise _Refused(f"refused to load {module}.{name}")
        return stand_ins[module, name]

    def persistent_load(self, pid: Any) -> str:
        kind, storage_type, key, _location, elements, *view = pid
        if kind != "storage" or any(view):
            raise _Refused(f"holds a {kind} that is no plain storage")
        self.storages[key] = (_STORAGES[storage_type], elements)
        return key

    def _tensor(self, storage: str, offset: int, shape: Any, strides: Any, *_: Any) -> _Tensor:
        return _Tensor(storage, offset, tuple(shape), tuple(strides))

    def _parameter(self, tensor: _Tensor, *_: Any) -> _Tensor:
        return tensor


def _unpickle(stream: io.BytesIO) -> tuple[Any, dict[str, tuple[np.dtype, int]]]:
    """The next pickle of a stream, and the storages that its tensors lie in."""
    start, size = stream.tell(), stream.getbuffer().nbytes
    # The unpickler makes room for whatever length or index a damaged pickle states: gigabytes.
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name.endswith("PUT") and (argument or 0) > size:
            raise _Refused(f"damaged: object {argument} in a file of {size} bytes")
    stream.seek(start)
    unpickler = _Unpickler(stream)
    return unpickler.load(), unpickler.storages


def _read_zip(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        # A compressed archive may unpack to any size; torch.save only ever stores.
        if sum(record.file_size for record in archive.infolist()) > len(data):
            raise _Refused("compressed records")
        records = archive.namelist()
        index = next((name for name in records if name.endswith("/data.pkl")), None)
        if index is None:
            raise _Refused("a zip without data.pkl")
        folder = index.removesuffix("data.pkl")
        if f"{folder}byteorder" in records and archive.read(f"{folder}byteorder") != b"little":
            raise _Refused("big-endian numbers")
        content, stored = _unpickle(io.BytesIO(archive.read(index)))
        storages = {
            key: np.frombuffer(archive.read(f"{folder}data/{key}"), dtype, count=elements)
            for key, (dtype, elements) in stored.items()
        }
    return content, storages


def _read_legacy(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    stream = io.BytesIO(data)
    _magic, protocol, system = (_unpickle(stream)[0] for _ in range(3))
    if protocol != _LEGACY_PROTOCOL or not system["little_endian"]:
        raise _Refused(f"protocol {protocol}, written by {system}")
    content, stored = _unpickle(stream)
    keys, _ = _unpickle(stream)
    storages = {}
    for key in keys:
        dtype, elements = stored[key]
        # Each storage is its number of elements, 8 bytes, then the elements.
        start = stream.tell() + 8
        storages[key] = np.frombuffer(data, dtype, count=elements, offset=start)
        stream.seek(start + elements * dtype.itemsize)
    return content, storages


def _state_dict(
    content: Any, storages: Mapping[str, np.ndarray], averaged: bool
) -> dict[str, np.ndarray]:
    found = _tensors(content, (*_AVERAGED, *_WRAPPERS) if averaged else _WRAPPERS, set())
    if not found:
        alone = not averaged and _tensors(content, (*_AVERAGED, *_WRAPPERS), set())
        raise _Refused("averaged weights alone" if alone else "no state dict")
    return {str(name): _array(tensor, storages) for name, tensor in found.items()}


def _tensors(content: Any, wrappers: tuple[str, ...], seen: set[int]) -> dict[Any, _Tensor]:
    """The tensors of the innermost dict under the wrappers, of which the first go first."""
    if not isinstance(content, dict) or id(content) in seen:  # a pickle may hold itself
        return {}
    seen.add(id(content))
    inner = (_tensors(content.get(wrapper), wrappers, seen) for wrapper in wrappers)
    own = {name: value for name, value in content.items() if isinstance(value, _Tensor)}
    return next(filter(None, inner), own)


def _array(tensor: _Tensor, storages: Mapping[str, np.ndarray]) -> np.ndarray:
    storage, (_, offset, shape, strides) = storages[tensor.storage], tensor
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    # A window that leaves its storage would read this process's memory.
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if min(shape + strides + (offset,), default=0) < 0 or last >= storage.size:
        raise _Refused(f"a tensor {shape} outside its storage of {storage.size} elements")
    steps = [s * storage.itemsize for s in strides]
    return as_strided(storage[offset:], shape, steps, writeable=False)


def _without_prefixes(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {n: values for n, values in tensors.items() if n.split(".")[-1] != _COUNTER}
    while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in found)), None):
        if not found:
            raise _Refused("no state dict")
        found = {name.removeprefix(prefix): values for name, values in found.items()}
    return found

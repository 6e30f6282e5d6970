"""Reading PyTorch weight files without torch, and without running what is in them.

`torch.save` pickles, and unpickling runs code: a pickle names functions, which the reader imports
and calls. Here nothing is unpickled (`pickles`): a name on the lists below gets a harmless
stand-in, any other is refused.
"""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Mapping
from io import BufferedReader
from typing import Any, NamedTuple, TypeVar

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided

from jc2i import checks, files
from jc2i.checks import count, invalid
from jc2i.models import pickles
from jc2i.models.pickles import PassedOver, Refused
from jc2i.zipped import Zip

MAX_BYTES = 2**31
"""Bytes of a weight file that is read unless `max_bytes` says more: 2 GiB."""

# A pickle and what comes of it take some ten times its size, and each of its values, which may be
# one byte, some hundred bytes: of `max_bytes`, a 128th may be pickle, with a value in every 16.
_DESCRIBED, _OPCODE = 2**7, 2**11
# How often a file's weights are looked for in a dict within a dict, or behind another prefix.
_DEEPEST = 20
_DIMENSIONS, _ELEMENTS = 32, 2**40

_Value = TypeVar("_Value")

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
    path: str | os.PathLike[str], *, averaged: bool = True, max_bytes: int = MAX_BYTES
) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch weight file by name, without torch and without running its code.

    It reads `torch.save`'s zip format, the pickle format of versions before 1.6, and safetensors;
    a state dict by itself or under `"state_dict"`, `"model_state_dict"`, `"model"` or `"net"`, or
    its moving average under `"state_dict_ema"`, `"model_state_dict_ema"`, `"model_ema"`,
    `"ema_state_dict"` or `"ema"`. Prefixes that all names have are taken off: `module.` (parallel
    training), `_orig_mod.` (torch.compile) and `model.` (Lightning), and in one another; the
    counter `n_averaged` of averaged weights is passed over.

    Of the zip format checksums are compared. The other two have none: where a bit of their numbers
    changed, another number is read.

    Args:
      path: the file.
      averaged: which weights are read from a file that holds both: True for the moving average,
        which is what training loops that keep one evaluate and publish, False for the raw ones.
      max_bytes: the most bytes that the file may have, of which a 128th may describe the weights
        and whatever else a training script keeps.

    Returns:
      Read-only arrays; tensors that share storage in the file share memory here.

    Raises:
      ValueError: for a file that is none of these, is truncated, larger than `max_bytes`, names
        anything but tensors and plain values, or holds averaged weights alone where `averaged` is
        False.
    """
    count(max_bytes=max_bytes)
    name, takes = (
        checks.path("path", path),
        "a whole PyTorch weight file (torch.save or safetensors)",
    )
    with files.opened(path, "path") as file:
        try:
            files.require_size(os.fstat(file.fileno()).st_size, max_bytes, "max_bytes")
            return _read(file, name, averaged, max_bytes)
        except files.TooLarge as error:
            raise invalid("path", f"{name} ({error.got})", error.takes) from error
        # What is read of garbage raises errors of almost every kind.
        except Exception as error:
            why = str(error) if isinstance(error, Refused) else f"damaged or truncated: {error}"
            raise invalid("path", f"{name} ({files.one_line(why)})", takes) from error


def _read(file: BufferedReader, name: str, averaged: bool, max_bytes: int) -> dict[str, np.ndarray]:
    start = file.read(len(_LEGACY_START))
    file.seek(0)
    if start.startswith(_ZIP_START):
        return _of_pickled(_Zipped(file, max_bytes), averaged)
    if start == _LEGACY_START:
        return _of_pickled(_Legacy(file, max_bytes), averaged)
    if start[8:9] == b"{":
        from safetensors.numpy import load_file

        _require_description(int.from_bytes(start[:8], "little"), max_bytes)
        return _without_prefixes(load_file(name))
    raise Refused("empty file" if not start else "unknown format")


def _require_description(size: int, max_bytes: int) -> None:
    files.require_size(size, max_bytes // _DESCRIBED, "a 128th of max_bytes", "bytes of names")


class _Tensor(NamedTuple):
    """A tensor as pickled: a window on a storage that is read later."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Names:
    """What the names in a pickle stand for; records the storages that its tensors lie in."""

    def __init__(self) -> None:
        self.storages: dict[str, tuple[np.dtype, int]] = {}
        self._known: dict[tuple[str, str], Any] = {
            **{("torch", storage): dtype for storage, dtype in _STORAGES.items()},
            **dict.fromkeys(_PASSED_OVER, PassedOver),
            ("collections", "OrderedDict"): _ordered,
            ("torch", "Size"): lambda sizes: sizes,
            ("torch._utils", "_rebuild_tensor"): _tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }

    def find(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise Refused(f"refused to load {module}.{name}")
        return self._known[module, name]

    def persistent(self, pid: Any) -> str:
        parts = list(pid) if isinstance(pid, tuple) else []
        if parts[:1] != ["storage"] or any(part is not None for part in parts[5:]):
            raise Refused("holds what is no plain storage")
        _, dtype, key, _, elements = parts[:5]
        if not isinstance(dtype, np.dtype) or not isinstance(key, str) or not _whole(elements):
            raise Refused("damaged: a storage without a type, a name or a size")
        if self.storages.setdefault(key, (dtype, elements)) != (dtype, elements):
            raise Refused(f"two storages of the name {key!r}")
        return key


def _ordered(pairs: Any = ()) -> dict:
    found = {}
    for name, value in pairs:
        if not isinstance(name, str):
            raise Refused("an entry whose name is no text")
        found[name] = value
    return found


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    sizes = [offset, *shape, *strides]
    if not isinstance(storage, str) or not all(map(_whole, sizes)) or len(shape) != len(strides):
        raise Refused("damaged: a tensor without a storage or a shape")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _whole(value: Any) -> bool:
    """Whether it is a number of elements: one that 64 bits hold."""
    return type(value) is int and 0 <= value < 2**62


class _Zipped:
    """A file of `torch.save` since 1.6: a zip of the pickle and a record for each storage."""

    def __init__(self, file: BufferedReader, max_bytes: int) -> None:
        self._zip = Zip(file, max_bytes, "max_bytes")
        records = self._zip.sizes
        # A compressed archive may unpack to any size; torch.save only ever stores.
        if sum(records.values()) > os.fstat(file.fileno()).st_size:
            raise Refused("compressed records")
        index = next((record for record in records if record.endswith("/data.pkl")), None)
        if index is None:
            raise Refused("a zip without data.pkl")
        self._folder = index.removesuffix("data.pkl")
        order = f"{self._folder}byteorder"
        if order in records and self._zip.read(order) != b"little":
            raise Refused("big-endian numbers")
        _require_description(records[index], max_bytes)
        names = _Names()
        stream = io.BytesIO(self._zip.read(index))
        self.content = pickles.read(stream, names.find, names.persistent, max_bytes // _OPCODE)
        self._storages = names.storages
        for key, (dtype, elements) in names.storages.items():
            found = records.get(f"{self._folder}data/{key}", 0)
            if found != elements * dtype.itemsize:
                raise Refused(f"a storage of {found} bytes for {elements} elements of {dtype}")

    def storage(self, key: str) -> np.ndarray:
        return np.frombuffer(self._zip.read(f"{self._folder}data/{key}"), self._storages[key][0])


class _Legacy:
    """A file of `torch.save` before 1.6: five pickles, then the storages, without a checksum."""

    def __init__(self, file: BufferedReader, max_bytes: int) -> None:
        names = _Names()
        stream = io.BytesIO(file.read(max_bytes // _DESCRIBED))

        def following() -> Any:
            try:
                return pickles.read(stream, names.find, names.persistent, max_bytes // _OPCODE)
            except ValueError:
                if not stream.read(1):  # the pickle goes on, or the file is damaged
                    _require_description(os.fstat(file.fileno()).st_size, max_bytes)
                raise

        _magic, protocol, system = following(), following(), following()
        if protocol != _LEGACY_PROTOCOL or not system["little_endian"]:
            raise Refused("another protocol, or big-endian numbers")
        self.content, keys = following(), following()
        named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        if not named or sorted(keys) != sorted(names.storages):
            raise Refused("damaged: a list of other storages")
        self._file, self._places = file, {}
        place, size = stream.tell(), os.fstat(file.fileno()).st_size
        for key in keys:
            dtype, elements = names.storages[key]
            # Each storage is its number of elements, 8 bytes, then the elements.
            file.seek(place)
            stated = int.from_bytes(file.read(8), "little")
            if stated != elements:
                raise Refused(f"a storage of {stated} elements where {elements} are needed")
            self._places[key] = (place + 8, dtype, elements)
            place += 8 + elements * dtype.itemsize
        if place != size:
            raise Refused(f"{size} bytes where {place} are needed")

    def storage(self, key: str) -> np.ndarray:
        place, dtype, elements = self._places[key]
        self._file.seek(place)
        return np.frombuffer(self._file.read(elements * dtype.itemsize), dtype)


def _of_pickled(source: _Zipped | _Legacy, averaged: bool) -> dict[str, np.ndarray]:
    """The tensors of a file, of which no storage is read that none of them lies in."""
    found = _state_dict(source.content, averaged)
    needed = dict.fromkeys(tensor.storage for tensor in found.values())
    storages = {key: source.storage(key) for key in needed}
    return {name: _array(tensor, storages) for name, tensor in found.items()}


def _state_dict(content: Any, averaged: bool) -> dict[str, _Tensor]:
    found = _tensors(content, (*_AVERAGED, *_WRAPPERS) if averaged else _WRAPPERS)
    if not found:
        alone = not averaged and _tensors(content, (*_AVERAGED, *_WRAPPERS))
        raise Refused("averaged weights alone" if alone else "no state dict")
    return _without_prefixes({str(name): tensor for name, tensor in found.items()})


def _tensors(content: Any, wrappers: tuple[str, ...]) -> dict[Any, _Tensor]:
    """The tensors of the innermost dict under the wrappers, of which the first go first."""
    seen: set[int] = set()  # a pickle may hold itself

    def within(content: Any, depth: int) -> dict[Any, _Tensor]:
        if not isinstance(content, dict) or id(content) in seen or depth > _DEEPEST:
            return {}
        seen.add(id(content))
        inner = (within(content.get(wrapper), depth + 1) for wrapper in wrappers)
        own = {name: value for name, value in content.items() if isinstance(value, _Tensor)}
        return next(filter(None, inner), own)

    return within(content, 0)


def _array(tensor: _Tensor, storages: Mapping[str, np.ndarray]) -> np.ndarray:
    storage, (_, offset, shape, strides) = storages[tensor.storage], tensor
    if len(shape) > _DIMENSIONS or math.prod(n for n in shape if n) > _ELEMENTS:
        raise Refused("a tensor of more elements than any file holds")
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    # A window that leaves its storage would read this process's memory.
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if last >= storage.size:
        raise Refused(f"a tensor {shape} outside its storage of {storage.size} elements")
    steps = [s * storage.itemsize for s in strides]
    return as_strided(storage[offset:], shape, steps, writeable=False)


def _without_prefixes(tensors: Mapping[str, _Value]) -> dict[str, _Value]:
    found = {n: values for n, values in tensors.items() if n.split(".")[-1] != _COUNTER}
    if not found:
        raise Refused("no state dict")
    for _ in range(_DEEPEST):
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in found)), None)
        if prefix is None:
            break
        found = {name.removeprefix(prefix): values for name, values in found.items()}
    return found

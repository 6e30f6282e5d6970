"""Weight files that name code, hold themselves, lie about their sizes, or make no network."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save as safetensors

from jc2i import models
from jc2i.models.checkpoint import checksums
from jc2i.models.classifier import weights
from jc2i.models.registry import blank
from tests.files.running import Case

MAGIC = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})


def plain(value: Any) -> bytes:
    """A value's opcodes, of protocol 2, without what opens and ends a pickle."""
    return pickle.dumps(value, protocol=2)[2:-1]


def whole(opcodes: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + opcodes + b"."


def storage(elements: Any = 8, key: Any = "0", kind: bytes = b"ctorch\nFloatStorage\n") -> bytes:
    return b"(%s%s%s%s%stQ" % (
        *(plain("storage"), kind, plain(key), plain("cpu"), plain(elements)),
    )


def tensor(shape: Any = (8,), strides: Any = (1,), offset: Any = 0, of: bytes = b"") -> bytes:
    arguments = (of or storage()) + plain(offset) + plain(shape) + plain(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(%stR" % arguments


def under(name: bytes, value: bytes) -> bytes:
    return b"}" + plain(name.decode()) + value + b"s"


GOOD = under(b"w", tensor())


def zipped(content: bytes, record: bytes = bytes(32), **others: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", record)
        for name, other in others.items():
            archive.writestr(f"archive/{name}", other)
    return file.getvalue()


def legacy(
    content: bytes, record: bytes = bytes(32), keys: Any = ("0",), start: Any = MAGIC
) -> bytes:
    parts = [pickle.dumps(part, protocol=2) for part in start]
    listed = pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, protocol=2)
    elements = struct.pack("<q", len(record) // 4)
    return b"".join(parts) + content + listed + elements + record


class Call:
    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def doubled(first: bytes, pair: bytes) -> bytes:
    """A value that holds one twice, that holds one twice, and so on: in print, 2**100 of them."""
    steps = (pair % (i, i) + b"q%c0" % (i + 1) for i in range(100))
    return first + b"q\x000" + b"".join(steps) + b"h%c" % 100


def opcodes(ran: Path) -> dict[str, bytes]:
    """Pickles by name, each of a dict or of what a dict may not hold."""
    command = f"touch {ran}"
    lists = doubled(b"]", b"(h%ch%cl")
    calls = {
        "os.system": Call(os.system, command),
        "eval": Call(eval, f"open({str(ran)!r}, 'w')"),
        "exec": Call(exec, f"open({str(ran)!r}, 'w')"),
        "open": Call(open, str(ran), "w"),
        "getattr": Call(getattr, "x", "upper"),
        "import": Call(__import__, "this"),
        "partial": Call(functools.partial, print),
        "bytearray": Call(bytearray, 2**40),
        "range": Call(list, range(2**40)),
    }
    tuples = b")" + b"\x85" * 10**6
    return {
        **{f"calls {name}": under(b"state_dict", plain(call)) for name, call in calls.items()},
        "named and not called": under(b"w", b"cposix\nsystem\n"),
        "named in two parts": under(b"w", b"\x8c\x05posix\x8c\x06system\x93"),
        "named by a list": under(b"w", b"]]\x93"),
        "an instance": under(b"w", b"(U\x04truei__main__\nCall\n"),
        "an object": under(b"w", b"(cos\nsystem\nU\x04trueo"),
        "an extension": under(b"w", b"\x82\x01"),
        "a buffer": under(b"w", b"\x97"),
        "builds a class": b"ccollections\nOrderedDict\n" + plain({"update": 1}) + b"b",
        "a storage is called": under(b"w", b"ctorch\nFloatStorage\n)R"),
        "itself under model": b"}q\0" + plain("model") + b"h\0s",
        "itself under all": b"}q\0("
        + b"".join(plain(n) + b"h\0" for n in ("model", "net", "ema"))
        + b"u",
        "a list of itself": under(b"model", b"]q\1h\1a"),
        "lists in lists": under(b"model", b"]" * 10**6 + b"a" * (10**6 - 1)),
        "dicts in dicts": (b"}" + plain("model")) * 10**5 + b"}" + b"s" * 10**5,
        "tuples in tuples": under(b"model", tuples),
        "a key of tuples": b"}" + tuples + b"Ns",
        "a key of shared tuples": b"}" + doubled(b")", b"h%ch%c\x86") + b"Ns",
        "a key that is a list": b"}]Ns",
        "a key that is a tensor": b"}" + tensor() + b"Ns",
        "shared lists": under(b"w", lists),
        "shared lists as a storage": under(b"w", b"(" + lists + b"N" * 4 + b"tQ"),
        "shared lists as a key": under(b"w", b"(" + plain("storage") + b"N" + lists + b"NNtQ"),
        "shared lists as a shape": under(b"w", tensor()[:-12] + lists + lists + b"tR"),
        "values": b"(" + b"N" * 2**22 + b"l",
        "dicts": b"(" + b"}" * 2**22 + b"l",
        "memory": b"}" + b"\x94" * 2**22,
        "far memory": b"}r\xff\xff\xff\x7f",
        "no memory": b"h\x09",
        "a long text": b"\x8d" + struct.pack("<Q", 2**60) + b"x",
        "long bytes": b"\x8e" + struct.pack("<Q", 2**60) + b"x",
        "a long array": b"\x96" + struct.pack("<Q", 2**60) + b"x",
        "a long number": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x",
        "a number of digits": b"I" + b"9" * 10**6 + b"\n",
        "a number below zero": b"\x8b" + struct.pack("<i", -9) + b"x",
        "a frame": b"\x95" + struct.pack("<Q", 2**60) + GOOD,
        "no end": GOOD[:-1],
        "no mark": b"}u",
        "pops all": b"0" * 99,
        "a number": b"K\1",
        "no tensors": under(b"w", b"K\1"),
        "names of prefixes": under(b"model." * 10**6, tensor()),
        "names of many prefixes": under(b"model." * 10**4 + b"w", tensor()),
        "identified by a number": under(b"w", b"K\1Q"),
        "identified by a text": b"Pstorage\n" + GOOD,
        "identified by itself": under(b"w", b"(]q\1h\1atQ"),
        "a view": under(b"w", tensor(of=storage()[:-2] + plain(("0", 0, 8)) + b"tQ")),
        "a storage of another kind": under(b"w", tensor(of=storage(kind=b"U\1x"))),
        "a quantized storage": under(b"w", tensor(of=storage(kind=b"ctorch\nQInt8Storage\n"))),
        "a storage below zero": under(b"w", tensor(of=storage(-1))),
        "a storage of 2**62": under(b"w", tensor(of=storage(2**62))),
        "a storage of a part": under(b"w", tensor(of=storage(8.5))),
        "a storage of truth": under(b"w", tensor(of=storage(True))),
        "a smaller storage": under(b"w", tensor(of=storage(7))),
        "a larger storage": under(b"w", tensor(of=storage(9))),
        "a storage without a record": under(b"w", tensor(of=storage(key="7"))),
        "a storage above its folder": under(b"w", tensor(of=storage(key="../data.pkl"))),
        "two storages of one key": GOOD + plain("v") + tensor(of=storage(7)) + b"s",
        "outside": under(b"w", tensor(shape=(9,))),
        "outside by an offset": under(b"w", tensor(offset=1)),
        "outside by a stride": under(b"w", tensor(shape=(2, 2), strides=(8, 1))),
        "before": under(b"w", tensor(offset=-1)),
        "backwards": under(b"w", tensor(offset=7, strides=(-1,))),
        "of 2**62 elements": under(b"w", tensor(shape=(2**62,), strides=(0,))),
        "of 2**80 elements": under(b"w", tensor(shape=(2**40, 2**40), strides=(0, 0))),
        "of 100 dimensions": under(b"w", tensor(shape=(1,) * 100, strides=(0,) * 100)),
        "of no elements, and many": under(b"w", tensor(shape=(0, 2**60), strides=(1, 1))),
        "of other strides": under(b"w", tensor(shape=(2, 2))),
        "of a shape of words": under(b"w", tensor(shape="ab", strides="ab")),
        "of a shape of parts": under(b"w", tensor(shape=(8.0,))),
        "of a tensor": under(b"w", tensor(of=tensor())),
    }


def pickle_cases(folder: Path) -> Iterator[Case]:
    folder.mkdir()
    ran = folder / "ran"
    for index, (name, code) in enumerate(opcodes(ran).items()):
        protocol = 4 if name in ("a frame", "named in two parts") else 2
        for kind, packed in {"pt": zipped, "th": legacy}.items():
            path = folder / f"{index}.{kind}"
            path.write_bytes(packed(whole(code, protocol)))
            fine = name in ("a frame", "names of prefixes", "names of many prefixes")
            yield Case(f"{kind}: {name}", "weights", path, ("other",) if fine else ("refused",))
    others = {
        "big-endian.pt": zipped(whole(GOOD), byteorder=b"big"),
        "long-order.pt": zipped(whole(GOOD), byteorder=bytes(2**20)),
        "two.pt": _twice(zipped(whole(GOOD))),
        "checksum.pt": zipped(whole(GOOD)).replace(bytes(32), bytes(31) + b"\1"),
        "module.pt": (
            Path(__file__).parents[1] / "golden/models_torch_files/module.pt"
        ).read_bytes(),
        "big-endian.th": legacy(whole(GOOD), start=(*MAGIC[:2], {"little_endian": False})),
        "protocol.th": legacy(whole(GOOD), start=(MAGIC[0], 1000, MAGIC[2])),
        "protocol-of-lists.th": legacy(whole(GOOD), start=(MAGIC[0], [[[]]], MAGIC[2])),
        "no-system.th": legacy(whole(GOOD), start=(*MAGIC[:2], None)),
        "no-keys.th": legacy(whole(GOOD), keys=()),
        "other-keys.th": legacy(whole(GOOD), keys=("1",)),
        "keys-of-numbers.th": legacy(whole(GOOD), keys=(0,)),
        "keys-of-lists.th": legacy(whole(GOOD), keys=([],)),
        "no-list.th": legacy(whole(GOOD), keys={"0": 1}),
        "stated-less.th": legacy(whole(GOOD), bytes(28)),
        "stated-more.th": legacy(whole(GOOD), bytes(36)),
        "more-behind.th": legacy(whole(GOOD)) + b"more",
        "pickled.th": pickle.dumps({"w": np.ones(3)}),
        "words.pt": b"no weights",
        "header-of-2**63.safetensors": struct.pack("<Q", 2**63) + b"{}",
        "header-of-2**27.safetensors": struct.pack("<Q", 2**27) + b"{" + b" " * (2**27 - 2) + b"}",
        "nested.safetensors": _header(b'{"w":' * 10**5 + b"}" * 10**5),
        "lists.safetensors": _header(b'{"w":' + b"[" * 10**6),
        "no-offsets.safetensors": _header(b'{"w":{"dtype":"F32","shape":[8]}}'),
        "outside.safetensors": _stated([8], [0, 64]),
        "backwards.safetensors": _stated([8], [32, 0]),
        "holes.safetensors": _stated([4], [16, 32]),
        "1e12.safetensors": _stated([10**12], [0, 32]),
        "2**64.safetensors": _stated([2**32, 2**32], [0, 32]),
        "below-zero.safetensors": _stated([-8], [0, 32]),
        "other-type.safetensors": _stated([8], [0, 32], "F31"),
        "no-tensors.safetensors": _header(b'{"__metadata__":{"a":"b"}}'),
        "words.safetensors": _header(b"{words}"),
    }
    for name, content in others.items():
        path = folder / name
        path.write_bytes(content)
        yield Case(name, "weights", path)
    # The last of the cases: that no file of those before it made this one is looked at afterwards.
    yield Case("nothing was run", "weights", ran)


def _twice(content: bytes) -> bytes:
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/data/1", bytes(32))
    return file.getvalue().replace(b"archive/data/1", b"archive/data/0")


def _header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(32)


def _stated(shape: list[int], offsets: list[int], kind: str = "F32") -> bytes:
    entry = {"w": {"dtype": kind, "shape": shape, "data_offsets": offsets}}
    return _header(json.dumps(entry).encode())


def network_cases(folder: Path) -> Iterator[Case]:
    """Weights of the right names and shapes with which no network computes."""
    folder.mkdir()
    sound = network_weights()
    name, variance = "conv1.weight", "bn1.running_var"
    spoilt = {
        "sound": {},
        "nan": {name: sound[name] * np.float32("nan")},
        "one nan": {variance: np.where(np.arange(16) == 7, np.float32("nan"), sound[variance])},
        "infinite": {name: sound[name] + np.float32("inf")},
        "infinite in float32": {name: sound[name].astype("f8") + 1e300},
        "whole numbers": {name: sound[name].astype("i4")},
        "truths": {name: sound[name] > 0},
        "variance below zero": {variance: sound[variance] - 2},
        "missing": {name: None},
        "surplus": {"more": sound[name]},
        "another shape": {name: sound[name][:, :1]},
    }
    for index, (case, changed) in enumerate(spoilt.items()):
        arrays = {n: np.ascontiguousarray(v) for n, v in (sound | changed).items() if v is not None}
        path = folder / f"{index}.safetensors"
        path.write_bytes(safetensors(arrays))
        yield Case(f"network: {case}", "network", path, ("other",) if index == 0 else ("refused",))


def network_weights() -> dict[str, np.ndarray]:
    """The weights that a network of three classes takes, by PyTorch's names."""
    model = blank("resnet20_cifar", classes=3, shortcut="B")
    found = {}
    for name, value in weights(model).items():
        *layer, leaf = name.split(".")
        torch = {
            "kernel": "weight",
            "scale": "weight",
            "mean": "running_mean",
            "var": "running_var",
        }
        prefix = model.torch_names(tuple(layer))[0]
        array = np.asarray(value)
        order = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim, range(array.ndim))
        found[f"{prefix}.{torch.get(leaf, leaf)}"] = np.ascontiguousarray(array.transpose(order))
    return found


def model_cases(folder: Path) -> Iterator[Case]:
    """Folders of a saved model, edited."""
    folder.mkdir()
    model = models.create("small", classes=3, key=jax.random.key(0), widths=(4, 8), hidden=5)
    models.save(model, folder / "whole")
    yield Case("model: whole", "model", folder / "whole", ("same",), folder / "whole")
    for index, (name, options) in enumerate(OPTIONS.items()):
        root = _copied(folder / "whole", folder / f"options-{index}")
        description = json.loads((root / "model.json").read_text())
        if "architecture" in options:
            description |= options
        else:
            description["options"] |= options
        (root / "model.json").write_text(json.dumps(description))
        yield Case(f"model: {name}", "model", root)
    texts = {
        "nested": '{"a":' * 10**5,
        "lists": "[" * 10**6,
        "large": json.dumps({"architecture": "small", "options": {"size": 2**20 * "9"}}),
        "digits": '{"architecture": ' + "9" * 10**5 + "}",
        "a list": "[1, 2]",
        "options of a list": '{"architecture": "small", "options": [], "files": {}}',
        "no text": "\udcff",
        "empty": "",
    }
    for index, (name, text) in enumerate(texts.items()):
        root = _copied(folder / "whole", folder / f"text-{index}")
        (root / "model.json").write_bytes(text.encode(errors="surrogateescape"))
        yield Case(f"model.json: {name}", "model", root)
    files = [p.relative_to(folder / "whole") for p in (folder / "whole").rglob("*") if p.is_file()]
    for index, file in enumerate(sorted(files)):
        for kind in ("cut", "flipped", "missing", "pipe", "device", "sparse"):
            root = _copied(folder / "whole", folder / f"{kind}-{index}")
            path = root / file
            content = path.read_bytes()
            path.unlink()
            if kind == "cut":
                path.write_bytes(content[:-1])
            elif kind == "flipped":
                place = len(content) // 2
                path.write_bytes(
                    content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
                )
            elif kind == "pipe":
                os.mkfifo(path)
            elif kind == "device":
                path.symlink_to("/dev/zero")
            elif kind == "sparse":
                with path.open("wb") as made:
                    made.truncate(2**37)
            # The last byte of the description ends its line.
            last = (kind, file.name) == ("cut", "model.json")
            allowed = ("same",) if last else ("refused",)
            yield Case(f"model: {file} {kind}", "model", root, allowed, folder / "whole")
    yield from _consistent(folder)


def _consistent(folder: Path) -> Iterator[Case]:
    """Folders whose checksums are right, and whose arrays are not what they say."""
    from jc2i.models.checkpoint import write_arrays

    for name, shape in {"large": (2**16, 2**12), "other": (3,)}.items():
        root = _copied(folder / "whole", folder / f"consistent-{name}")
        shutil.rmtree(root / "weights")
        # Zeros are not stored, so that a few bytes may stand for any number of them.
        write_arrays(root / "weights", {"head.bias": np.zeros(shape, "f4")})
        description = json.loads((root / "model.json").read_text())
        description["files"] = checksums(root / "weights")
        description["options"]["hidden"] = 2**20 if name == "large" else 5
        (root / "model.json").write_text(json.dumps(description))
        yield Case(f"model: {name} arrays that are consistent", "model", root)


def _copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


OPTIONS = {
    "a classes' word": {"classes": "three"},
    "no classes": {"classes": 0},
    "classes of 10**9": {"classes": 10**9},
    "classes of 10**30": {"classes": 10**30},
    "classes of nothing": {"classes": None},
    "widths of 10**9": {"widths": [10**9, 10**9]},
    "many widths": {"widths": [4] * 20_000},
    "no widths": {"widths": []},
    "widths of words": {"widths": ["4", "8"]},
    "a nan mean": {"mean": [float("nan")]},
    "an infinite std": {"std": [float("inf")]},
    "a std of 0": {"std": [0.0]},
    "a mean of words": {"mean": ["x"]},
    "a mean that is a number": {"mean": 0.5},
    "another type": {"dtype": "object"},
    "an unknown option": {"callback": "os.system"},
    "a size of 10**9": {"size": 2**30},
    "a negative size": {"size": -16},
    "another mean": {"mean": [0.25]},
    "another architecture": {"architecture": "resnet9000"},
    "an architecture's list": {"architecture": ["small"]},
    "a deep transformer": {
        "architecture": "vit_small",
        "options": {"classes": 3, "depth": 10**6, "width": 3},
    },
    "a deep network": {
        "architecture": "resnet20_cifar",
        "options": {"classes": 3, "depth": 6 * 10**6 + 2},
    },
}

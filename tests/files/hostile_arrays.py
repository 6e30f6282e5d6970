"""Files of NumPy's arrays that lie or unpack to more than a machine holds; calibrators that are
none; kept batches of another batch."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.files import child
from tests.files.running import Case

IMAGES = np.zeros((4, 4, 4), np.uint8)
LABELS = np.array([0, 1, 0, 1])


def npy(shape: Any, content: bytes, dtype: str = "|u1", header: str = "") -> bytes:
    """An array of NumPy's, whose header may say anything."""
    text = header or f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    encoded = text.encode().ljust(-(-len(text) // 64) * 64 + 53) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(encoded)) + encoded + content


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def pair(images: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """A data set of these images and two labels."""
    labels = io.BytesIO()
    np.save(labels, LABELS)
    return zipped({"images.npy": images, "labels.npy": labels.getvalue()}, method)


def saved(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


def lying(content: bytes, field: int, value: int) -> bytes:
    """A zip whose directory says another size (field 24) or checksum (16) of its first member."""
    changed = bytearray(content)
    struct.pack_into("<I", changed, content.index(b"PK\x01\x02") + field, value)
    return bytes(changed)


def npz_cases(folder: Path) -> Iterator[Case]:
    folder.mkdir()
    bomb = pair(npy((2**30,), bytes(2**28)), zipfile.ZIP_DEFLATED)
    whole = pair(npy((4, 4, 4), bytes(64)))
    contents = {
        "zeros": bomb,
        "small-zeros": lying(bomb, 24, 64),
        "many-zeros": zipped(
            {f"{index}_images.npy": npy((2**24,), bytes(2**24)) for index in range(20)},
            zipfile.ZIP_DEFLATED,
        ),
        "header-of-zeros": zipped(
            {
                "images.npy": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**27) + b" " * 2**27,
                "labels.npy": npy((1,), b"\0"),
            },
            zipfile.ZIP_DEFLATED,
        ),
        "shape-of-1e12": pair(npy((10**12,), bytes(64))),
        "shape-of-1e30": pair(npy((10**10, 10**10, 10**10), bytes(64))),
        "no-elements": pair(npy((0, 10**18), b"")),
        "shape-below-zero": pair(npy((-4, -4, 4), bytes(64))),
        "shape-of-words": pair(npy(("4", 4, 4), bytes(64))),
        "shape-of-100": pair(npy((1,) * 100, bytes(1))),
        "shorter": pair(npy((2, 4, 4), bytes(64))),
        "nested-header": pair(npy(0, b"", header="(" * 9000)),
        "call-in-header": pair(npy(0, b"", header="__import__('os').system('true')")),
        "no-type": pair(npy((4, 4, 4), bytes(64), "hello")),
        "objects-in-fields": pair(npy((1,), bytes(8), [("a", "|O")])),  # type: ignore[arg-type]
        "void": pair(npy((1,), bytes(99), "|V99")),
        "objects": saved(images=np.array([{}, {}], object), labels=[0, 1]),
        "two-of-one-name": zipped({"images.npy": npy((1,), b"\0")}) + b"",
        "not-arrays": zipped({"images": b"words", "labels": b"words"}),
        "path": zipped({"../../images.npy": npy((1,), b"\0")}),
        "checksum": lying(whole, 16, 1),
        "larger-member": lying(whole, 24, 2**31),
        "smaller-member": lying(whole, 24, 10),
        "end-alone": b"PK\x05\x06" + bytes(18),
        "end-of-gigabytes": b"PK\x05\x06"
        + bytes(6)
        + struct.pack("<HII", 9, 2**32 - 2, 0)
        + b"\0\0",
        "locator": bytes(56) + b"PK\x06\x07" + bytes(16) + b"PK\x05\x06" + b"\xff" * 18,
        "members": zipped({f"{index}.npy": b"" for index in range(2**16 + 9)}),
        "labels-of-2**40": saved(images=IMAGES, labels=[0, 1, 2**40, 1]),
        "labels-of-2**30": saved(images=IMAGES, labels=[0, 1, 2**30, 1]),
        "labels-below-zero": saved(images=IMAGES, labels=[0, 1, -1, 1]),
        "labels-of-points": saved(images=IMAGES, labels=[0.0, 1, 0, 1]),
        "labels-in-columns": saved(images=IMAGES, labels=np.eye(4, dtype=int)),
        "labels-too-few": saved(images=IMAGES, labels=[0, 1]),
        "nan-images": saved(images=IMAGES * np.nan, labels=LABELS),
        "complex-images": saved(images=IMAGES * 1j, labels=LABELS),
        "classes-of-matrices": saved(images=IMAGES, labels=LABELS, classes=np.eye(2)),
        "no-keys": saved(**{"x\ny" * 999: IMAGES}),
        "nan-boxes": saved(
            test_images=IMAGES, test_labels=LABELS, test_boxes=np.full((4, 4), np.nan)
        ),
        "boxes-of-pixels": saved(
            test_images=IMAGES, test_labels=LABELS, test_boxes=np.tile([0.0, 0, 64, 64], (4, 1))
        ),
        "boxes-backwards": saved(
            test_images=IMAGES, test_labels=LABELS, test_boxes=np.tile([0.5, 0, 0.1, 1], (4, 1))
        ),
        "an-array": npy((4, 4, 4), bytes(64)),
    }
    for name, content in contents.items():
        path = folder / f"{name}.npz"
        path.write_bytes(content)
        yield Case(f"npz: {name}", "data", path)
    path = folder / "two.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for member in ("images", "labels", "boxes"):
            archive.writestr(f"{member}.npy", npy((1,), b"\0"))
    path.write_bytes(
        path.read_bytes().replace(b"boxes.npy", b"label.npy").replace(b"labels", b"label.")
    )
    yield Case("npz: two names for one member", "data", path)


def calibrator_cases(folder: Path) -> Iterator[Case]:
    folder.mkdir()
    eye, rising = np.eye(3, dtype="f4"), np.linspace(0, 1, 12, dtype="f4").reshape(4, 3)
    isotonic = {"calibrator": "Isotonic", "thresholds": rising, "values": rising, "floor": 1e-6}
    histogram = {"calibrator": "Histogram", "edges": rising, "values": rising, "floor": 1e-6}
    matrix = {"calibrator": "MatrixScaling", "weight": eye, "bias": eye[0]}
    temperatures = {
        "zero": 0.0, "below-zero": -1.0, "nan": np.nan, "infinite": np.inf, "1e300": 1e300,
        "1e-300": 1e-300, "several": np.ones(3), "none": np.ones(0), "complex": 1j, "truth": True,
        "word": "2", "object": np.array([{}], object), "date": np.datetime64("2020-01-01"),
        "whole-below-zero": -3,
    }  # fmt: skip
    entries = {
        **{
            f"temperature {name}": {"calibrator": "Temperature", "temperature": value}
            for name, value in temperatures.items()
        },
        "temperature as an object": {"calibrator": "Temperature", "temperature.object": 1},
        "temperature as a key": {"calibrator": "Temperature", "temperature.key<fry>": 1},
        "temperature as int8": {"calibrator": "Temperature", "temperature.int8": 1},
        "temperature twice": {"calibrator": "Temperature", "temperature": 2.0, "temperature.f": 1},
        "isotonic falling": isotonic | {"values": rising[::-1]},
        "isotonic knots falling": isotonic | {"thresholds": rising[::-1]},
        "isotonic above 1": isotonic | {"values": 7 * rising},
        "isotonic below 0": isotonic | {"thresholds": rising - 1},
        "isotonic nan": isotonic | {"values": rising * np.nan},
        "isotonic of other knots": isotonic | {"values": rising[:2]},
        "isotonic without knots": isotonic | {"values": rising[:0], "thresholds": rising[:0]},
        "isotonic of one class": isotonic | {"values": rising[:, :1], "thresholds": rising[:, :1]},
        "isotonic floor of 0": isotonic | {"floor": 0.0},
        "isotonic floor of 1e-300": isotonic | {"floor": 1e-300},
        "histogram of as many edges": histogram,
        "histogram above 1": histogram | {"edges": rising[:3], "values": 2 * rising},
        "histogram edges falling": histogram | {"edges": rising[:3][::-1]},
        "matrix not square": matrix | {"weight": np.ones((4, 3), "f4")},
        "matrix of a stack": matrix | {"weight": np.ones((2, 3, 3), "f4")},
        "matrix nan": matrix | {"weight": eye * np.nan},
        "matrix of other classes": matrix | {"bias": np.ones(4, "f4")},
        "matrix of no classes": matrix | {"weight": np.ones((0, 0)), "bias": np.ones(0)},
        "matrix of one class": matrix | {"weight": np.ones((1, 1)), "bias": np.ones(1)},
        "dirichlet without a bias": {"calibrator": "Dirichlet", "weight": eye},
        "surplus": matrix | {"more": eye},
        "another class": {"calibrator": "Beta"},
        "a function": {"calibrator": "fit_temperature"},
        "a class of lines": {"calibrator": "x\n" * 999},
        "a class that is a matrix": {"calibrator": eye},
        "no class": {"temperature": 2.0},
        "large": {"calibrator": "MatrixScaling", "weight": np.zeros((8000, 8000)), "bias": eye[0]},
    }
    for index, (name, arrays) in enumerate(entries.items()):
        path = folder / f"{index}.calibrator"
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=True, **arrays)
        yield Case(f"calibrator: {name}", "calibrator", path)
    path = folder / "zeros.calibrator"
    path.write_bytes(zipped({"temperature.npy": npy((2**28,), bytes(2**28))}, zipfile.ZIP_DEFLATED))
    yield Case("calibrator: zeros", "calibrator", path)


def kept_cases(folder: Path) -> Iterator[Case]:
    """Kept batches, each in a folder of its own beside those of the same run."""
    folder.mkdir()
    whole = kept(folder / "whole")
    yield Case("kept: whole", "kept", whole[0], ("same",), whole[0])
    first, second = whole[0].read_bytes(), whole[1].read_bytes()
    loaded = dict(np.load(whole[0]))
    half = {n: v[:1] if v.ndim else v for n, v in loaded.items()}
    changed = {n: v + np.float32(1) if v.ndim else v for n, v in loaded.items()}
    unsigned = loaded | {"about": np.array('{"outline": null, "dtypes": ["float32", "float32"]}')}
    deep = loaded | {"about": np.array("[" * 10**6)}
    contents = {
        "swapped": second,
        "shortened": saved(**half),
        "changed": saved(**changed),
        "without a checksum": saved(**unsigned),
        "deep": saved(**deep),
        "zeros": zipped({"about.npy": npy((2**28,), bytes(2**28))}, zipfile.ZIP_DEFLATED),
        "no zip": b"kept",
        "empty": b"",
        **{f"cut at {n}": first[:n] for n in range(1, len(first), len(first) // 12)},
        **{f"bit of byte {n}": flipped(first, n) for n in range(0, len(first), len(first) // 40)},
    }
    for index, (name, content) in enumerate(contents.items()):
        files = kept(folder / str(index))
        files[0].write_bytes(content)
        yield Case(f"kept: {name}", "kept", files[0], ("refused", "same"), whole[0])
    files = kept(folder / "pipe")
    files[0].unlink()
    os.mkfifo(files[0])
    yield Case("kept: a pipe", "kept", files[0])


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 4
    return bytes(changed)


def kept(folder: Path) -> list[Path]:
    folder.mkdir()
    child.kept(str(folder / "any"))
    files = sorted(folder.glob("*.npz"))
    assert len(files) == 3
    return files

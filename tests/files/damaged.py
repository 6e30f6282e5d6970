"""Small files of every kind, and what is left of them after a flipped bit or a cut."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image

from jc2i import calibrators
from tests.files.running import Case

TORCH = Path(__file__).parents[1] / "golden" / "models_torch_files"
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (4, 5, 3), np.uint8)

NO_CHECKSUM = {
    *("photo.jpg", "photo.gif", "photo.bmp", "photo.tif", "photo.webp", "photo.ppm"),
    *("legacy.th", "trained.th", "whole.safetensors"),
}
"""Files in which a changed bit may be another value: SECURITY.md says so."""

DOORS = {
    ".tar": "data", ".gz": "data", ".bz2": "data", ".xz": "data", ".npz": "data",
    ".png": "image", ".jpg": "image", ".gif": "image", ".bmp": "image", ".tif": "image",
    ".webp": "image", ".ppm": "image",
    ".pt": "weights", ".th": "weights", ".safetensors": "weights",
    ".calibrator": "calibrator",
}  # fmt: skip


def originals(folder: Path) -> list[Path]:
    """Whole files of every kind."""
    folder.mkdir()
    for file in ("zip.pt", "trained.pt", "legacy.th", "trained.th", "whole.safetensors"):
        shutil.copyfile(TORCH / file, folder / file)
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm"):
        # Wide enough that a flipped bit has pixels to be in.
        pixels = np.kron(PIXELS, np.ones((4, 4, 1), np.uint8))
        Image.fromarray(pixels).save(folder / f"photo.{suffix}")
    packed = tar(image_tree())
    (folder / "tree.tar").write_bytes(packed)
    (folder / "tree.tar.gz").write_bytes(gzip.compress(packed, mtime=0))
    (folder / "tree.tar.bz2").write_bytes(bz2.compress(packed))
    (folder / "tree.tar.xz").write_bytes(lzma.compress(packed))
    arrays = {
        "train_images": RANDOM.integers(0, 256, (3, 4, 5), np.uint8),
        "train_labels": np.array([0, 1, 0]),
        "test_images": RANDOM.integers(0, 256, (2, 4, 5), np.uint8),
        "test_labels": np.array([1, 0]),
        "train_boxes": np.tile(np.float32([0, 0.25, 0.5, 1]), (3, 1)),
        "test_boxes": np.tile(np.float32([0.25, 0, 1, 0.5]), (2, 1)),
        "classes": np.array(["cat", "dog"]),
    }
    np.savez(folder / "stored.npz", allow_pickle=False, **arrays)
    np.savez_compressed(folder / "packed.npz", allow_pickle=False, **arrays)
    rising = jnp.sort(jnp.asarray(RANDOM.random((4, 3)), jnp.float32), axis=0)
    for name, calibrator in {
        "temperature": calibrators.Temperature(jnp.float32(1.7)),
        "dirichlet": calibrators.Dirichlet(jnp.eye(3) / 3, jnp.arange(3.0)),
        "isotonic": calibrators.Isotonic(rising, rising, jnp.float32(1e-6)),
        "half": calibrators.Temperature(jnp.bfloat16(1.5)),
    }.items():
        calibrators.save(calibrator, folder / f"{name}.calibrator")
    return sorted(folder.iterdir())


def image_tree() -> dict[str, bytes]:
    """Images of two classes in two splits, and the boxes of some."""
    tree = {}
    paths = ["train/cat/a.png", "train/cow/b.png", "train/dog/c.png", "val/dog/d.png"]
    for value, path in enumerate([*paths, "val/cat/e.png"]):
        file = io.BytesIO()
        Image.fromarray(np.full((4, 4, 3), 40 * value, np.uint8)).save(file, "PNG")
        tree[path] = file.getvalue()
    return tree


def tar(tree: dict[str, bytes], **options) -> bytes:
    """A tree as an archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as archive:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def damaged(folder: Path, files: list[Path], flips: int, cuts: int) -> Iterator[Case]:
    """Each file with one bit changed, at places all over it, and cut at many lengths."""
    folder.mkdir()
    for file in files:
        whole, door = file.read_bytes(), DOORS[file.suffix]
        yield Case(f"{file.name} whole", door, file, ("same",), file)
        places = np.unique(np.linspace(0, len(whole) - 1, flips).astype(int))
        for place in places:
            bit = int(RANDOM.integers(8))
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path = folder / f"{place}-{bit}-{file.name}"
            path.write_bytes(changed)
            allowed = ("refused", "other" if file.name in NO_CHECKSUM else "same")
            yield Case(f"{file.name} bit {bit} of byte {place}", door, path, allowed, file)
        lengths = np.unique(np.linspace(0, len(whole) - 1, cuts).astype(int))
        for length in lengths:
            path = folder / f"cut-{length}-{file.name}"
            path.write_bytes(whole[:length])
            # What is behind the last pixel is not missed.
            yield Case(f"{file.name} cut at {length}", door, path, ("refused", "same"), file)

"""Items on cluttered canvases: images whose boxes are exact, for the tables with boxes.

    python -m experiments.opti.canvases --data fashion_mnist.npz --out canvases.npz

Each image of the data set (28 px in Fashion-MNIST) lies somewhere on a canvas of 56 px, on top of
pieces of other images, each too small to be one of their class, and of bright strokes. The box is
that of the item's own pixels. The file has the keys `train_images`, `train_labels`, `train_boxes`,
likewise `test_...`, and `classes`: `jc2i.data.load` reads it, boxes included, and cuts the
calibration and the evaluation half out of its test images.
"""

from __future__ import annotations

import dataclasses
import io
import sys
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Integer, UInt8

if __package__ in (None, ""):  # run as a script, which finds only the modules beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from jc2i import data
from jc2i.checks import require
from jc2i.files import write_whole

PIECES = (8, 13)
"""Pieces of other images on a canvas: at least, and fewer than."""
SIDES = (6, 11)
"""Their height and width in pixels: at least, and less than."""
STROKES = (2, 5)
"""Strokes on a canvas: at least, and fewer than."""

CLASSES = {
    "fashion_mnist": (
        "T-shirt/top", "trouser", "pullover", "dress", "coat",
        "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
}  # fmt: skip
"""The names of the classes of data sets that say none, by name."""


@dataclasses.dataclass(frozen=True)
class Canvases:
    """Which items, and where to: the command line."""

    out: Path
    """The .npz file to write."""
    data: str = "fashion_mnist.npz"
    """Name or path of the items, as `jc2i.data.load` takes it, in grey."""
    size: int = 56
    """Height and width of a canvas in pixels."""
    train: int | None = None
    """Training images, drawn at random; None for all."""
    test: int | None = None
    """Test images, of which one half is for calibration; None for all."""
    seed: int = 0
    """Chooses the images, the places and the clutter."""


def canvases(
    images: UInt8[np.ndarray, "n h w 1"],
    labels: Integer[np.ndarray, " n"],
    *,
    size: int = 56,
    seed: int,
) -> tuple[
    UInt8[np.ndarray, "n {size} {size} 1"], Integer[np.ndarray, " n"], Float32[np.ndarray, "n 4"]
]:
    """Each item at a random place on a canvas of its own, among pieces of others and strokes.

    The canvas of item i depends on the items, `seed` and i alone.

    Args:
      images: grey items; what is 0 is no part of them.
      labels: their classes.
      size: height and width of a canvas in pixels, at least those of an item.
      seed: chooses the places and the clutter, from 0.

    Returns:
      The canvases; the labels as they are; and the item's box in each canvas, (top, left, bottom,
      right) as fractions of it.

    Raises:
      ValueError: for a canvas smaller than an item, or an item without a pixel above 0.
    """
    sides = images.shape[1:3]
    require(size >= max(sides), "size", size, f"at least {max(sides)}, an item's")
    got = "one without a pixel above 0"
    require(bool(images.any(axis=(1, 2, 3)).all()), "images", got, "items to be seen")
    drawn = np.zeros((len(images), size, size), np.uint8)
    boxes = np.zeros((len(images), 4), np.float32)
    for index, item in enumerate(images[..., 0]):
        random = np.random.default_rng((seed, index))
        canvas = drawn[index]
        for _ in range(random.integers(*PIECES)):
            _paste(canvas, _piece(images, random), random)
        for _ in range(random.integers(*STROKES)):
            _paste(canvas, _stroke(random), random)
        rows, columns = (np.flatnonzero(item.any(axis=axis)) for axis in (1, 0))
        tight = item[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        top, left = _paste(canvas, tight, random)
        boxes[index] = (top, left, top + tight.shape[0], left + tight.shape[1])
    return drawn[..., None], labels, boxes / np.float32(size)


def _paste(
    canvas: UInt8[np.ndarray, "s s"], part: UInt8[np.ndarray, "h w"], random: np.random.Generator
) -> tuple[int, int]:
    """Covers a random place of the canvas with the pixels of a part that are not 0."""
    top, left = (int(random.integers(0, len(canvas) - side + 1)) for side in part.shape)
    place = canvas[top : top + part.shape[0], left : left + part.shape[1]]
    np.copyto(place, part, where=part > 0)
    return top, left


def _piece(
    images: UInt8[np.ndarray, "n h w 1"], random: np.random.Generator
) -> UInt8[np.ndarray, "tall wide"]:
    """A piece of any item, turned by a multiple of 90 degrees."""
    item = images[random.integers(len(images)), ..., 0]
    tall, wide = (min(int(random.integers(*SIDES)), side) for side in item.shape)
    top, left = (
        int(random.integers(0, a - b + 1)) for a, b in zip(item.shape, (tall, wide), strict=True)
    )
    return np.rot90(item[top : top + tall, left : left + wide], int(random.integers(4)))


def _stroke(random: np.random.Generator) -> UInt8[np.ndarray, "tall wide"]:
    """A straight stroke one pixel wide, 8 to 20 long, along a side or a diagonal."""
    length, grey = int(random.integers(8, 21)), np.uint8(random.integers(64, 256))
    shapes = (np.ones((1, length), bool), np.ones((length, 1), bool))
    diagonal = np.eye(length, dtype=bool)
    return grey * (*shapes, diagonal, diagonal[::-1])[random.integers(4)]


def write(chosen: Canvases) -> dict[str, int]:
    """Draws the canvases of both splits and writes them.

    Args:
      chosen: which items, and where to.

    Returns:
      The number of images of each split.

    Raises:
      ValueError: as `canvases` and `jc2i.data.load`.
    """
    arrays: dict[str, np.ndarray] = {}
    counts = {}
    for split, count in (("train", chosen.train), ("test", chosen.test)):
        items = data.load(chosen.data, split, channels=1)
        some = np.arange(len(items))
        if count is not None:
            (some,) = data.disjoint_splits(len(items), (count,), seed=chosen.seed)
        images, labels = items[some]
        # Both splits' clutter would be the same otherwise.
        seed = zlib.crc32(f"{chosen.seed} {split}".encode())
        images, labels, boxes = canvases(images, labels, size=chosen.size, seed=seed)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels, f"{split}_boxes": boxes}
        arrays["classes"] = np.array(CLASSES.get(items.name, items.classes))
        counts[split] = len(images)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # pyright: ignore[reportArgumentType]
    write_whole(chosen.out, content.getvalue())
    return counts


if __name__ == "__main__":
    import tyro

    from jc2i.commands import run

    run(lambda: print(write(tyro.cli(Canvases, description=__doc__))))

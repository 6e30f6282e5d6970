"""NumPy .npz files, with the keys that MedMNIST, Keras and others use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jc2i import files
from jc2i.checks import invalid
from jc2i.data.dataset import Dataset
from jc2i.data.pixels import RANGE_TOLERANCE, Resizing, in_range
from jc2i.data.splits import split_of, stored_splits
from jc2i.zipped import Arrays

_KEYS = "keys <split>_images and <split>_labels, x_<split> and y_<split>, or images and labels"

MOST_CLASSES = 2**20
"""Classes of one data set; each is given a name."""


def load_npz(path: Path, split: str, *, resizing: Resizing, max_bytes: int = files.MOST) -> Dataset:
    """Arrays of images and labels; the split's images are held in memory. Pickles are refused.

    Args:
      path: the file. Keys `<split>_images` and `<split>_labels` or `x_<split>` and `y_<split>`
        (split: train, val, test), or `images` and `labels`. Images [n, h, w] or [n, h, w, c] with
        1 or 3 channels, uint8 or float in [0, 1]; labels [n] or [n, 1], integers from 0. A key
        `classes` may hold the names of the classes, which are else their numbers, and keys
        `<split>_boxes` one box an image, [n, 4]: (top, left, bottom, right) as fractions of it.
      split: one of `SPLITS`; a file without splits has only `"all"` and its halves.
      resizing: how each image gets its size.
      max_bytes: the most bytes that the arrays may take, unless the file is large (see `load`).

    Returns:
      The data set.

    Raises:
      ValueError: the file is damaged, not an .npz, too large, or its keys, shapes, types or values
        are none of these; there is no such split.
    """
    with (
        files.opened(path, "name_or_path") as opened,
        files.refusing("name_or_path", str(path), "not a whole file", "a NumPy .npz file"),
    ):
        return _read(Arrays(opened, max_bytes, "max_bytes"), path, split, resizing)


def _read(file: Arrays, path: Path, split: str, resizing: Resizing) -> Dataset:
    keys = {}
    for key in file:
        start, _, end = key.partition("_")
        if start == "x" and f"y_{end}" in file and split_of(end):
            keys[split_of(end)] = (key, f"y_{end}")
        elif end == "images" and f"{start}_labels" in file and split_of(start):
            keys[split_of(start)] = (key, f"{start}_labels")
    if not keys and {"images", "labels"} <= set(file):
        keys[None] = ("images", "labels")
    if not keys:
        named = files.one_line(", ".join(file))
        raise invalid("name_or_path", f"{path} with keys {named}", _KEYS)
    chosen = stored_splits(split, keys, str(path))
    # Every split's labels count the classes: a split may lack some.
    labels = {name: _labels(_array(file, path, keys[name][1]), keys[name][1]) for name in keys}
    images = [_images(_array(file, path, keys[name][0]), keys[name][0]) for name in chosen]
    sides = [each.shape[1:3] for each in images]
    images = [resizing.arrays(each) for each in images]
    if "classes" in file:
        named = _array(file, path, "classes")
        if named.ndim != 1 or len(named) > MOST_CLASSES:
            takes = f"names [classes], at most {MOST_CLASSES}"
            raise invalid("classes", f"shape {named.shape}", takes)
        classes = tuple(map(str, named))
    else:
        count = 1 + max(int(each.max(initial=-1)) for each in labels.values())
        classes = tuple(str(label) for label in range(count))
    if len({each.shape[1:] for each in images}) > 1:
        raise invalid("name_or_path", f"{path} with splits of different shapes", "one shape")
    return Dataset(
        np.concatenate(images) if len(images) > 1 else images[0],
        np.concatenate([labels[name] for name in chosen]),
        classes,
        path.stem,
        _boxes(file, path, chosen, sides, resizing),
    )


def _boxes(
    file: Arrays,
    path: Path,
    splits: Sequence[str | None],
    sides: Sequence[tuple[int, ...]],
    resizing: Resizing,
) -> tuple[np.ndarray, ...] | None:
    """Each image's box where every split has them."""
    keys = [f"{split}_boxes" for split in splits]
    if not set(keys) <= set(file):
        return None
    found = []
    for key, (height, width) in zip(keys, sides, strict=True):
        boxes = _array(file, path, key)
        takes = "fractions [n, 4]: (top, left, bottom, right)"
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.issubdtype(boxes.dtype, np.floating):
            raise invalid(key, f"shape {boxes.shape}, dtype {boxes.dtype}", takes)
        # Written so that a NaN is refused too.
        within = (boxes >= -RANGE_TOLERANCE) & (boxes <= 1 + RANGE_TOLERANCE)
        if not within.all() or not (boxes[:, :2] <= boxes[:, 2:]).all():
            raise invalid(key, "a box outside its image, or of no size", takes)
        rows = boxes.astype(np.float32)[:, None]
        found += [resizing.boxes(box, (height, width)) for box in rows]
    return tuple(found)


def _array(file: Arrays, path: Path, key: str) -> np.ndarray:
    try:
        return file[key]
    except ValueError as error:  # pickled objects, or bytes that are not an array
        raise invalid(f"{path}[{key!r}]", f"no plain array ({error})", "an array") from error


def _images(images: np.ndarray, key: str) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise invalid(key, f"shape {images.shape}", "[n, h, w] or [n, h, w, c] with c 1 or 3")
    return in_range(key, images)


def _labels(labels: np.ndarray, key: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise invalid(key, f"shape {labels.shape}, dtype {labels.dtype}", "integers [n] or [n, 1]")
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high >= MOST_CLASSES:
        takes = f"classes 0 to {MOST_CLASSES - 1}"
        raise invalid(key, f"labels from {low} to {high}", takes)
    return labels.astype(np.int32)

"""NumPy .npz files, with the keys that MedMNIST, Keras and others use."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jc2i.checks import invalid
from jc2i.data.dataset import Dataset
from jc2i.data.pixels import Resizing, in_range
from jc2i.data.splits import split_of, stored_splits

_KEYS = "keys <split>_images and <split>_labels, x_<split> and y_<split>, or images and labels"


def load_npz(path: Path, split: str, *, resizing: Resizing) -> Dataset:
    """Arrays of images and labels; the split's images are held in memory. Pickles are refused.

    Args:
      path: the file. Keys `<split>_images` and `<split>_labels` or `x_<split>` and `y_<split>`
        (split: train, val, test), or `images` and `labels`. Images [n, h, w] or [n, h, w, c] with
        1 or 3 channels, uint8 or float in [0, 1]; labels [n] or [n, 1], integers from 0. A key
        `classes` may hold the names of the classes, which are else their numbers, and keys
        `<split>_boxes` one box an image, [n, 4]: (top, left, bottom, right) as fractions of it.
      split: one of `SPLITS`; a file without splits has only `"all"` and its halves.
      resizing: how each image gets its size.

    Returns:
      The data set.

    Raises:
      ValueError: the file is damaged, not an .npz, or its keys, shapes, types or values are none
        of these; there is no such split.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return _read(file, path, split, resizing)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise invalid(
            "name_or_path", f"{path}, not a whole file ({error})", "a NumPy .npz file"
        ) from error


def _read(file: Any, path: Path, split: str, resizing: Resizing) -> Dataset:
    keys = {}
    for key in file.files:
        start, _, end = key.partition("_")
        if start == "x" and f"y_{end}" in file.files and split_of(end):
            keys[split_of(end)] = (key, f"y_{end}")
        elif end == "images" and f"{start}_labels" in file.files and split_of(start):
            keys[split_of(start)] = (key, f"{start}_labels")
    if not keys and {"images", "labels"} <= set(file.files):
        keys[None] = ("images", "labels")
    if not keys:
        raise invalid("name_or_path", f"{path} with keys {', '.join(file.files)}", _KEYS)
    chosen = stored_splits(split, keys, str(path))
    # Every split's labels count the classes: a split may lack some.
    labels = {name: _labels(_array(file, path, keys[name][1]), keys[name][1]) for name in keys}
    images = [_images(_array(file, path, keys[name][0]), keys[name][0]) for name in chosen]
    sides = [each.shape[1:3] for each in images]
    images = [resizing.arrays(each) for each in images]
    if "classes" in file.files:
        classes = tuple(str(name) for name in _array(file, path, "classes"))
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
    file: Any,
    path: Path,
    splits: Sequence[str | None],
    sides: Sequence[tuple[int, ...]],
    resizing: Resizing,
) -> tuple[np.ndarray, ...] | None:
    """Each image's box where every split has them."""
    keys = [f"{split}_boxes" for split in splits]
    if not set(keys) <= set(file.files):
        return None
    found = []
    for key, (height, width) in zip(keys, sides, strict=True):
        boxes = _array(file, path, key)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.issubdtype(boxes.dtype, np.floating):
            got = f"shape {boxes.shape}, dtype {boxes.dtype}"
            raise invalid(key, got, "fractions [n, 4]: (top, left, bottom, right)")
        rows = boxes.astype(np.float32)[:, None]
        found += [resizing.boxes(box, (height, width)) for box in rows]
    return tuple(found)


def _array(file: Any, path: Path, key: str) -> np.ndarray:
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
    return labels.astype(np.int32)

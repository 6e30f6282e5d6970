"""One entrance to every source of data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jc2i import checks, files
from jc2i.checks import count, invalid, one_of
from jc2i.data import tfds
from jc2i.data.archive import is_archive, load_archive
from jc2i.data.dataset import Dataset
from jc2i.data.digits import load_digits
from jc2i.data.folder import load_folder
from jc2i.data.image_files import MAX_PIXELS, Decoding
from jc2i.data.npz import load_npz
from jc2i.data.pixels import Resizing
from jc2i.data.splits import HALVES, SPLITS, half


def load(
    name_or_path: str | os.PathLike[str],
    split: str,
    *,
    size: tuple[int, int] | None = None,
    crop_fraction: float | None = None,
    interpolation: str = "bicubic",
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    upright: bool = True,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = files.MOST,
    data_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """A data set's split, by name or path.

    Training, calibration and evaluation are disjoint by construction: calibration and evaluation
    are the two halves of one fixed permutation of the test images (of the validation images where
    no test images are stored, of all images where the source has no splits).

    Args:
      name_or_path: `"digits"`; a folder or .tar, .tar.gz, .tar.xz of images at
        `<split>/<class>/<image>` or `<class>/<image>`; a NumPy .npz file; a folder prepared by
        TFDS as array_record, or the name of one in `data_dir` (`"cifar10"`, `"cifar100"`,
        `"food101"`, `"caltech_birds2011"`, `"eurosat"`, `"fashion_mnist"`, `"imagenet2012"`).
        Folders and archives may be laid out as Tiny ImageNet or CUB-200-2011 are published, and
        hold bounding boxes in a `boxes.csv` (see `annotations.read_annotations`).
      split: `"train"`, `"validation"`, `"test"`, `"all"` (every stored split), `"calibration"` or
        `"evaluation"`.
      size: height and width in pixels to resize to; None for the images' own, which must then be
        the same for all.
      crop_fraction: None squashes each image to `size`, whatever its aspect. A number in (0, 1]
        keeps the aspect and gives the centre, as torchvision and timm do for evaluation: with
        size (224, 224) and 0.875, the shorter side is resized to 256 and the middle 224x224 cut
        out. Boxes follow.
      interpolation: Pillow's filter, `"bicubic"` or `"bilinear"`.
      channels: 1 (grey) or 3 (RGB); None for RGB, what TFDS declares, or those of an array, whose
        grey images can be made RGB but not the reverse.
      classes: for folders and archives, the class folders' names in the order of the labels (for
        example all of ImageNet's, where the folder has a few); None for the sorted names.
      upright: whether images in files are turned as their camera noted (EXIF), as `read_image` does
        too, and boxes with them. False for as they are stored, which is how torchvision's
        `ImageFolder` and TensorFlow (TFDS) give them, and a published figure may mean them.
      max_pixels: the most pixels of an image file that are decoded; a larger JPEG is decoded at
        half or a quarter of its sides where that leaves `size` (see `read_image`).
      max_bytes: the most bytes that an .npz, a compressed archive or a tree's text files may take
        in memory. The first two may take four times the bytes of their file, if that is more.
      data_dir: where TFDS keeps prepared data sets; None for `$TFDS_DATA_DIR`, or else
        `~/tensorflow_datasets`.

    Returns:
      The data set.

    Raises:
      ValueError: an argument is out of range, or what is at `name_or_path` is damaged or of
        another layout; the message names the argument or file. An image file that is damaged
        behind its header is found when it is indexed.
      ImportError: the source needs a package that is not installed.
    """
    one_of("split", split, SPLITS)
    count(max_bytes=max_bytes)
    if channels is not None:
        channels = checks.whole("channels", channels, "1 (grey) or 3 (RGB)")
    resizing, decoding = Resizing(size, crop_fraction, interpolation), Decoding(upright, max_pixels)
    stored: dict[str, Any] = {"resizing": resizing, "decoding": decoding, "channels": channels}
    limited = stored | {"max_bytes": max_bytes, "classes": classes}
    name = checks.path("name_or_path", name_or_path)
    path = Path(name)
    prepared = tfds.data_directory(data_dir)
    if name == "digits":
        _takes_none("digits", classes=classes)
        dataset = _in_channels(load_digits(split, resizing=resizing), channels)
    elif path.is_file() and path.suffix == ".npz":
        _takes_none("a .npz file", classes=classes)
        arrays = load_npz(path, split, resizing=resizing, max_bytes=max_bytes)
        dataset = _in_channels(arrays, channels)
    elif path.is_file() and is_archive(path):
        dataset = load_archive(path, split, **limited)
    elif path.is_dir() and not tfds.is_prepared(path):
        dataset = load_folder(path, split, **limited)
    elif path.is_dir() or (path := tfds.find_prepared(name, prepared)):
        _takes_none("a TFDS data set", classes=classes)
        dataset = tfds.load_prepared(path, split, **stored)
    else:
        there = "is of another kind" if os.path.exists(name_or_path) else "is not there"
        raise invalid(
            "name_or_path",
            f"{name!r}, which {there} and not prepared in {prepared}",
            "'digits', an image folder, a .tar(.gz, .xz), an .npz, or the name of a TFDS data set "
            f"prepared with: {tfds.how_to_prepare(name, prepared)}",
        )
    return dataset.subset(half(len(dataset), split)) if split in HALVES else dataset


def _in_channels(dataset: Dataset, channels: int | None) -> Dataset:
    """A data set of arrays, grey ones repeated to RGB if asked for."""
    images = np.asarray(dataset.images)
    stored = images.shape[3]
    if channels not in (None, stored, 3):
        takes = "3" if stored == 3 else "1 or 3"
        raise invalid("channels", channels, f"{takes} for {dataset.name}")
    # A view: repeated without being copied.
    repeated = np.broadcast_to(images, (*images.shape[:3], channels or stored))
    return dataclasses.replace(dataset, images=repeated)


def _takes_none(source: str, **options: object) -> None:
    for argument, got in options.items():
        if got is not None:
            raise invalid(argument, repr(got), f"None for {source}")

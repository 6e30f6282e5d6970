"""Image folders: `<root>/<split>/<class>/<image>` or `<root>/<class>/<image>`.

Some published trees differ a little: Tiny ImageNet has `train/<class>/images/<image>` and
`val/images/<image>`, CUB-200-2011 its splits in a text file. See `annotations`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int32

from jc2i import files
from jc2i.checks import describe, invalid, is_several, require
from jc2i.data.annotations import Annotations, is_annotation, most_text, read_annotations
from jc2i.data.boxes import NO_BOXES, DrawnBoxes, placed
from jc2i.data.dataset import Dataset
from jc2i.data.encoded import encoded_images
from jc2i.data.image_files import UPRIGHT, Decoding
from jc2i.data.pixels import Resizing
from jc2i.data.splits import split_of, stored_splits

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_LAYOUT = "images at <split>/<class>/<image> or <class>/<image>"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which images of a tree belong to a split, and their labels.

    Attributes:
      paths: the chosen images' paths, sorted within each split, so that the order does not depend
        on the file system or the archive.
      labels: the index of each image's class.
      classes: the classes of the whole tree, not only of the split: labels mean the same in all.
      boxes: the boxes drawn on each image.
    """

    paths: list[PurePosixPath]
    labels: Int32[np.ndarray, " n"]
    classes: tuple[str, ...]
    boxes: list[DrawnBoxes]


def is_image_name(path: PurePath) -> bool:
    """Whether a path is named like an image; hidden files are not.

    Args:
      path: any path.

    Returns:
      Whether its suffix is one of an image format.
    """
    require(isinstance(path, PurePath), "path", describe(path), "a pathlib path")
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def is_image(path: PurePosixPath) -> bool:
    """Whether a path is named like an image in a class folder."""
    return is_image_name(path) and len(path.parts) > 1


def stored_split(path: PurePosixPath) -> str | None:
    """The split that an image at `.../<split>/<class>/<image>` is in, or None."""
    return split_of(_class_folder(path).parent.name)


def _class_folder(path: PurePosixPath) -> PurePosixPath:
    """An image's folder, or the one above `images` in `<split>/<class>/images/<image>`."""
    nested = path.parent.name == "images" and len(path.parts) > 3 and split_of(path.parts[-4])
    return path.parent.parent if nested else path.parent


def layout(
    paths: Iterable[PurePosixPath],
    annotations: Annotations,
    split: str,
    where: str,
    classes: Sequence[str] | None = None,
) -> Layout:
    """Choose a split's images from the paths of a tree.

    Args:
      paths: the paths of the tree's images.
      annotations: what the tree's text files say of them.
      split: one of `SPLITS`.
      where: the tree, for messages.
      classes: names of the class folders in the order of the labels; sorted names if None.

    Returns:
      The chosen images, their labels and the class names.

    Raises:
      ValueError: there are no images; the split is not there; fewer than two class folders, or
        one that is not in `classes`.
    """
    by_split: dict[str | None, list[PurePosixPath]] = {}
    class_of: dict[PurePosixPath, str] = {}
    for path in paths:
        folder = _class_folder(path)
        # Tiny ImageNet's test images have neither a class folder nor a line that names one.
        unlabelled = (
            annotations.classes and folder.name == "images" and split_of(folder.parent.name)
        )
        if path in annotations.classes or not unlabelled:
            class_of[path] = annotations.classes.get(path, folder.name)
            part = annotations.splits.get(path) or stored_split(path)
            by_split.setdefault(part, []).append(path)
    if not by_split:
        raise invalid("name_or_path", f"{where}, which holds no image", _LAYOUT)
    if None in by_split and len(by_split) > 1:
        raise invalid("name_or_path", f"{where}, where {by_split[None][0]} is in no split", _LAYOUT)
    found = sorted(set(class_of.values()))
    if classes is None and len(found) < 2:
        raise invalid(
            "name_or_path",
            f"{where} with the one class folder {found[0]!r}",
            f"two or more: {_LAYOUT}",
        )
    classes = tuple(found) if classes is None else _different_names(classes)
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise invalid("classes", f"no {unknown[0]!r}", f"every class folder of {where}")
    label = {name: index for index, name in enumerate(classes)}
    stored = stored_splits(split, by_split, where)
    chosen = [path for name in stored for path in sorted(by_split[name])]
    labels = np.array([label[class_of[path]] for path in chosen], np.int32)
    boxes = [annotations.boxes.get(path, NO_BOXES) for path in chosen]
    return Layout(chosen, labels, classes, boxes)


def _different_names(classes: Any) -> tuple[str, ...]:
    takes = "a list of different names"
    fits = is_several(classes) and all(isinstance(name, str) for name in classes)
    require(fits and len(set(classes)) == len(classes), "classes", describe(classes), takes)
    return tuple(map(str, classes))


def load_folder(
    root: Path,
    split: str,
    *,
    resizing: Resizing,
    decoding: Decoding = UPRIGHT,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    max_bytes: int = files.MOST,
) -> Dataset:
    """A folder of images, listed now and decoded when indexed.

    Args:
      root: the folder.
      split: one of `SPLITS`; a folder without split folders has only `"all"` and its halves.
      resizing: how each image gets its size.
      decoding: whether images are turned upright, and how large a file's may be.
      channels: 1 for grey, 3 (or None) for RGB.
      classes: names of the class folders in the order of the labels; sorted names if None.
      max_bytes: the most bytes that its text files may take, once they are read (see `load`).

    Returns:
      The data set.

    Raises:
      ValueError: see `layout`, `read_annotations` and `encoded_images`.
    """
    listed = [
        PurePosixPath(path.relative_to(root).as_posix())
        for pattern in ("*", "*/*", "*/*/*", "*/*/images/*")
        for path in root.glob(pattern)
    ]
    texts, length = {}, 0
    for path in filter(is_annotation, listed):
        file = str(root / path)
        texts[path] = files.read(file, file, most_text(max_bytes) - length, "max_bytes")
        length += len(texts[path])
    annotations = read_annotations(texts, f"{root}/")
    within_depth = (path for path in listed if len(_class_folder(path).parts) <= 2)
    chosen = layout(filter(is_image, within_depth), annotations, split, str(root), classes)
    paths = [root / path for path in chosen.paths]
    images = encoded_images(
        [str(path) for path in paths],
        paths,
        decoding.read,
        resizing=resizing,
        channels=channels,
        decoding=decoding,
    )
    boxes = placed(chosen.boxes, images)
    return Dataset(images, chosen.labels, chosen.classes, root.resolve().name, boxes)

"""Image folders: `<root>/<split>/<class>/<image>` or `<root>/<class>/<image>`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int32

from jc2i.checks import invalid
from jc2i.data.dataset import Dataset
from jc2i.data.encoded import encoded_images
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
    """

    paths: list[PurePosixPath]
    labels: Int32[np.ndarray, " n"]
    classes: tuple[str, ...]


def is_image(path: PurePosixPath) -> bool:
    """Whether a path is named like an image in a class folder; hidden files are not."""
    return (
        path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and len(path.parts) > 1
    )


def stored_split(path: PurePosixPath) -> str | None:
    """The split that an image at `.../<split>/<class>/<image>` is in, or None."""
    return split_of(path.parts[-3]) if len(path.parts) > 2 else None


def layout(
    paths: Iterable[PurePosixPath], split: str, where: str, classes: Sequence[str] | None = None
) -> Layout:
    """Choose a split's images from the paths of a tree.

    Args:
      paths: the paths of the tree's images.
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
    for path in paths:
        by_split.setdefault(stored_split(path), []).append(path)
    if not by_split:
        raise invalid("name_or_path", f"{where}, which holds no image", _LAYOUT)
    if None in by_split and len(by_split) > 1:
        raise invalid("name_or_path", f"{where}, where {by_split[None][0]} is in no split", _LAYOUT)
    found = sorted({path.parent.name for group in by_split.values() for path in group})
    if classes is None and len(found) < 2:
        raise invalid(
            "name_or_path",
            f"{where} with the one class folder {found[0]!r}",
            f"two or more: {_LAYOUT}",
        )
    classes = tuple(found if classes is None else classes)
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise invalid("classes", f"no {unknown[0]!r}", f"every class folder of {where}")
    label = {name: index for index, name in enumerate(classes)}
    stored = stored_splits(split, by_split, where)
    chosen = [path for name in stored for path in sorted(by_split[name])]
    labels = np.array([label[path.parent.name] for path in chosen], np.int32)
    return Layout(chosen, labels, classes)


def load_folder(
    root: Path,
    split: str,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """A folder of images, listed now and decoded when indexed.

    Args:
      root: the folder.
      split: one of `SPLITS`; a folder without split folders has only `"all"` and its halves.
      size: height and width in pixels to resize to, or None if all images have one size.
      channels: 1 for grey, 3 (or None) for RGB.
      classes: names of the class folders in the order of the labels; sorted names if None.

    Returns:
      The data set.

    Raises:
      ValueError: see `layout` and `encoded_images`.
    """
    listed = (
        PurePosixPath(path.relative_to(root).as_posix())
        for pattern in ("*/*", "*/*/*")
        for path in root.glob(pattern)
    )
    chosen = layout(filter(is_image, listed), split, str(root), classes)
    files = [root / path for path in chosen.paths]
    images = encoded_images(
        [str(file) for file in files], files, Path.read_bytes, size=size, channels=channels
    )
    return Dataset(images, chosen.labels, chosen.classes, root.resolve().name)

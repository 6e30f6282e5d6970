"""What the text files in published trees of images say: splits, classes, bounding boxes."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from jc2i import files
from jc2i.data.boxes import DrawnBoxes

_CUB = ("images.txt", "train_test_split.txt", "bounding_boxes.txt")
# Tiny ImageNet's images are all of one size.
_TINY = (64.0, 64.0)


_PARSED = 16
"""How many times its size a text takes in memory once it is read, about."""


@dataclasses.dataclass
class Annotations:
    """What is known of images beside the folders they are in.

    Attributes:
      classes: the class of each image that is in no class folder.
      splits: the split of each image that is in no split folder.
      boxes: the bounding boxes of images that have some.
    """

    classes: dict[PurePosixPath, str] = dataclasses.field(default_factory=dict)
    splits: dict[PurePosixPath, str] = dataclasses.field(default_factory=dict)
    boxes: dict[PurePosixPath, DrawnBoxes] = dataclasses.field(default_factory=dict)


def is_annotation(path: PurePosixPath) -> bool:
    """Whether a path is named like a file that `read_annotations` reads."""
    return path.name in (*_CUB, *_READERS) or path.name == f"{path.parent.name}_boxes.txt"


def most_text(max_bytes: int) -> int:
    """The most bytes of a tree's texts, for the memory that they may take once they are read."""
    return max_bytes // _PARSED


def read_annotations(texts: Mapping[PurePosixPath, bytes], where: str) -> Annotations:
    """Reads the annotations of a tree.

    - `boxes.csv`: one box a line under the header `path,width,height,x0,y0,x1,y1` (others are
      ignored), in pixels of an image of that width and height; paths are relative to its folder
    - Tiny ImageNet's `val_annotations.txt` (image, class, box) and `<class>/<class>_boxes.txt`
      (image, box), beside their folder `images`
    - CUB-200-2011's `images.txt`, `train_test_split.txt` and `bounding_boxes.txt`, where all are

    Args:
      texts: the contents of the files of a tree for which `is_annotation` holds.
      where: the tree, for messages, with what stands between it and the path of a file.

    Returns:
      What they say.

    Raises:
      ValueError: a file is not as published, or a box has no size or is not finite.
    """
    found = Annotations()
    for path, contents in texts.items():
        with files.refusing(
            f"{where}{path}", "", "a line that cannot be read", "the file as published"
        ):
            text = contents.decode()
            if path.name == _CUB[0]:
                others = [path.with_name(name) for name in _CUB[1:]]
                if all(other in texts for other in others):
                    splits, boxes = (_table(texts[other].decode()) for other in others)
                    _read_cub(path.parent / "images", _table(text), splits, boxes, found)
            elif path.name not in _CUB:
                _READERS.get(path.name, _read_tiny_training)(path.parent, text, found)
    return found


def _read_csv(folder: PurePosixPath, text: str, found: Annotations) -> None:
    edges: dict[str, list[list[float]]] = {}
    sizes: dict[str, tuple[float, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        name = row["path"]
        edges.setdefault(name, []).append([float(row[side]) for side in ("y0", "x0", "y1", "x1")])
        sizes[name] = (float(row["height"]), float(row["width"]))
    for name, drawn in edges.items():
        found.boxes[folder / name] = DrawnBoxes(drawn, sizes[name])


def _read_tiny_validation(folder: PurePosixPath, text: str, found: Annotations) -> None:
    for name, label, *box in _table(text):
        image = folder / "images" / name
        found.classes[image], found.boxes[image] = label, _tiny_box(*map(float, box))


def _read_tiny_training(folder: PurePosixPath, text: str, found: Annotations) -> None:
    for name, *box in _table(text):
        found.boxes[folder / "images" / name] = _tiny_box(*map(float, box))


def _tiny_box(left: float, top: float, right: float, bottom: float) -> DrawnBoxes:
    # The last pixels are counted in: published boxes end at 63, and some at where they begin.
    return DrawnBoxes([(top, left, bottom + 1, right + 1)], _TINY)


def _read_cub(
    folder: PurePosixPath,
    images: list[list[str]],
    training: list[list[str]],
    boxes: list[list[str]],
    found: Annotations,
) -> None:
    is_training, box = dict(training), {key: map(float, edges) for key, *edges in boxes}
    for key, name in images:
        left, top, width, height = box[key]
        found.splits[folder / name] = "train" if int(is_training[key]) else "test"
        found.boxes[folder / name] = DrawnBoxes([(top, left, top + height, left + width)])


def _table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


_READERS: dict[str, Callable[[PurePosixPath, str, Annotations], None]] = {
    "boxes.csv": _read_csv,
    "val_annotations.txt": _read_tiny_validation,
}

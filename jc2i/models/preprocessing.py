"""What images become before a model sees them: as its published weights were evaluated."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from jc2i import checks
from jc2i.data.pixels import as_float
from jc2i.models.class_names import class_folders
from jc2i.models.pretrained import published


def published_resizing(name: str, size: int | None = None) -> dict[str, Any]:
    """How the images got their size that published weights were evaluated on.

    Args:
      name: one of `pretrained_names()`.
      size: another height and width in pixels, of which as large a share is cut out; None for the
        published one.

    Returns:
      The arguments `size`, `crop_fraction` and `interpolation` of `jc2i.data.load` and
      `jc2i.data.resize`.

    Raises:
      ValueError: for another name, or a size that is none.
    """
    entry = published(name)
    side = entry.size if size is None else checks.whole("size", size, most=2**14)
    return {
        "size": (side, side),
        "crop_fraction": entry.size / entry.resize,
        "interpolation": entry.interpolation,
    }


def published_classes(name: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """How the folders of a labelled data set become the classes of published weights.

    Args:
      name: one of `pretrained_names()`.
      path: the data set, as `jc2i.data.load` takes it.

    Returns:
      The argument `classes` of `jc2i.data.load` for a folder or archive, which may have a few of
      the classes only; nothing for others.
    """
    path = Path(checks.path("path", path))
    has_folders = path.is_dir() or ".tar" in path.suffixes
    return {"classes": class_folders(name)} if has_folders else {}


@dataclasses.dataclass(frozen=True)
class Floats:
    """The images of a data set as float32 in [0, 1], decoded when they are indexed.

    Attributes:
      dataset: images and labels, of which the labels are passed over.
    """

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> tuple[Float32[np.ndarray, "batch h w c"]]:
        return (as_float(self.dataset[index][0]),)

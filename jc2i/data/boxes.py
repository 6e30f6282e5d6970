"""Bounding boxes as published, and as a data set gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from jc2i.data.encoded import EncodedImages
from jc2i.data.image_files import Header


@dataclasses.dataclass(frozen=True)
class DrawnBoxes:
    """Boxes of one image, as they are written down.

    Attributes:
      edges: rows of (top, left, bottom, right) in the image as it is stored, whichever way up.
      size: the height and width of the stored image in the units of `edges`; None for its pixels.
    """

    edges: Sequence[Sequence[float]]
    size: tuple[float, float] | None = None


NO_BOXES = DrawnBoxes(())


def placed(
    drawn: Sequence[DrawnBoxes], images: EncodedImages
) -> tuple[Float32[np.ndarray, "_ 4"], ...] | None:
    """The boxes as fractions of the images as they are given out: upright, resized, cropped.

    Args:
      drawn: the boxes of each image.
      images: the images. A header is read where the boxes depend on it.

    Returns:
      One array of boxes an image, or None if no image has any.

    Raises:
      ValueError: a file is not an image.
    """
    if not any(len(each.edges) for each in drawn):
        return None
    fractions = []
    for index, each in enumerate(drawn):
        edges, size = np.asarray(each.edges, np.float32).reshape(-1, 4), each.size
        # Squashing keeps fractions of the image true, whatever its stored size.
        squashed = size is not None and images.resizing.crop_fraction is None
        known = Header() if squashed and not images.decoding.upright else None
        found = known or (images.header(index) if len(edges) else Header())
        edges = edges / np.tile(np.array(size or found.stored, np.float32), 2)
        fractions.append(images.resizing.boxes(found.turn.boxes(edges), found.size))
    return tuple(fractions)

"""Bounding boxes as published, and as a data set gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from jc2i.data.encoded import EncodedImages


@dataclasses.dataclass(frozen=True)
class DrawnBoxes:
    """Boxes of one image, as they are written down.

    Attributes:
      edges: rows of (top, left, bottom, right).
      size: the height and width of the image in the units of `edges`; None for pixels of the
        stored image.
    """

    edges: Sequence[Sequence[float]]
    size: tuple[float, float] | None = None


NO_BOXES = DrawnBoxes(())


def placed(
    drawn: Sequence[DrawnBoxes], images: EncodedImages
) -> tuple[Float32[np.ndarray, "_ 4"], ...] | None:
    """The boxes as fractions of the images as they are given out: resized, perhaps cropped.

    Args:
      drawn: the boxes of each image.
      images: the images. A header is read where the boxes depend on the stored image's size.

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
        stored = (1, 1)
        if len(edges) and (size is None or images.resizing.crop_fraction is not None):
            stored = images.stored_size(index)
        edges = edges / np.tile(np.array(size or stored, np.float32), 2)
        fractions.append(images.resizing.boxes(edges, stored))
    return tuple(fractions)

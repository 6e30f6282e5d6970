"""Bounding boxes as published, and as a data set gives them."""

from __future__ import annotations

import dataclasses
import math
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

    Raises:
      ValueError: a number is NaN or infinite, a size is not above 0, or a box ends before it
        begins.
    """

    edges: Sequence[Sequence[float]]
    size: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for top, left, bottom, right in self.edges:
            # Written so that a NaN is refused too.
            if not -math.inf < top <= bottom < math.inf or not -math.inf < left <= right < math.inf:
                raise ValueError(f"a box ({top}, {left}, {bottom}, {right})")
        if self.size is not None and not all(0 < side < math.inf for side in self.size):
            raise ValueError(f"an image of {self.size[0]} by {self.size[1]}")


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

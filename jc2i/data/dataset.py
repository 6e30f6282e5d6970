"""What every source of data gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, UInt8

from jc2i.checks import array, describe, invalid, require, require_concrete
from jc2i.data.encoded import EncodedImages, Index


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels; `dataset[index]` gives `(images, labels)`.

    An index is an integer (one image, one label), a slice or an array of integers.

    Attributes:
      images: uint8 in 0..255 or float in [0, 1], as stored; perhaps still encoded.
      labels: the class of each image, 0 to `len(classes) - 1`.
      classes: the names of the classes, in the order of the labels.
      name: what to call the data set in a report.
      boxes: for each image, the boxes around the object that its label names, perhaps none: rows
        of (top, left, bottom, right) as fractions of the image, 0 to 1 from its top left corner.
        None for a data set without boxes.
    """

    images: UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"] | EncodedImages
    labels: Int32[np.ndarray, " n"]
    classes: tuple[str, ...]
    name: str
    boxes: tuple[Float32[np.ndarray, "_ 4"], ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.images, EncodedImages):
            takes = "an array[n, height, width, channel] of bytes or floats"
            given = array("images", self.images, takes, of=("float", "integer"), shape=(None,) * 4)
            require(min(given.shape[1:]) > 0, "images", describe(given), takes)
        array("labels", self.labels, "integers[n]", of=("integer",), shape=(None,))
        require_concrete("labels", self.labels, "integers[n]")
        several = isinstance(self.classes, list | tuple)
        require(several, "classes", describe(self.classes), "a tuple of the classes' names")
        require(isinstance(self.name, str), "name", describe(self.name), "a text")
        boxes = self.boxes is None or isinstance(self.boxes, list | tuple)
        takes = "an array of rows (top, left, bottom, right) for each image, or None"
        require(boxes, "boxes", describe(self.boxes), takes)
        for one in self.boxes or ():
            array("boxes", one, takes, shape=(None, 4))
        if len(self.images) != len(self.labels):
            raise invalid(
                "labels", f"{len(self.labels)} labels", f"one for each of {len(self.images)} images"
            )
        if not len(self.labels):
            raise invalid("images", f"an empty data set ({self.name})", "at least one image")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise invalid(
                "labels", f"labels from {low} to {high}", f"0 to {len(self.classes) - 1} (classes)"
            )
        if self.boxes is not None:
            if len(self.boxes) != len(self.images):
                got, images = len(self.boxes), len(self.images)
                raise invalid("boxes", f"those of {got} images", f"those of {images} images")
            every = np.concatenate(self.boxes)
            # Written so that a NaN is refused too.
            if not ((every >= 0) & (every <= 1)).all() or not (every[:, :2] <= every[:, 2:]).all():
                raise invalid(
                    "boxes", "one outside its image", "(top, left, bottom, right) in [0, 1]"
                )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(
        self, index: Index
    ) -> tuple[
        UInt8[np.ndarray, "*batch h w c"] | Float[np.ndarray, "*batch h w c"],
        Int32[np.ndarray, "*batch"],
    ]:
        if not isinstance(index, slice):
            index = np.arange(len(self))[index]
        return self.images[index], np.asarray(self.labels[index])

    def subset(self, indices: Int[np.ndarray, " m"] | Sequence[int]) -> Dataset:
        """The data set of the images at `indices`, in that order; nothing is decoded.

        Args:
          indices: positions in this data set.

        Returns:
          The smaller data set.

        Raises:
          IndexError: a position is outside the data set.
        """
        positions = np.arange(len(self))[np.asarray(indices)]
        stored = self.images
        images = stored.take(positions) if isinstance(stored, EncodedImages) else stored[positions]
        return dataclasses.replace(
            self,
            images=images,
            labels=self.labels[positions],
            boxes=None if self.boxes is None else tuple(self.boxes[i] for i in positions),
        )

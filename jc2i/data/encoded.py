"""Images that stay encoded until they are indexed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jc2i.checks import Array, invalid
from jc2i.data.image_files import UPRIGHT, Decoding, Header, decode, header
from jc2i.data.pixels import Resizing

Index = int | np.integer | slice | Sequence[int] | Array
"""One image, or several."""


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImages:
    """Image files, indexed like the uint8 array [n, h, w, c] they decode to.

    Memory is that of the images indexed at a time, not of the data set.

    Attributes:
      names: what to call each image in a message.
      sources: where each image is, as `read` takes it.
      read: gives the file at a source.
      resizing: how each image gets its size, which is one for all.
      channels: 1 for grey, 3 for RGB.
      decoding: whether images are turned upright, and how large a file's may be.
    """

    names: Sequence[str]
    sources: Sequence[Any]
    read: Callable[[Any], bytes]
    resizing: Resizing
    channels: int
    decoding: Decoding = UPRIGHT

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Images, height, width, channels."""
        assert self.resizing.size is not None  # `encoded_images` found or was given one
        return (len(self), *self.resizing.size, self.channels)

    @property
    def dtype(self) -> np.dtype:
        """The decoded pixels' type."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Index) -> UInt8[np.ndarray, "*batch height width channels"]:
        positions = np.arange(len(self))[index]
        decoded = np.empty((*positions.shape, *self.shape[1:]), np.uint8)
        flat = decoded.reshape(-1, *self.shape[1:])
        for image, position in enumerate(np.ravel(positions).tolist()):
            contents = self.read(self.sources[position])
            flat[image] = decode(
                contents, self.names[position], self.channels, self.resizing, self.decoding
            )
        return decoded

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("copy: got False, takes True or None (the images are encoded)")
        return self[:].astype(dtype or self.dtype, copy=False)

    def header(self, index: int) -> Header:
        """What one image's file says before it is decoded: its size, and how it is turned."""
        return header(self.read(self.sources[index]), self.names[index], self.decoding)

    def take(self, indices: Int[np.ndarray, " m"]) -> EncodedImages:
        """The images at `indices`, still encoded."""
        return dataclasses.replace(
            self,
            names=[self.names[i] for i in indices],
            sources=[self.sources[i] for i in indices],
        )


def encoded_images(
    names: Sequence[str],
    sources: Sequence[Any],
    read: Callable[[Any], bytes],
    *,
    resizing: Resizing,
    channels: int | None,
    decoding: Decoding = UPRIGHT,
) -> EncodedImages:
    """`EncodedImages` whose size, where none is asked for, is the one all images have.

    Args:
      names: what to call each image in a message; not empty.
      sources: where each image is, as `read` takes it.
      read: gives the file at a source.
      resizing: how each image gets its size; without a size, every header is read for the one
        that all have.
      channels: 1 for grey, 3 (or None) for RGB.
      decoding: whether images are turned upright, and how large a file's may be.

    Returns:
      The images.

    Raises:
      ValueError: the images differ in size and no size is asked for; a file is not an image;
        `channels` is out of range.
    """
    if channels not in (None, 1, 3):
        raise invalid("channels", repr(channels), "1 (grey) or 3 (RGB)")
    if resizing.size is None:
        size = header(read(sources[0]), names[0], decoding).size
        for name, source in zip(names[1:], sources[1:], strict=True):
            other = header(read(source), name, decoding).size
            if other != size:
                raise invalid(
                    "size",
                    f"None, and images of different sizes ({names[0]} is {size[0]}x{size[1]}, "
                    f"{name} is {other[0]}x{other[1]})",
                    "(height, width) in pixels to resize all images to",
                )
        resizing = dataclasses.replace(resizing, size=size)
    return EncodedImages(names, sources, read, resizing, channels or 3, decoding)

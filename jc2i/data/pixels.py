"""Pixels: decoding one image file, resizing and cropping, float conversion."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image, ImageOps

from jc2i.checks import invalid, one_of, require

# What Pillow raises on damaged files: SyntaxError for a broken PNG, ValueError for odd headers.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
# Modes of 8 bits a channel. Others (16 bit, float) would be clipped by a conversion, unnoticed.
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa"}


_INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


@dataclasses.dataclass(frozen=True)
class Resizing:
    """How an image gets its size: called with it, gives the resized one; boxes follow by `boxes`.

    The filters are Pillow's: pixel centres are at half-integers, and they widen when the image
    shrinks (antialias). Bicubic is Keys' kernel with a = -1/2.

    Attributes:
      size: height and width in pixels, or None for the image's own.
      crop_fraction: None resizes both sides to `size`, whatever the image's aspect. A number in
        (0, 1] keeps the aspect, as torchvision and timm do for evaluation: the image is resized
        until `size` is this fraction of it (for 224 and 0.875, until its shorter side is 256), and
        the centre is cut out.
      interpolation: `"bicubic"` or `"bilinear"`.
    """

    size: tuple[int, int] | None = None
    crop_fraction: float | None = None
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        one_of("interpolation", self.interpolation, tuple(_INTERPOLATIONS))
        if self.size is not None:
            object.__setattr__(self, "size", check_size(self.size))
        if self.crop_fraction is not None:
            within = 0 < self.crop_fraction <= 1
            require(within, "crop_fraction", self.crop_fraction, "None, or a number in (0, 1]")
            require(self.size is not None, "size", None, "(height, width), with a crop_fraction")

    def __call__(self, image: Image.Image) -> Image.Image:
        if self.size is None:
            return image
        (height, width), (top, left) = self._placement(self.size, (image.height, image.width))
        if (image.height, image.width) != (height, width):
            image = image.resize((width, height), _INTERPOLATIONS[self.interpolation])
        if (height, width) == self.size:
            return image
        return image.crop((left, top, left + self.size[1], top + self.size[0]))

    def arrays(
        self, images: UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"]
    ) -> UInt8[np.ndarray, "n height width c"] | Float[np.ndarray, "n height width c"]:
        """Arrays of images, each resized; floats are clipped to [0, 1], as bicubic overshoots."""
        stored = images.shape[1:3]
        if self.size is None or self._placement(self.size, stored) == (stored, (0, 0)):
            return images
        dtype = np.uint8 if images.dtype == np.uint8 else np.float32
        resized = np.empty((len(images), *self.size, images.shape[3]), dtype)
        for index in np.ndindex(len(images), images.shape[3]):
            image, channel = index
            plane = Image.fromarray(images[image, :, :, channel].astype(dtype))
            resized[image, :, :, channel] = np.asarray(self(plane))
        return resized if dtype == np.uint8 else np.clip(resized, 0, 1)

    def boxes(
        self, boxes: Float32[np.ndarray, "boxes 4"], stored: tuple[int, int]
    ) -> Float32[np.ndarray, "boxes_left 4"]:
        """Where boxes drawn on the stored image lie in the resized one.

        Args:
          boxes: (top, left, bottom, right) as fractions of the stored image.
          stored: the stored image's height and width in pixels.

        Returns:
          The boxes as fractions of the resized image, cut at its border; those of which nothing is
          left are gone.
        """
        if self.size is not None:
            (height, width), (top, left) = self._placement(self.size, stored)
            pixels = boxes * (height, width, height, width) - (top, left, top, left)
            boxes = pixels / (*self.size, *self.size)
        boxes = np.clip(boxes, 0, 1).astype(np.float32)
        return boxes[(boxes[:, :2] < boxes[:, 2:]).all(1)]

    def _placement(
        self, size: tuple[int, int], stored: tuple[int, ...]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """The size an image is resized to, and where in it the part that is kept begins."""
        if self.crop_fraction is None:
            return size, (0, 0)
        tall, wide = (int(side / self.crop_fraction) for side in size)
        # One side exactly, the other rounded down: torchvision's rule, and its rounding below.
        if tall * stored[1] >= wide * stored[0]:
            wide = tall * stored[1] // stored[0]
        else:
            tall = wide * stored[0] // stored[1]
        return (tall, wide), (round((tall - size[0]) / 2), round((wide - size[1]) / 2))


_AS_STORED = Resizing()


def as_float(
    images: UInt8[np.ndarray, "*shape"] | Float[np.ndarray, "*shape"],
) -> Float32[np.ndarray, "*shape"]:
    """Images as float32 in [0, 1], the range that models take.

    Args:
      images: uint8 in 0..255, which is divided by 255, or float, which is only cast.

    Returns:
      The images as float32.

    Raises:
      ValueError: `images` is neither uint8 nor float.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if not np.issubdtype(images.dtype, np.floating):
        raise invalid("images", f"dtype {images.dtype}", "uint8 in 0..255 or float in [0, 1]")
    return images.astype(np.float32)


def resize(
    images: UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"],
    size: tuple[int, int],
    *,
    crop_fraction: float | None = None,
    interpolation: str = "bicubic",
) -> UInt8[np.ndarray, "n height width c"] | Float32[np.ndarray, "n height width c"]:
    """Images at another size, by Pillow's filters.

    Args:
      images: uint8 in 0..255 or float in [0, 1].
      size: height and width in pixels.
      crop_fraction: None squashes the image to `size`; a number in (0, 1] keeps its aspect and its
        centre (see `load`).
      interpolation: `"bicubic"` or `"bilinear"`.

    Returns:
      The images at the new size, uint8 or float32.

    Raises:
      ValueError: an option is out of range.
    """
    resized = Resizing(check_size(size), crop_fraction, interpolation).arrays(images)
    return resized if resized.dtype == np.uint8 else resized.astype(np.float32)


def check_size(size: Any) -> tuple[int, int]:
    """`size` as two Python integers.

    Args:
      size: height and width in pixels.

    Returns:
      Height and width.

    Raises:
      ValueError: `size` is not two positive integers.
    """
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1 or (height, width) != tuple(size):
        raise invalid("size", repr(size), "(height, width) in pixels, both positive integers")
    return height, width


def read_image(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    crop_fraction: float | None = None,
    interpolation: str = "bicubic",
    channels: int = 3,
) -> UInt8[np.ndarray, "height width channels"]:
    """A photograph's pixels, upright: turned as its camera noted (EXIF), which data sets are not.

    Args:
      path: the image file.
      size: height and width in pixels to resize to, or None for the image's own.
      crop_fraction: None squashes it to `size`; a number in (0, 1] keeps its aspect (see `load`).
      interpolation: Pillow's filter, `"bicubic"` or `"bilinear"`.
      channels: 1 for grey, 3 for RGB; what is transparent becomes white.

    Returns:
      The pixels, 0..255.

    Raises:
      ValueError: the file is not an image, is truncated, or has more than 8 bits a channel.
      OSError: it cannot be read.
    """
    resizing = Resizing(size, crop_fraction, interpolation)
    return decode(Path(path).read_bytes(), str(path), channels, resizing, upright=True)


def decode(
    contents: bytes,
    name: str,
    channels: int,
    resizing: Resizing = _AS_STORED,
    *,
    upright: bool = False,
) -> UInt8[np.ndarray, "height width channels"]:
    """One image file's pixels.

    Args:
      contents: the file, in any format that Pillow reads with 8 bits a channel.
      name: what to call the file in a message.
      channels: 1 for grey, 3 for RGB.
      resizing: how the image gets its size; as stored by default.
      upright: whether the image is turned as its camera noted.

    Returns:
      The pixels, 0..255.

    Raises:
      ValueError: the file is not an image, is truncated, or has more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(contents)) as image:
            if image.mode not in _EIGHT_BIT_MODES:
                raise invalid(name, f"pixels of mode {image.mode!r}", "8 bits a channel")
            if upright:
                ImageOps.exif_transpose(image, in_place=True)
            if image.has_transparency_data:
                # What is transparent has any colour: black, often, in a drawing on nothing.
                layer = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
            pixels = image.convert("L" if channels == 1 else "RGB")
    except Image.UnidentifiedImageError:
        raise invalid(name, "a file that is not an image", "an image file") from None
    except _DAMAGED as error:
        raise invalid(name, f"a damaged image ({error})", "a whole image file") from error
    pixels = resizing(pixels)
    return np.asarray(pixels).reshape(pixels.height, pixels.width, channels)


def stored_size(contents: bytes, name: str) -> tuple[int, int]:
    """An image file's height and width, read from its header alone.

    Args:
      contents: the file.
      name: what to call the file in a message.

    Returns:
      Height and width in pixels.

    Raises:
      ValueError: the file is not an image.
    """
    try:
        with Image.open(io.BytesIO(contents)) as image:
            return image.height, image.width
    except Image.UnidentifiedImageError:
        raise invalid(name, "a file that is not an image", "an image file") from None
    except _DAMAGED as error:
        raise invalid(name, f"a damaged image ({error})", "a whole image file") from error

"""Pixels: their range, resizing and cropping, float conversion."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from jc2i.checks import (
    NUMERIC,
    Refusal,
    array,
    describe,
    invalid,
    is_several,
    number,
    one_of,
    require,
    require_concrete,
    whole,
)

RANGE_TOLERANCE = 1e-3
"""How far floats may leave [0, 1] to be clipped to it: a quarter of a byte's step, for rounding."""

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
            takes = "None, or a number in (0, 1]"
            share = number(
                "crop_fraction",
                self.crop_fraction,
                takes,
                lambda share: 0 < share <= 1,
                traced=False,
            )
            require(self.size is not None, "size", None, "(height, width), with a crop_fraction")
            least = max(self.size or (1,)) / LONGEST_SIDE
            takes = f"at least {least:g} for size {self.size}: {LONGEST_SIDE} pixels a side"
            require(share >= least, "crop_fraction", share, takes)

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
        self.require_fits("images", stored)
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

    def resized(self, stored: tuple[int, int]) -> tuple[int, int]:
        """The height and width that an image is resized to before its centre is cut out."""
        return stored if self.size is None else self._placement(self.size, stored)[0]

    def require_fits(self, argument: str, stored: tuple[int, int]) -> None:
        """Refuses an image that is thousands of times as long as it is wide, or the reverse.

        Args:
          argument: what to call it in a message.
          stored: its height and width in pixels.
        """
        tall, wide = self.resized(stored)
        got = f"{stored[0]}x{stored[1]} pixels, {tall}x{wide} before the centre is cut out"
        takes = f"at most {LONGEST_SIDE} a side (or no crop_fraction)"
        require(max(tall, wide) <= LONGEST_SIDE or self.crop_fraction is None, argument, got, takes)

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


AS_STORED = Resizing()


def in_range(
    argument: str, images: Any
) -> UInt8[np.ndarray, "*shape"] | Float[np.ndarray, "*shape"]:
    """Images that are uint8, or float in [0, 1].

    Args:
      argument: what to call the images in a message.
      images: uint8 in 0..255 or float in [0, 1]. Floats that leave it by at most
        `RANGE_TOLERANCE`, as rounding does, are clipped.

    Returns:
      The images; they are copied only if clipped.

    Raises:
      ValueError: the images are of another type, NaN, or further outside (floats in 0..255 are no
        images here: they become white wherever [0, 1] is meant).
    """
    takes = "uint8 in 0..255 or float in [0, 1]"
    images = array(argument, images, f"an array of {takes}", of=NUMERIC)
    require_concrete(argument, images, takes)
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise invalid(argument, f"dtype {images.dtype}", takes)
    low, high = float(images.min(initial=0)), float(images.max(initial=1))
    # Written so that a NaN is refused too.
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        low, high = images.min(), images.max()
        raise invalid(argument, f"values from {low} to {high}", "float values in [0, 1]")
    return images if low >= 0 and high <= 1 else np.clip(images, 0, 1)


def as_float(
    images: UInt8[np.ndarray, "*shape"] | Float[np.ndarray, "*shape"],
) -> Float32[np.ndarray, "*shape"]:
    """Images as float32 in [0, 1], the range that models take.

    Args:
      images: uint8 in 0..255, which is divided by 255, or float in [0, 1], which is cast.

    Returns:
      The images as float32.

    Raises:
      ValueError: `images` is neither uint8 nor float, or leaves [0, 1] by more than 0.001.
    """
    images = in_range("images", images)
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
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
      ValueError: an option is out of range; `images` is of another rank or type, or leaves [0, 1]
        by more than 0.001.
    """
    images = in_range("images", images)
    fits = images.ndim == 4 and 0 not in images.shape[1:]
    require(fits, "images", describe(images), "[n, height, width, channels], none of them 0 but n")
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
    takes = "(height, width) in pixels, both positive integers"
    pair = is_several(size) and len(size) == 2
    require(pair, "size", describe(size), takes)
    try:
        height, width = (whole("size", side, most=LONGEST_SIDE) for side in size)
    except Refusal:
        raise invalid("size", describe(size), f"{takes} up to {LONGEST_SIDE}") from None
    return height, width


LONGEST_SIDE = 2**16
"""Pixels on a side of a resized image."""

"""Pixels: decoding one image file, resizing arrays of images, float conversion."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from jc2i.checks import invalid

# What Pillow raises on damaged files: SyntaxError for a broken PNG, ValueError for odd headers.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
# Modes of 8 bits a channel. Others (16 bit, float) would be clipped by a conversion, unnoticed.
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa"}


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
    images: UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"], size: tuple[int, int]
) -> UInt8[np.ndarray, "n height width c"] | Float32[np.ndarray, "n height width c"]:
    """Images at another size, by Pillow's bicubic filter (Keys' kernel with a = -1/2).

    Pixel centres are at half-integers, and the filter widens when the image shrinks (antialias).
    The aspect ratio is not kept. Float images are clipped to [0, 1], as bicubic overshoots.

    Args:
      images: uint8 in 0..255 or float in [0, 1].
      size: height and width in pixels.

    Returns:
      The images at the new size, uint8 or float32.

    Raises:
      ValueError: `size` is not two positive integers.
    """
    height, width = check_size(size)
    if images.shape[1:3] == (height, width):
        return images if images.dtype == np.uint8 else images.astype(np.float32)
    dtype = np.uint8 if images.dtype == np.uint8 else np.float32
    resized = np.empty((len(images), height, width, images.shape[3]), dtype)
    for index in np.ndindex(len(images), images.shape[3]):
        image, channel = index
        plane = Image.fromarray(images[image, :, :, channel].astype(dtype))
        resized[image, :, :, channel] = np.asarray(
            plane.resize((width, height), Image.Resampling.BICUBIC)
        )
    return resized if dtype == np.uint8 else np.clip(resized, 0, 1)


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


def decode(
    contents: bytes, name: str, channels: int, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "height width channels"]:
    """One image file's pixels.

    Args:
      contents: the file, in any format that Pillow reads with 8 bits a channel.
      name: what to call the file in a message.
      channels: 1 for grey, 3 for RGB.
      size: height and width in pixels to resize to (bicubic), or the image's own.

    Returns:
      The pixels, 0..255.

    Raises:
      ValueError: the file is not an image, is truncated, or has more than 8 bits a channel.
    """
    try:
        with Image.open(io.BytesIO(contents)) as image:
            if image.mode not in _EIGHT_BIT_MODES:
                raise invalid(name, f"pixels of mode {image.mode!r}", "8 bits a channel")
            pixels = image.convert("L" if channels == 1 else "RGB")
    except Image.UnidentifiedImageError:
        raise invalid(name, "a file that is not an image", "an image file") from None
    except _DAMAGED as error:
        raise invalid(name, f"a damaged image ({error})", "a whole image file") from error
    if size is not None and (pixels.height, pixels.width) != size:
        pixels = pixels.resize((size[1], size[0]), Image.Resampling.BICUBIC)
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

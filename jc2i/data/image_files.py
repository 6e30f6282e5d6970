"""Image files: what may be opened, how it is turned, decoded and reduced to pixels."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, PpmImagePlugin, TiffImagePlugin

from jc2i.checks import Refusal, count, invalid, require
from jc2i.data.pixels import AS_STORED, Resizing

# Pillow knows many more, of which some run programs (EPS) or hold no photograph (PDF, fonts).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# What Pillow raises on damaged files: SyntaxError for a broken PNG, ValueError for odd headers.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError)
# Modes of 8 bits a channel. Others (16 bit, float) would be clipped by a conversion, unnoticed.
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa"}

MAX_PIXELS = 250_000_000
"""The most pixels of an image that is opened: above telephones' 200 megapixels, below 1 GB."""


class Turn(NamedTuple):
    """How stored pixels become upright: first rows and columns change places, then sides do."""

    method: Image.Transpose | None = None
    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def boxes(self, boxes: Float32[np.ndarray, "boxes 4"]) -> Float32[np.ndarray, "boxes 4"]:
        """Boxes drawn on the stored image, where they lie on the upright one (as fractions)."""
        top, left, bottom, right = boxes.T
        if self.transposed:
            top, left, bottom, right = left, top, right, bottom
        if self.upside_down:
            top, bottom = 1 - bottom, 1 - top
        if self.mirrored:
            left, right = 1 - right, 1 - left
        return np.stack([top, left, bottom, right], -1)


_ORIENTATION = 0x0112
_METHOD = Image.Transpose
# Exif 2.32, table 6: which sides of the scene the first stored row and column are.
_TURNS = {
    1: Turn(),
    2: Turn(_METHOD.FLIP_LEFT_RIGHT, mirrored=True),
    3: Turn(_METHOD.ROTATE_180, upside_down=True, mirrored=True),
    4: Turn(_METHOD.FLIP_TOP_BOTTOM, upside_down=True),
    5: Turn(_METHOD.TRANSPOSE, transposed=True),
    6: Turn(_METHOD.ROTATE_270, transposed=True, mirrored=True),
    7: Turn(_METHOD.TRANSVERSE, transposed=True, upside_down=True, mirrored=True),
    8: Turn(_METHOD.ROTATE_90, transposed=True, upside_down=True),
}
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS = 256, 257, 258
_PNG_DEPTH = 24  # in the first chunk, which has one place and one length
# Every other turn undoes itself.
_UNDONE = {_METHOD.ROTATE_270: _METHOD.ROTATE_90, _METHOD.ROTATE_90: _METHOD.ROTATE_270}
_NOTES_IN_TEXT = (b"Raw profile type exif", b"XML:com.adobe.xmp")


@dataclasses.dataclass(frozen=True)
class Decoding:
    """Which image files are opened, and how they are turned.

    Attributes:
      upright: whether an image is turned as its camera noted (EXIF), or stays as it is stored.
      max_pixels: the most pixels of an image that is opened: a few bytes may decode to gigabytes.
    """

    upright: bool = True
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        require(isinstance(self.upright, bool), "upright", repr(self.upright), "True or False")
        count(max_pixels=self.max_pixels)


UPRIGHT = Decoding()


class Header(NamedTuple):
    """What a file says of its image before it is decoded.

    Attributes:
      stored: the height and width of the stored image, in pixels.
      turn: how the stored image is turned when it is decoded.
    """

    stored: tuple[int, int] = (1, 1)
    turn: Turn = _TURNS[1]

    @property
    def size(self) -> tuple[int, int]:
        """The height and width of the image as it is decoded."""
        height, width = self.stored
        return (width, height) if self.turn.transposed else (height, width)


def read_image(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    crop_fraction: float | None = None,
    interpolation: str = "bicubic",
    channels: int = 3,
    upright: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> UInt8[np.ndarray, "height width channels"]:
    """A photograph's pixels, as `load` gives those of a folder.

    Args:
      path: the image file: JPEG, PNG, WebP, BMP, GIF, TIFF or PPM.
      size: height and width in pixels to resize to, or None for the image's own.
      crop_fraction: None squashes it to `size`; a number in (0, 1] keeps its aspect (see `load`).
      interpolation: Pillow's filter, `"bicubic"` or `"bilinear"`.
      channels: 1 for grey, 3 for RGB; what is transparent becomes white.
      upright: whether the image is turned as its camera noted (EXIF); False for as it is stored.
      max_pixels: the most pixels of an image that is opened.

    Returns:
      The pixels, 0..255.

    Raises:
      ValueError: the file is not an image, is truncated, has more than 8 bits a channel or more
        than `max_pixels` pixels; an option is out of range.
      OSError: it cannot be read.
    """
    resizing, decoding = Resizing(size, crop_fraction, interpolation), Decoding(upright, max_pixels)
    return decode(Path(path).read_bytes(), str(path), channels, resizing, decoding)


def decode(
    contents: bytes,
    name: str,
    channels: int,
    resizing: Resizing = AS_STORED,
    decoding: Decoding = UPRIGHT,
) -> UInt8[np.ndarray, "height width channels"]:
    """One image file's pixels.

    Args:
      contents: the file.
      name: what to call the file in a message.
      channels: 1 for grey, 3 for RGB.
      resizing: how the image gets its size; its own by default.
      decoding: whether it is turned, and how large it may be.

    Returns:
      The pixels, 0..255.

    Raises:
      ValueError: the file is not an image, is truncated, has more than 8 bits a channel or more
        pixels than `decoding` allows.
    """
    with _opened(contents, name, decoding) as image:
        bits = _bits(image, contents)
        if image.mode not in _EIGHT_BIT_MODES or bits > 8:
            got = f"{bits} bits a channel" if bits > 8 else f"pixels of mode {image.mode!r}"
            raise invalid(name, got, "8 bits a channel")
        method = _turn(image, contents).method
        with _LIFTED:
            image.load()
        # Pillow itself turns a TIFF, and nothing else.
        if method is not None and decoding.upright != (image.format == "TIFF"):
            method = method if decoding.upright else _UNDONE.get(method, method)
            pixels = image.transpose(method)
        else:
            pixels = image
        if image.has_transparency_data:
            # What is transparent has any colour: black, often, in a drawing on nothing.
            layer = pixels.convert("RGBA")
            pixels = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        pixels = pixels.convert("L" if channels == 1 else "RGB")
    pixels = resizing(pixels)
    return np.asarray(pixels).reshape(pixels.height, pixels.width, channels)


def header(contents: bytes, name: str, decoding: Decoding = UPRIGHT) -> Header:
    """What a file says of its image, which is not decoded.

    Args:
      contents: the file.
      name: what to call the file in a message.
      decoding: whether it is turned, and how large it may be.

    Returns:
      Its size and how it is turned.

    Raises:
      ValueError: the file is not an image, or has more pixels than `decoding` allows.
    """
    with _opened(contents, name, decoding) as image:
        return Header(
            _stored_size(image), _turn(image, contents) if decoding.upright else _TURNS[1]
        )


def _stored_size(image: Image.Image) -> tuple[int, int]:
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # newer Pillows give the upright size
        return int(image.tag_v2[_TIFF_HEIGHT]), int(image.tag_v2[_TIFF_WIDTH])
    return image.height, image.width


def _turn(image: Image.Image, contents: bytes) -> Turn:
    """How the camera noted that the stored image is turned; not at all by an unreadable note."""
    # Pillow decodes a whole PNG to be sure that there is no note behind its pixels.
    if image.format == "PNG" and not _png_has_note(contents):
        return _TURNS[1]
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1), _TURNS[1])
    except Exception:  # parsing what is no Exif raises errors of almost every kind
        return _TURNS[1]


def _png_has_note(contents: bytes) -> bool:
    chunk = 8
    while chunk + 8 <= len(contents):
        length, kind = struct.unpack_from(">I4s", contents, chunk)
        if kind == b"eXIf" or contents.startswith(_NOTES_IN_TEXT, chunk + 8):
            return True
        chunk += length + 12  # with its length, kind and checksum
    return False


def _bits(image: Image.Image, contents: bytes) -> int:
    """How many bits a channel has in the file: Pillow cuts 16 of a colour image to 8, unnoticed."""
    if image.format == "PNG":
        return contents[_PNG_DEPTH]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(_TIFF_BITS, (1,)))
    if image.mode.startswith("I"):
        return 16
    if isinstance(image, PpmImagePlugin.PpmImageFile) and isinstance(image.tile[0].args, tuple):
        return int(image.tile[0].args[1]).bit_length()  # the value of white
    return 8


@contextlib.contextmanager
def _opened(contents: bytes, name: str, decoding: Decoding) -> Iterator[Image.Image]:
    """An image of which the header is read; what Pillow raises within is a refusal by name."""
    try:
        with _LIFTED:
            image = Image.open(io.BytesIO(contents), formats=_FORMATS)
        with image:
            pixels = image.height * image.width
            if pixels > decoding.max_pixels:
                raise invalid(
                    name,
                    f"an image too large: {image.height}x{image.width}, {pixels} pixels",
                    f"at most {decoding.max_pixels} pixels (max_pixels=)",
                )
            yield image
    except Refusal:
        raise
    except Image.UnidentifiedImageError:
        raise invalid(name, "a file that is not an image", "an image file") from None
    except _DAMAGED as error:
        raise invalid(name, f"a damaged image ({error})", "a whole image file") from error


class _PillowsLimit:
    """Pillow's own limit, lifted while it opens or decodes: it is one for the whole process."""

    def __init__(self) -> None:
        self._lock, self._within, self._limit = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self._lock:
            if not self._within:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if not self._within:
                Image.MAX_IMAGE_PIXELS = self._limit


_LIFTED = _PillowsLimit()

"""Image files: what may be opened, how it is turned, decoded and reduced to pixels."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageFile, PpmImagePlugin, TiffImagePlugin

from jc2i import checks, files
from jc2i.checks import Refusal, count, invalid, require
from jc2i.data.pixels import AS_STORED, Resizing
from jc2i.data.structure import Structure, structure

# Pillow knows many more, of which some run programs (EPS) or hold no photograph (PDF, fonts).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Modes of 8 bits a channel. Others (16 bit, float) would be clipped by a conversion, unnoticed.
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa"}

MAX_PIXELS = 25_000_000
"""The most pixels that are decoded: a camera's 24 megapixels, for which Pillow takes 250 MB."""

_BYTES, _NOTES = 3, 2**20
"""Bytes of a file for each of the most pixels, as one takes that is not compressed; and for what it
says besides."""
_REDUCTIONS = (2, 4)
"""What the sides of a larger JPEG are divided by, where enough is left."""
_COSTLY = {"WEBP": 2}
"""How many pixels one counts for, of a decoder that takes more memory."""
_SLOW, _SLOWER = ("bmp_rle", "ppm", "ppm_plain"), 12
"""Pillow's decoders in Python: of a bitmap with run lengths, and of a PPM with another white than
255 or in text."""
_STRIP = 256
"""Rows that are converted at a time."""


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
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_TILE = 256, 257, 258, (322, 323)
_PNG_DEPTH = 24  # in the first chunk, which has one place and one length
# Every other turn undoes itself.
_UNDONE = {_METHOD.ROTATE_270: _METHOD.ROTATE_90, _METHOD.ROTATE_90: _METHOD.ROTATE_270}


@dataclasses.dataclass(frozen=True)
class Decoding:
    """Which image files are opened, and how they are turned.

    Attributes:
      upright: whether an image is turned as its camera noted (EXIF), or stays as it is stored.
      max_pixels: the most pixels that are decoded: a few bytes may be gigabytes of them. A larger
        JPEG is decoded at half or a quarter of its sides where that leaves the size asked for.
    """

    upright: bool = True
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        require(isinstance(self.upright, bool), "upright", repr(self.upright), "True or False")
        count(max_pixels=self.max_pixels)

    @property
    def max_bytes(self) -> int:
        """The most bytes of a file: what so many pixels take that are not compressed."""
        return _BYTES * self.max_pixels + _NOTES

    def read(self, path: str | os.PathLike[str]) -> bytes:
        """An image file's content."""
        return files.read(path, os.fspath(path), self.max_bytes, "max_pixels")


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
      max_pixels: the most pixels that are decoded, and a third of the most bytes of the file; half
        as many of a WebP, which takes more memory. A larger JPEG is decoded at half or a quarter of
        its sides where that leaves `size`, so that a telephone's 200 megapixels are read.

    Returns:
      The pixels, 0..255.

    Raises:
      ValueError: the file is not an image, is truncated, has more than 8 bits a channel or more
        than `max_pixels` pixels; an option is out of range; it is no regular file.
      OSError: it cannot be read.
    """
    name = checks.path("path", path)
    channels = checks.whole("channels", channels, "1 or 3")
    require(channels in (1, 3), "channels", channels, "1 or 3")
    resizing, decoding = Resizing(size, crop_fraction, interpolation), Decoding(upright, max_pixels)
    return decode(decoding.read(name), name, channels, resizing, decoding)


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
    with _opened(contents, name, decoding) as (image, parts):
        if parts.damage:
            raise ValueError(parts.damage)
        bits = _bits(image, contents)
        if image.mode not in _EIGHT_BIT_MODES or bits > 8:
            got = f"{bits} bits a channel" if bits > 8 else f"pixels of mode {image.mode!r}"
            raise invalid(name, got, "8 bits a channel")
        turn = _turn(image, parts)
        upright = Header(_stored_size(image), turn if decoding.upright else _TURNS[1]).size
        resizing.require_fits(name, upright)
        _reduce(image, name, parts, turn, resizing, decoding)
        with _LIFTED:
            image.load()
        # Pillow itself turns a TIFF, and nothing else.
        method = turn.method
        if method is not None and decoding.upright != (image.format == "TIFF"):
            turned = image.transpose(method if decoding.upright else _UNDONE.get(method, method))
            image.close()  # frees its pixels
        else:
            turned = image
        return _array(resizing(_converted(turned, "L" if channels == 1 else "RGB")))


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    for top in range(0, image.height, _STRIP):
        yield top, image.crop((0, top, image.width, min(top + _STRIP, image.height)))


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """A decoded image in another mode, on white; each step is that of a strip, not another copy."""
    transparent = image.has_transparency_data
    if image.mode == mode and not transparent:
        return image
    canvas = Image.new(mode, image.size)
    for top, strip in _strips(image):
        if transparent:
            # What is transparent has any colour: black, often, in a drawing on nothing.
            layer = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        canvas.paste(strip.convert(mode), (0, top))
    image.close()
    return canvas


def _array(image: Image.Image) -> UInt8[np.ndarray, "height width channels"]:
    array = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for top, strip in _strips(image):
        array[top : top + _STRIP] = np.asarray(strip).reshape(-1, *array.shape[1:])
    return array


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
    with _opened(contents, name, decoding) as (image, parts):
        return Header(_stored_size(image), _turn(image, parts) if decoding.upright else _TURNS[1])


def _stored_size(image: Image.Image) -> tuple[int, int]:
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # newer Pillows give the upright size
        return int(image.tag_v2[_TIFF_HEIGHT]), int(image.tag_v2[_TIFF_WIDTH])
    return image.height, image.width


def _turn(image: Image.Image, parts: Structure) -> Turn:
    """How the camera noted that the stored image is turned; not at all by an unreadable note."""
    # Pillow decodes a whole PNG to be sure that there is no note behind its pixels.
    if image.format == "PNG" and not parts.noted:
        return _TURNS[1]
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1), _TURNS[1])
    except Exception:  # parsing what is no Exif raises errors of almost every kind
        return _TURNS[1]


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
def _opened(
    contents: bytes, name: str, decoding: Decoding
) -> Iterator[tuple[Image.Image, Structure]]:
    """An image of which the header is read; what Pillow raises within is a refusal by name."""
    try:
        parts = structure(contents)
        with _LIFTED:
            image = Image.open(io.BytesIO(contents), formats=_FORMATS)
        with image:
            _require_pixels(image, name, parts, decoding)
            yield image, parts
    except Refusal:
        raise
    except Image.UnidentifiedImageError:
        raise invalid(name, "a file that is not an image", "an image file") from None
    # What Pillow raises on damaged files has no common type.
    except Exception as error:
        got = f"a damaged image ({files.one_line(error)})"
        raise invalid(name, got, "a whole image file") from error


def _require_pixels(image: Image.Image, name: str, parts: Structure, decoding: Decoding) -> None:
    """Refuses an image that would take too much memory or time at any size that is asked for."""
    most = decoding.max_pixels // _COSTLY.get(str(image.format), 1)
    if isinstance(image, ImageFile.ImageFile) and image.tile and image.tile[0][0] in _SLOW:
        most = decoding.max_pixels // _SLOWER
    if _reducible(image, parts):
        most *= _REDUCTIONS[-1] ** 2
    _require_at_most(image, name, most)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tile = math.prod(int(image.tag_v2.get(side, 1)) for side in _TIFF_TILE)
        got = f"an image in tiles of {tile} pixels"
        require(tile <= most, name, got, f"at most {most} pixels (max_pixels=)")


def _require_at_most(image: Image.Image, name: str, most: int, otherwise: str = "") -> None:
    height, width = _stored_size(image)
    got = f"an image too large: {height}x{width}, {height * width} pixels"
    require(height * width <= most, name, got, f"at most {most} pixels (max_pixels=){otherwise}")


def _reducible(image: Image.Image, parts: Structure) -> bool:
    """Whether it may be decoded at a part of its size, without being decoded whole before."""
    return image.format == "JPEG" and parts.scans == 1


def _reduce(
    image: Image.Image,
    name: str,
    parts: Structure,
    turn: Turn,
    resizing: Resizing,
    decoding: Decoding,
) -> None:
    """Has an image of too many pixels decoded at a part of its sides, or refuses it."""
    height, width = _stored_size(image)
    most = decoding.max_pixels
    if height * width <= most or not _reducible(image, parts):
        return  # what is refused at any size has been
    if resizing.size is not None:
        upright = Header((height, width), turn if decoding.upright else _TURNS[1])
        least = Header(resizing.resized(upright.size), upright.turn).size
        for part in _REDUCTIONS:
            enough = height // part >= least[0] and width // part >= least[1]
            if height * width <= most * part**2 and enough:
                image.draft(None, (width // part, height // part))
                return
    _require_at_most(image, name, most, f", or more with a size= of at most 1/{_REDUCTIONS[-1]}")


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

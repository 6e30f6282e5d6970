"""What an image file is made of, looked at before Pillow opens it.

Pillow goes through the parts of a file one by one in Python and keeps what they list, so that a
file of some megabytes may hold it for minutes or take a gigabyte. Nor does it compare the checksums
of a PNG's pixels.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import NamedTuple

MOST_PARTS = 2**14
"""Parts of a file before its pixels: segments of a JPEG, blocks of a GIF, entries of a TIFF."""

MOST_PIXEL_PARTS = 2**17
"""Parts that pixels may be in: chunks of a PNG, strips or tiles of a TIFF."""

MOST_SCANS = 100
"""Times that a JPEG goes over its pixels: 10 where they come in progressively."""

_PNG = b"\x89PNG\r\n\x1a\n"
_NOTES_IN_TEXT = (b"Raw profile type exif", b"XML:com.adobe.xmp")


class Structure(NamedTuple):
    """What a file is made of.

    Attributes:
      scans: how often a JPEG goes over its pixels; where more than once, all are decoded first.
      noted: whether a PNG may say which way up it is; Pillow decodes it to be sure that it does
        not.
      damage: what is wrong with a PNG behind its header, which is read for all that.
    """

    scans: int = 1
    noted: bool = True
    damage: str = ""


def structure(contents: bytes) -> Structure:
    """What a file is made of.

    Args:
      contents: the file, of any format.

    Returns:
      Its structure; that of a file in a format which needs no look at it is the usual one.

    Raises:
      ValueError: the file is damaged, or of too many parts.
    """
    try:
        return _structure(contents)
    except (struct.error, IndexError):
        raise ValueError("its end is missing") from None


def _structure(contents: bytes) -> Structure:
    if contents.startswith(_PNG):
        return _png(contents)
    if contents.startswith(b"\xff\xd8"):
        return _jpeg(contents)
    if contents.startswith(b"GIF8"):
        _gif(contents)
    elif _PPM.match(contents):
        _ppm(contents)
    elif contents[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _tiff(contents)
    return Structure()


def _png(contents: bytes) -> Structure:
    place, noted, view = len(_PNG), False, memoryview(contents)
    for _ in range(MOST_PIXEL_PARTS):
        if place + 12 > len(contents):
            return Structure(noted=noted, damage="its end is missing")
        length, kind = struct.unpack_from(">I4s", contents, place)
        noted |= kind == b"eXIf" or contents.startswith(_NOTES_IN_TEXT, place + 8)
        end = place + 8 + length
        checksum = zlib.crc32(view[place + 4 : end]).to_bytes(4, "big")
        if contents[end : end + 4] != checksum:
            return Structure(noted=True, damage=f"a chunk {kind!r} that is not as it was written")
        if kind == b"IEND":
            return Structure(noted=noted)
        place = end + 4
    raise ValueError(f"more than {MOST_PIXEL_PARTS} chunks")


_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
_SCAN, _END = 0xDA, 0xD9
_LONGEST_FILL = 2**10


def _jpeg(contents: bytes) -> Structure:
    scans = segments = 0
    place = 2
    while found := _MARKER.search(contents, place):
        marker = contents[found.start() + 1]
        if marker == _END:
            break
        if not scans and found.start() - place > _LONGEST_FILL:
            raise ValueError("nothing where a segment should begin")
        place = found.end() + struct.unpack_from(">H", contents, found.end())[0]
        scans, segments = scans + (marker == _SCAN), segments + 1
        if scans > MOST_SCANS or segments > MOST_PARTS:
            raise ValueError(f"more than {MOST_SCANS} scans or {MOST_PARTS} segments")
    return Structure(scans=scans)


def _gif(contents: bytes) -> None:
    """Goes to the first image, of which alone the pixels are read."""
    flags, place, parts = contents[10], 13, 0
    place += 3 << (flags & 7) + 1 if flags & 0x80 else 0
    while contents[place : place + 1] == b"!":
        place += 2
        length = -1
        while length:
            length = contents[place]
            place, parts = place + length + 1, parts + 1
            if parts > MOST_PARTS:
                raise ValueError(f"more than {MOST_PARTS} blocks before its image")


_PPM = re.compile(rb"P[1-7fFyY]")
_COMMENT = re.compile(rb"#[^\r\n]*")
_MOST_COMMENTS = 2**10
_TOKENS = 3
"""The format, the width and the height."""


def _ppm(contents: bytes) -> None:
    if len(_COMMENT.sub(b"", contents[:MOST_PARTS]).split()) <= _TOKENS < contents.count(b"#"):
        raise ValueError(f"comments of more than {MOST_PARTS} bytes")
    if contents[1:2] in b"123" and contents.count(b"#") > _MOST_COMMENTS:
        raise ValueError(f"more than {_MOST_COMMENTS} comments")


_TEXT = 2
_LISTS_BELOW, _BLOBS = 2**15, (347, 700)  # tags of numbers; tables of a JPEG, and XMP


def _tiff(contents: bytes) -> None:
    order = "<" if contents[:1] == b"I" else ">"
    big = contents[2:4] in (b"+\0", b"\0+")
    first, of_entries, entry = (8, "Q", "HHQQ") if big else (4, "H", "HHII")
    place = struct.unpack_from(order + ("Q" if big else "I"), contents, first)[0]
    entries = struct.unpack_from(order + of_entries, contents, place)[0]
    if entries > MOST_PARTS:
        raise ValueError(f"more than {MOST_PARTS} entries")
    place += struct.calcsize(of_entries)
    for index in range(entries):
        at = place + index * struct.calcsize("=" + entry)
        tag, kind, count, _ = struct.unpack_from(order + entry, contents, at)
        listed = tag < _LISTS_BELOW and tag not in _BLOBS and kind != _TEXT
        if listed and count > MOST_PIXEL_PARTS:
            raise ValueError(f"a list of {count} numbers (tag {tag})")

"""Images that start programs, or hold the reader for minutes, or decode to gigabytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.files.running import Case

SMALL = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
FLOOD = 2**21


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(height: int, width: int, colour: int = 2, depth: int = 8, rows: bytes = b"") -> bytes:
    """A PNG that says what is wanted, of rows of zeros or of what is given."""
    size = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", rows or zeros(height * (1 + width * (3 if colour == 2 else 1))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + body + chunk(b"IEND")


def zeros(size: int) -> bytes:
    """Zeros, compressed a thousandfold without having been there."""
    compressor = zlib.compressobj()
    block = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    times, rest = divmod(size, 2**20)
    end = zlib.compressobj(wbits=-15)
    checksum = struct.pack(">HH", size % 65521, 1)
    return block[:2] + block[2:] * times + end.compress(bytes(rest)) + end.flush() + checksum


def tiff(entries: dict[int, tuple[int, int, int]], content: bytes = b"", at: int = 300) -> bytes:
    """A TIFF of these entries (type, count, value), and content at a place."""
    defaults = {256: (3, 1, 40), 257: (3, 1, 40), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    chosen = sorted((defaults | {277: (3, 1, 1)} | entries).items())
    packed = b"II*\0" + struct.pack("<IH", 8, len(chosen))
    for tag, (kind, count, value) in chosen:
        packed += struct.pack("<HHI", tag, kind, count)
        packed += struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value)
    return packed.ljust(at, b"\0") + content


def scans(side: int, times: int) -> bytes:
    """A JPEG that goes over its pixels again and again, each time in a few bytes."""
    whole = encoded(np.zeros((side, side), np.uint8), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * times + whole[-2:]


def jpeg_of(height: int, width: int, progressive: bool = False) -> bytes:
    """A JPEG's header over the pixels of a small one."""
    whole = bytearray(encoded(SMALL, "JPEG", progressive=progressive))
    place = whole.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    struct.pack_into(">HH", whole, place + 5, height, width)
    return bytes(whole)


def gif_with(blocks: bytes) -> bytes:
    whole = encoded(SMALL[..., 0], "GIF")
    place = whole.index(b",", 13 + 3 * 256)
    return whole[:place] + blocks + whole[place:]


def bmp(width: int, height: int, compression: int, content: bytes, bits: int = 8) -> bytes:
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(content), 0, 0, 2, 2
    )
    start = 14 + len(info) + 8
    return (
        b"BM" + struct.pack("<IHHI", start + len(content), 0, 0, start) + info + bytes(8) + content
    )


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 40 40
%%EndComments
(ran) (w) file closefile
showpage
%%EOF
"""


def cases(folder: Path) -> Iterator[Case]:
    folder.mkdir()
    whole, photograph = encoded(SMALL, "PNG"), encoded(SMALL, "JPEG")
    webp = encoded(SMALL, "WEBP", lossless=True)
    icc = b"name\0\0" + zeros(2**28)
    tile = zlib.compress(bytes(16000 * 16000), 1)
    compressed = {259: (3, 1, 8), 325: (4, 1, len(tile)), 324: (4, 1, 300)}
    contents = {
        "postscript.png": EPS,
        "postscript.eps.jpg": encoded(SMALL, "EPS"),
        "document.png": encoded(SMALL, "PDF"),
        "icon.png": encoded(SMALL, "ICO"),
        "icons.png": encoded(SMALL, "ICNS"),
        "targa.png": encoded(SMALL, "TGA"),
        "jpeg2000.png": encoded(SMALL, "JPEG2000"),
        "pcx.png": encoded(SMALL, "PCX"),
        "sgi.png": encoded(SMALL, "SGI"),
        "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>",
        "script.png": b"#!/bin/sh\ntouch ran\n",
        "13000.png": png(13000, 13000),
        "30000-grey.png": png(30000, 30000, colour=0),
        "said-2**31.png": png(2**31 - 1, 2**31 - 1, rows=zeros(99)),
        "flat.png": png(1, 2**26, colour=0),
        "tall.png": png(2**26, 1, colour=0),
        "no-pixels.png": png(0, 0, rows=zeros(1)),
        "16-bits.png": png(4, 4, depth=16, rows=zeros(99)),
        "chunks.png": whole[:33] + chunk(b"teSt") * (FLOOD // 12) + whole[33:],
        "texts.png": whole[:33] + chunk(b"zTXt", b"a\0\0" + zeros(2**24)) * 30 + whole[33:],
        "profile.png": whole[:33] + chunk(b"iCCP", icc) + whole[33:],
        "long-chunk.png": whole[:33] + struct.pack(">I", 2**31 - 1) + b"teSt" + whole[33:],
        "no-end.png": whole[:-12],
        "checksum.png": whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:],
        "65500.jpg": jpeg_of(65500, 65500),
        "65500-progressive.jpg": jpeg_of(65500, 65500, progressive=True),
        "no-pixels.jpg": jpeg_of(0, 40),
        "scans.jpg": scans(2000, 2000),
        "fill.jpg": photograph[:2] + b"\xff" * FLOOD * 8 + photograph[2:],
        "notes.jpg": photograph[:2] + b"\xff\xfe\x00\x02" * FLOOD + photograph[2:],
        "nothing-more.jpg": photograph[:2],
        "65535.gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + gif_with(b"")[10:],
        "notes.gif": gif_with(b"!\xfe" + b"\1x" * FLOOD + b"\0"),
        "extensions.gif": gif_with(b"!\xfe\0" * FLOOD),
        "strips.tif": tiff({273: (4, FLOOD, 300), 278: (3, 1, 1)}, struct.pack("<I", 8) * FLOOD),
        "astronomic-strips.tif": tiff({273: (4, 2**32 - 1, 300), 278: (3, 1, 1)}, bytes(99)),
        "tile.tif": tiff({322: (4, 1, 16000), 323: (4, 1, 16000)} | compressed, tile),
        "side.tif": tiff({256: (4, 1, 2**31), 257: (4, 1, 2**31), 273: (4, 1, 300)}, bytes(99)),
        "in-itself.tif": tiff({273: (4, 1, 8), 330: (4, 1, 8), 34665: (4, 1, 8)}),
        "entries.tif": b"II*\0\x08\0\0\0\xff\xff" + bytes(65535 * 12),
        "entries-big.tif": b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**62) + bytes(FLOOD),
        "run-lengths.bmp": bmp(2**25, 1, 1, b"\0\2\0\xff" * 999 + b"\0\1"),
        "run-lengths-5000.bmp": bmp(5000, 5000, 1, b"\xff\1" * 10**5 + b"\0\1"),
        "upside-down.bmp": bmp(-(2**31), -(2**31), 0, bytes(99)),
        "2**31.bmp": bmp(2**31 - 1, 2**31 - 1, 0, bytes(99)),
        "webp-of-16384.webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\0" * 2,
        "said-4000.webp": webp[:20] + b"/" + struct.pack("<I", 3999 | 3999 << 14) + webp[25:],
        "10**9.ppm": b"P6 1000000000 1000000000 255\n" + bytes(99),
        "words.ppm": b"P6 forty 40 255\n" + bytes(99),
        "digits.ppm": b"P6 " + b"9" * 10**6 + b" 40 255\n",
        "text.ppm": b"P3 3000 3000 255\n" + b"0 " * 9_000_000 * 3,
        "other-white.ppm": b"P6 3000 3000 15\n" + bytes(9_000_000 * 3),
        "comments.ppm": b"P6 " + b"#\n" * FLOOD + b"40 40 255\n" + bytes(4800),
        "commented-pixels.ppm": b"P3 40 40 255\n" + b"#\n" * FLOOD + b"0 " * 4800,
        "floats.ppm": b"Pf 40 40 -1.0\n" + bytes(6400),
        "large.png": whole + bytes(2**27),
    }
    for name, content in contents.items():
        path = folder / name
        path.write_bytes(content)
        allowed = ("refused", "other") if name in ("in-itself.tif", "texts.png") else ("refused",)
        yield Case(name, "image", path, allowed)
    largest = {
        "5000.png": encoded(np.zeros((5000, 5000, 4), np.uint8), "PNG", compress_level=1),
        "5000.jpg": encoded(np.zeros((5000, 5000, 3), np.uint8), "JPEG", progressive=True),
        "3500.webp": encoded(np.zeros((3500, 3500, 3), np.uint8), "WEBP", method=0),
        "5000.gif": encoded(np.zeros((5000, 5000), np.uint8), "GIF"),
    }
    for name, content in largest.items():
        path = folder / name
        path.write_bytes(content)
        yield Case(f"the largest: {name}", "image", path, ("other",))

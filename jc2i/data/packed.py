"""Tar archives as streams of their members: whole, or refused, and unpacked within a limit."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import tarfile
from collections.abc import Iterator
from io import BufferedReader
from typing import Any, cast

from jc2i import files

_COMPRESSED: dict[bytes, Any] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
_LONGEST_NOTE = 2**20
"""Bytes of what an archive notes of one member, its long name for example."""
_NOTES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_MEMBER = 2**11
"""Bytes that a member counts for, which takes some memory and time even if it is empty."""
_LONGEST_END = 2**24
"""Bytes of the zeros that fill up an archive's last record."""


class Limited:
    """A stream that gives no more than so many bytes, skipped ones among them.

    Args:
      stream: a file, compressed or not.
      most: the most bytes.
    """

    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._most = stream, most

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._check(self._stream.tell())
        return content

    def seek(self, place: int) -> None:
        self._check(place)
        self._stream.seek(place)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, place: int) -> None:
        files.require_size(place, self._most, "max_bytes", "bytes unpacked")


def is_compressed(file: BufferedReader) -> bool:
    """Whether an open file is compressed in a way that is read here."""
    return _reader(file) is not None


def begins_as_archive(block: bytes) -> bool:
    """Whether the first block of a file is a member's header."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _reader(file: BufferedReader) -> Any:
    start = file.read(6)
    file.seek(0)
    return next((found for magic, found in _COMPRESSED.items() if start.startswith(magic)), None)


@contextlib.contextmanager
def unpacked(file: BufferedReader, most: int) -> Iterator[tarfile.TarFile]:
    """An open file as an archive, for `members`.

    Args:
      file: the archive, compressed or not.
      most: the most bytes that a compressed one may unpack to, unless it is large itself.
    """
    reader = _reader(file)
    with reader(file) if reader else contextlib.nullcontext(file) as stream:
        limited = Limited(stream, files.room(file, most)) if reader else stream
        with tarfile.TarFile(fileobj=cast(Any, limited), tarinfo=_WholeHeader) as archive:
            yield archive


def members(archive: tarfile.TarFile, room: int) -> Iterator[tarfile.TarInfo]:
    """Each member in turn, then a look at what is behind the last.

    Args:
      archive: one of `unpacked`.
      room: the bytes that it may unpack to, of which each member counts for two thousand, however
        small it is.

    Yields:
      The members; each may be read until the next is asked for.

    Raises:
      files.TooLarge: the members are too many.
      tarfile.ReadError: the archive is damaged. What the library raises on damaged ones has no
        common type: a caller expects any exception.
    """
    place, count = -1, 0
    while (member := archive.next()) is not None:
        if archive.offset <= place or member.size < 0:  # the same members again, for ever
            raise tarfile.ReadError("a member that ends before it begins")
        place, count = archive.offset, count + 1
        files.require_size(count, room // _MEMBER, "max_bytes", "members")
        yield member
        cast(Any, archive).members.clear()  # of each of which it keeps a kilobyte
    _require_nothing_more(archive)


def _require_nothing_more(archive: tarfile.TarFile) -> None:
    """Reads an archive's file to its end: zeros, and the checksum of the compression."""
    stream, length = cast(Any, archive.fileobj), 0
    while rest := stream.read(2**20):
        length += len(rest)
        if any(rest) or length > _LONGEST_END:
            raise tarfile.ReadError("more behind its end")


class _WholeHeader(tarfile.TarInfo):
    """A member's header: where tarfile takes any damaged one for the end, this refuses it."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        try:
            found = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end: a block of zeros
            reason = f"a member's header, {error}" if buf else "no end-of-archive mark"
            raise tarfile.ReadError(reason) from error
        if found.size < 0 or (found.type in _NOTES and found.size > _LONGEST_NOTE):
            raise tarfile.ReadError(f"a member's header, {found.size} bytes")
        return found

"""Image folders inside a .tar, .tar.gz, .tar.bz2 or .tar.xz, read without unpacking to disk."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, cast

from jc2i.checks import invalid
from jc2i.data.annotations import is_annotation, read_annotations
from jc2i.data.boxes import placed
from jc2i.data.dataset import Dataset
from jc2i.data.encoded import encoded_images
from jc2i.data.folder import is_image, layout, stored_split
from jc2i.data.image_files import UPRIGHT, Decoding
from jc2i.data.pixels import Resizing
from jc2i.data.splits import may_hold

_DAMAGED = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError)


def load_archive(
    path: Path,
    split: str,
    *,
    resizing: Resizing,
    decoding: Decoding = UPRIGHT,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """An image folder in a tar archive, decoded when indexed.

    A compressed archive has no random access, so one pass keeps the split's image files, still
    encoded, in memory; of an uncompressed one only the positions are kept.

    Args:
      path: the archive.
      split: one of `SPLITS`; an archive without split folders has only `"all"` and its halves.
      resizing: how each image gets its size.
      decoding: whether images are turned upright, and how large a file's may be.
      channels: 1 for grey, 3 (or None) for RGB.
      classes: names of the class folders in the order of the labels; sorted names if None.

    Returns:
      The data set.

    Raises:
      ValueError: the archive is damaged; or see `folder.layout`,
        `read_annotations` and `encoded_images`.
    """
    seekable = _is_uncompressed(path)
    sources: dict[PurePosixPath, bytes | tuple[int, int] | None] = {}
    texts: dict[PurePosixPath, bytes] = {}
    try:
        with tarfile.open(path, tarinfo=_WholeHeader) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if not member.isfile():
                    continue
                if is_annotation(name):
                    texts[name] = _contents(archive, member)
                elif not is_image(name):
                    continue
                elif seekable:
                    sources[name] = (member.offset_data, member.size)
                # Where no folder says the split, a text file may.
                elif (stored := stored_split(name)) is None or may_hold(stored, split):
                    sources[name] = _contents(archive, member)
                else:
                    sources[name] = None  # named only: its class counts
            _require_nothing_more(archive)
    except _DAMAGED as error:
        raise invalid(
            "name_or_path", f"{path}, a damaged archive ({error})", "a whole tar archive"
        ) from error
    chosen = layout(sources, read_annotations(texts), split, str(path), classes)
    images = encoded_images(
        [f"{path}:{name}" for name in chosen.paths],
        [sources[name] for name in chosen.paths],
        (lambda where: _read_at(path, *where)) if seekable else bytes,
        resizing=resizing,
        channels=channels,
        decoding=decoding,
    )
    boxes = placed(chosen.boxes, images)
    return Dataset(images, chosen.labels, chosen.classes, path.name.split(".")[0], boxes)


class _WholeHeader(tarfile.TarInfo):
    """A member's header: where tarfile takes any damaged one for the end, this refuses it."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end: a block of zeros
            reason = f"a member's header, {error}" if buf else "no end-of-archive mark"
            raise tarfile.ReadError(reason) from error


def _require_nothing_more(archive: tarfile.TarFile) -> None:
    """Reads the file that an archive is in to its end: zeros, and checksums of the compression."""
    while rest := cast(IO[bytes], archive.fileobj).read(2**20):
        if any(rest):
            raise tarfile.ReadError("more behind its end")


def _contents(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def _is_uncompressed(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


def _read_at(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)

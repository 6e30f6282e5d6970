"""Image folders inside a .tar, .tar.gz, .tar.bz2 or .tar.xz, read without unpacking to disk."""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from jc2i import files
from jc2i.data import packed
from jc2i.data.annotations import is_annotation, most_text, read_annotations
from jc2i.data.boxes import placed
from jc2i.data.dataset import Dataset
from jc2i.data.encoded import encoded_images
from jc2i.data.folder import is_image, layout, stored_split
from jc2i.data.image_files import UPRIGHT, Decoding
from jc2i.data.pixels import Resizing
from jc2i.data.splits import may_hold

_Source = bytes | tuple[int, int] | None
"""A compressed archive has no random access: an image's file is kept, of an uncompressed one only
where it is; of one that is not asked for, the name alone, whose class counts."""


def is_archive(path: Path) -> bool:
    """Whether a file is called an archive, is compressed as one may be, or begins as one."""
    if ".tar" in path.suffixes:
        return True
    with files.opened(path, "name_or_path") as file:
        return packed.is_compressed(file) or packed.begins_as_archive(file.read(tarfile.BLOCKSIZE))


def load_archive(
    path: Path,
    split: str,
    *,
    resizing: Resizing,
    decoding: Decoding = UPRIGHT,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    max_bytes: int = files.MOST,
) -> Dataset:
    """An image folder in a tar archive, decoded when indexed.

    One pass keeps a compressed archive's image files of the split, still encoded, in memory.

    Args:
      path: the archive.
      split: one of `SPLITS`; an archive without split folders has only `"all"` and its halves.
      resizing: how each image gets its size.
      decoding: whether images are turned upright, and how large a file's may be.
      channels: 1 for grey, 3 (or None) for RGB.
      classes: names of the class folders in the order of the labels; sorted names if None.
      max_bytes: the most bytes that a compressed archive may unpack to, unless it is large (see
        `load`).

    Returns:
      The data set.

    Raises:
      ValueError: the archive is damaged, or unpacks to too much; an image in it is stored as a
        link or with holes; or see `folder.layout`, `read_annotations` and `encoded_images`.
    """
    with (
        files.opened(path, "name_or_path") as file,
        files.refusing("name_or_path", str(path), "a damaged archive", "a whole tar archive"),
    ):
        kept = packed.is_compressed(file)
        with packed.unpacked(file, max_bytes) as archive:
            members = packed.members(archive, files.room(file, max_bytes))
            sources, texts = _contents(archive, members, split, kept, decoding, max_bytes)
    annotations = read_annotations(texts, f"{path}:")
    chosen = layout(sources, annotations, split, str(path), classes)
    images = encoded_images(
        [f"{path}:{name}" for name in chosen.paths],
        [sources[name] for name in chosen.paths],
        bytes if kept else functools.partial(_read_at, path, decoding),
        resizing=resizing,
        channels=channels,
        decoding=decoding,
    )
    boxes = placed(chosen.boxes, images)
    return Dataset(images, chosen.labels, chosen.classes, path.name.split(".")[0], boxes)


def _contents(
    archive: tarfile.TarFile,
    members: Iterable[tarfile.TarInfo],
    split: str,
    kept: bool,
    decoding: Decoding,
    max_bytes: int,
) -> tuple[dict[PurePosixPath, _Source], dict[PurePosixPath, bytes]]:
    """The images and the texts of an archive."""
    sources: dict[PurePosixPath, _Source] = {}
    texts: dict[PurePosixPath, bytes] = {}
    length = 0
    for member in members:
        name = PurePosixPath(member.name)
        if member.isdir() or not (is_annotation(name) or is_image(name)):
            continue
        if not member.isfile() or member.sparse is not None:
            raise tarfile.ReadError(f"{member.name!r} is stored as a link, or with holes")
        if is_annotation(name):
            length += member.size
            files.require_size(length, most_text(max_bytes), "max_bytes", "bytes of text files")
            texts[name] = _content(archive, member)
        elif not kept:
            sources[name] = (member.offset_data, member.size)
        # Where no folder says the split, a text file may.
        elif (stored := stored_split(name)) is None or may_hold(stored, split):
            files.require_size(member.size, decoding.max_bytes, "max_pixels", f"bytes of {name}")
            sources[name] = _content(archive, member)
        else:
            sources[name] = None
    return sources, texts


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read(member.size) if file else b""


def _read_at(path: Path, decoding: Decoding, where: tuple[int, int]) -> bytes:
    offset, length = where
    with files.opened(path, "name_or_path") as file, files.refusing("name_or_path", str(path)):
        files.require_size(length, decoding.max_bytes, "max_pixels", "bytes of an image in it")
        file.seek(offset)
        return file.read(length)

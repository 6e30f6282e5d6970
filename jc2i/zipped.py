"""Zip files within limits: NumPy's `.npz`, and the archives of PyTorch.

What is read is what was written: every checksum is looked at, names are those of both headers, and
no member is larger than it says.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Iterator
from io import BufferedReader
from typing import cast

import jax.numpy as jnp
import numpy as np

from jc2i import files

_MEMBER = 16
"""Bytes that a member takes in memory, for each of its entry in a zip's directory, about."""

_PIECE = 2**20
_END, _LOCATOR, _END_SIZE, _LONGEST_COMMENT = b"PK\x05\x06", b"PK\x06\x07", 22, 2**16
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PLAIN = "biufcSU"
"""The kinds of NumPy's types that are numbers or text."""


class Zip:
    """The members of a zip, none of them unpacked yet.

    Args:
      file: the zip, open for reading.
      most: the bytes that what is read may take, unless the file itself is large
        (`files.room`).
      option: the caller's argument that raises it.

    Raises:
      files.TooLarge: the members are too many, or unpack to too much.
      zipfile.BadZipFile: it is damaged, or no zip. What the library raises on damaged ones has no
        common type: a caller expects any exception.
    """

    def __init__(self, file: BufferedReader, most: int, option: str) -> None:
        self._option = option
        self._most = self._left = files.room(file, most)
        count, length = _directory(file)
        listed = _MEMBER * length
        files.require_size(listed, self._most, option, "bytes for the list of its members")
        self._archive = zipfile.ZipFile(file)
        members = self._archive.infolist()
        self.sizes = {member.filename: member.file_size for member in members}
        if len(members) != count:
            raise zipfile.BadZipFile(f"{len(members)} members of {count}")
        if len(self.sizes) != count:
            raise zipfile.BadZipFile("two members of one name")
        for member in members:
            if member.compress_type not in _METHODS or member.flag_bits & 1:
                raise zipfile.BadZipFile("a member that is encrypted or packed in another way")
            # This compares the names that the directory and the member itself have.
            self._archive.open(member).close()

    def open(self, member: str) -> zipfile.ZipExtFile:
        """A member, for `read_exactly`; what it unpacks to counts as read."""
        size = self.sizes[member]
        self._left -= size
        unpacked = self._most - self._left
        files.require_size(unpacked, self._most, self._option, "bytes unpacked")
        return cast(zipfile.ZipExtFile, self._archive.open(member))

    def read(self, member: str) -> bytes:
        """A member's content, by its checksum."""
        # The size that is asked for is what bounds the library's memory: a member may lie.
        with self.open(member) as stream:
            return stream.read(self.sizes[member])


def _directory(file: BufferedReader) -> tuple[int, int]:
    """The number of members, and the bytes of their list, which the library reads as a whole."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - _END_SIZE - _LONGEST_COMMENT))
    end = file.read(_END_SIZE + _LONGEST_COMMENT)
    file.seek(0)
    place = end.rfind(_END)
    if place < 0 or len(end) < place + _END_SIZE:
        raise zipfile.BadZipFile("no zip, or its end is missing")
    count, length = struct.unpack_from("<HI", end, place + 10)
    # Zip64: a record and its locator, of 56 and 20 bytes, stand in front.
    if (count == 2**16 - 1 or length == 2**32 - 1) and end[place - 20 : place - 16] == _LOCATOR:
        count, length = struct.unpack_from("<QQ", end, place - 44)
    return count, length


class Arrays:
    """The arrays of an `.npz`, each read when it is asked for, and only if it is plain.

    Args:
      file: the file, open for reading.
      most: the bytes that what is read may take (see `Zip`).
      option: the caller's argument that raises it.

    Raises:
      files.TooLarge: see `Zip`.
      ValueError: a member is no plain array, or its header says another size than it has.
      zipfile.BadZipFile: see `Zip`.
    """

    def __init__(self, file: BufferedReader, most: int, option: str) -> None:
        self._zip = Zip(file, most, option)
        if not all(member.endswith(".npy") for member in self._zip.sizes):
            raise zipfile.BadZipFile("a member that is no array")

    def __iter__(self) -> Iterator[str]:
        return (member.removesuffix(".npy") for member in self._zip.sizes)

    def __contains__(self, key: str) -> bool:
        return f"{key}.npy" in self._zip.sizes

    def __getitem__(self, key: str) -> np.ndarray:
        member = f"{key}.npy"
        with self._zip.open(member) as stream:
            return _array(stream, self._zip.sizes[member])


def _array(stream: zipfile.ZipExtFile, size: int) -> np.ndarray:
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):  # later ones are for names of fields
        raise ValueError(f"an array of version {version}")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in _PLAIN:
        raise ValueError("pickled objects" if dtype.hasobject else f"elements of type {dtype}")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or stream.tell() + count * dtype.itemsize != size:
        raise ValueError(f"a header of shape {shape} and type {dtype} in {size} bytes")
    flat = np.empty(count, dtype)
    held = flat.view(np.uint8) if flat.nbytes else np.empty(0, np.uint8)
    for start in range(0, len(held), _PIECE):
        piece = stream.read(min(_PIECE, len(held) - start))
        held[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
    if stream.read(1) or stream.tell() != size:  # the checksum is compared at the end
        raise EOFError("its end is missing")
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def storable(array: np.ndarray) -> np.ndarray:
    """As NumPy's own files can hold it: of types that are not NumPy's (bfloat16), the bits."""
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


def restored(array: np.ndarray, name: str) -> np.ndarray:
    """What `storable` was made of, by the name of its type.

    Raises:
      TypeError: there is no such type.
      ValueError: it is not one of numbers, of which each takes as many bytes.
    """
    dtype = jnp.dtype(name)
    number = jnp.issubdtype(dtype, np.number) or dtype == np.bool_
    if not number or dtype.itemsize != array.itemsize:
        raise ValueError(f"{array.dtype} as {dtype}")
    return array.view(dtype)

"""Files that are whole or not there, whenever a run is killed, and that are read within limits.

A file may come from a stranger. Nothing is opened that is no regular file, and nothing is read, or
unpacked, beyond a number of bytes that an option of the reader raises.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import jax

from jc2i.checks import Refusal, invalid

MOST = 2**28
"""Bytes that a file may unpack to, unless it is large itself or an option says more: 256 MiB."""

EXPANSION = 4
"""What a large file may unpack to, in sizes of its own."""


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file, replacing one that is there, so that at any moment it is whole or not there.

    Args:
      path: the file; its folder exists.
      content: what is written.
    """
    # In the same folder, because a rename is atomic only within one file system. Hosts that share
    # it may have processes of one number.
    partial = path.with_name(f".{path.name}.{jax.process_index()}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], argument: str) -> Iterator[BufferedReader]:
    """A regular file, open for reading.

    Args:
      path: the file, or a link to it.
      argument: which argument named it.

    Yields:
      The file.

    Raises:
      ValueError: it is a folder, a device, a pipe or a socket, none of which is opened.
      OSError: there is none, or it cannot be opened.
    """
    require_regular(path, os.stat(path).st_mode, argument)
    with open(path, "rb", opener=_unhurried) as file:
        require_regular(path, os.fstat(file.fileno()).st_mode, argument)  # perhaps another by now
        yield file


def _unhurried(path: str, flags: int) -> int:
    # A pipe that nobody writes to holds whoever opens it otherwise.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def require_regular(path: str | os.PathLike[str], mode: int, argument: str) -> None:
    """Refuses what is no regular file, by the mode that `os.stat` gives."""
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise invalid(argument, f"{os.fspath(path)}, {kind}", "a file")


class TooLarge(Exception):
    """A file asks for more than a reader takes: what it asks for, and what is taken."""

    def __init__(self, got: str, takes: str) -> None:
        super().__init__(f"{got}, more than {takes}")
        self.got, self.takes = got, takes


def require_size(size: int, most: int, option: str, what: str = "bytes") -> None:
    """Raises `TooLarge` for more than `most`, naming the option that raises it, if there is one."""
    if size > most:
        raise TooLarge(f"{size} {what}", f"at most {most}" + (f" ({option}=)" if option else ""))


def read(path: str | os.PathLike[str], argument: str, most: int, option: str) -> bytes:
    """The content of a regular file.

    Args:
      path: the file.
      argument: which argument named it.
      most: the most bytes that are read.
      option: the caller's argument that raises it, for the refusal.

    Returns:
      The content.

    Raises:
      ValueError: it is larger, or no regular file.
      OSError: it cannot be read.
    """
    name = os.fspath(path)
    with opened(path, argument) as file, refusing(argument, "" if name == argument else name):
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, most) + 1)
        if size < len(content) <= most:  # it grows, or is one that the system makes up
            content += file.read(most + 1 - len(content))
        require_size(max(size, len(content)), most, option)
    return content


def room(file: BufferedReader, most: int) -> int:
    """The bytes that an open file may unpack to: `most`, or a few times its own where more."""
    return max(most, EXPANSION * os.fstat(file.fileno()).st_size)


def one_line(text: object, longest: int = 200) -> str:
    """What a file or another library says, as a part of one line."""
    said = " ".join(str(text).split())
    return said if len(said) <= longest else f"{said[: longest - 4]} ..."


@contextlib.contextmanager
def refusing(
    argument: str, file: str, damaged: str = "a damaged file", takes: str = "a whole file"
) -> Iterator[None]:
    """Any error within as the refusal of a file by its name.

    What parsers raise on damaged files has no common type.

    Args:
      argument: which argument named the file.
      file: what to call it; nothing where the argument says it.
      damaged: what is said of a file that cannot be read; the reason is put behind it.
      takes: what is taken.
    """
    named = f"{file}, " if file else ""
    try:
        yield
    except Refusal as error:
        if file in str(error):
            raise
        raise Refusal(f"{file}: {error}") from None
    except TooLarge as error:
        raise invalid(argument, f"{named}{error.got}", error.takes) from error
    except Exception as error:
        why = one_line(error) or type(error).__name__
        raise invalid(argument, f"{named}{damaged} ({why})", takes) from error

"""Files that are whole or not there, whenever a run is killed, and that are read within limits.

A file may come from a stranger. Nothing is opened that is no regular file, and nothing is read, or
unpacked, beyond a number of bytes that an option of the reader raises.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import platform
import stat
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from jc2i import commands
from jc2i.checks import Refusal, invalid

PARTIAL = ".partial"
"""The end of the name of what is being written."""

_swept: set[Path] = set()
"""Folders in which this process has looked for what killed ones left."""

MOST = 2**28
"""Bytes that a file may unpack to, unless it is large itself or an option says more: 256 MiB."""

EXPANSION = 4
"""What a large file may unpack to, in sizes of its own."""


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file, replacing one that is there, so that at any moment it is whole or not there.

    Args:
      path: the file; its folder exists.
      content: what is written.

    Raises:
      OSError: it cannot be written; the error names the file.
    """
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Around the writing of a file or folder, which takes its place when it is whole.

    What processes that were killed have left in that folder is removed.

    Args:
      path: the file or folder; its own folder exists.

    Yields:
      Where to write it.

    Raises:
      ValueError: there is a device, a pipe or a socket.
      OSError: it cannot be written; the error names `path`.
    """
    require_replaceable(path)
    partial = partial_of(path)
    with commands.unbroken(partial), naming(path):
        yield partial
        take_place(partial, path)


def require_replaceable(path: Path) -> None:
    """Refuses a place that a file must not take: a device's, which whoever is root could replace.

    Raises:
      ValueError: there is a device, a pipe or a socket.
      IsADirectoryError: the path is that of the present folder, or of the uppermost.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
            require_regular(path, mode, str(path))


def take_place(partial: Path, path: Path) -> None:
    """Puts what is whole, file or folder, where it belongs."""
    with naming(path):
        if partial.is_dir() and path.is_dir():
            replaced = partial.with_name(f"{partial.name}.replaced")
            path.rename(replaced)
            partial.rename(path)
            commands.remove(replaced)
        else:
            partial.replace(path)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has the system's errors name a file, as those of a full disk do not."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def try_writing_in(folder: Path) -> None:
    """Finds out whether files can be made in a folder, before the work that they are for.

    Nothing is left behind, the folder neither.

    Args:
      folder: the folder, of which any part may be there already.

    Raises:
      OSError: they cannot; the error names the part of the path that is in the way.
    """
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    probe = partial_of(folder / "probe")
    with commands.unbroken(probe), naming(folder):
        probe.write_bytes(b"")


def partial_of(path: Path) -> Path:
    """Where this process writes what will be a file or folder, when it is whole.

    What processes of this host that were killed have left beside it is removed.
    """
    _sweep(path.parent)
    # In the same folder, because a rename is atomic only within one file system; by the process,
    # as hosts that share it may have processes of one number.
    name = path.name if len(path.name) < 100 else f"{zlib.crc32(os.fsencode(path.name)):08x}"
    return path.with_name(f".{name}.{_host()}.{os.getpid()}{PARTIAL}")


@functools.cache
def _host() -> str:
    """Within which a process's number is one process's alone."""
    host = platform.node()
    with contextlib.suppress(OSError):
        host += os.readlink("/proc/self/ns/pid")  # containers may share a host's name
    return f"{zlib.crc32(host.encode()):08x}"


def _sweep(folder: Path) -> None:
    """Removes what processes of this host were writing when they were killed."""
    if folder in _swept:
        return
    _swept.add(folder)
    for path in folder.glob(f".*.{_host()}.*{PARTIAL}"):
        process = path.name.removesuffix(PARTIAL).rpartition(".")[2]
        if process.isdecimal() and not _lives(int(process)):
            commands.remove(path)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


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
    argument: str,
    file: str,
    damaged: str = "a damaged file",
    takes: str = "a whole file",
    *,
    reasoned: bool = True,
) -> Iterator[None]:
    """Any error within as the refusal of a file by its name.

    What parsers raise on damaged files has no common type.

    Args:
      argument: which argument named the file.
      file: what to call it; nothing where the argument says it.
      damaged: what is said of a file that cannot be read.
      takes: what is taken.
      reasoned: whether the error's own words are put behind it.
    """
    named = f"{file}, " if file else ""
    try:
        yield
    except Refusal as error:
        if file in str(error):
            raise
        raise Refusal(f"{error} (in {file})") from None
    except TooLarge as error:
        raise invalid(argument, f"{named}{error.got}", error.takes) from error
    except Exception as error:
        why = f" ({one_line(error) or type(error).__name__})" if reasoned else ""
        raise invalid(argument, f"{named}{damaged}{why}", takes) from error

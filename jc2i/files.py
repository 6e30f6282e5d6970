"""Files that are whole or not there, whenever a run is killed."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import zlib
from collections.abc import Iterator
from pathlib import Path

from jc2i import commands

PARTIAL = ".partial"
"""The end of the name of what is being written."""

_swept: set[Path] = set()
"""Folders in which this process has looked for what killed ones left."""


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
      OSError: it cannot be written; the error names `path`.
    """
    partial = partial_of(path)
    with commands.unbroken(partial), naming(path):
        yield partial
        take_place(partial, path)


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

"""What is no regular file, or a very large one, where a file is asked for."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.files.running import Case

SUFFIXES = {
    "image": "png",
    "data": "npz",
    "weights": "pt",
    "calibrator": "calibrator",
}


def cases(folder: Path) -> Iterator[Case]:
    folder.mkdir()
    for door, suffix in SUFFIXES.items():
        for kind in ("device", "pipe", "socket", "folder", "missing", "link", "sparse", "empty"):
            path = folder / f"{kind}.{suffix}"
            if kind in ("device", "link"):
                path.symlink_to("/dev/zero" if kind == "device" else path)
            elif kind == "pipe":
                os.mkfifo(path)
            elif kind == "socket":
                _bind(path)
            elif kind == "folder":
                path.mkdir()
            elif kind == "sparse":
                with path.open("wb") as file:
                    file.truncate(2**37)
            elif kind == "empty":
                path.touch()
            yield Case(f"a {kind}", door, path)
    for suffix in ("tar", "tar.gz", "tar.xz"):
        path = folder / f"sparse.{suffix}"
        with path.open("wb") as file:
            file.truncate(2**37)
        yield Case(f"a sparse {suffix}", "data", path)


def _bind(path: Path) -> None:
    # The name of a socket is short: it is given from within its folder.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)

"""Files that are whole or not there, whenever a run is killed."""

from __future__ import annotations

import os
from pathlib import Path

import jax


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

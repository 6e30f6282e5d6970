"""Finished batches on disk: one file each, whole or not there, called by what it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jc2i import files
from jc2i.parallel import identity
from jc2i.zipped import Arrays, restored, storable

try:
    import fcntl
except ImportError:  # not on this system: two processes may then compute the same batch twice
    fcntl = None


_FORMAT = 2
"""Of the files: those of another are not found, and their batches computed again."""


class Kept(NamedTuple):
    """A finished batch: its arrays, and how they stand in dicts, lists and tuples.

    Attributes:
      leaves: the arrays, in the order of `jax.tree.leaves`.
      outline: their structure as JSON holds it; None where that needs a class of the caller's.
    """

    leaves: list[np.ndarray]
    outline: Any


class Store:
    """The finished batches of one computation, in a folder that may hold those of others too.

    Args:
      folder: where they are; it is made.
      computation: what every batch depends on, beside its own items.

    Raises:
      ValueError: if a part of `computation` is nothing that lasts.
    """

    def __init__(self, folder: Path, computation: Any):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._sha = hashlib.sha256()
        identity.add(self._sha, (_FORMAT, computation))

    def path(self, items: Any) -> Path:
        """The file of the batch of these items."""
        sha = self._sha.copy()
        identity.add(sha, items)
        return self.folder / f"{sha.hexdigest()[:32]}.npz"

    def is_empty(self) -> bool:
        """Whether nothing is kept here."""
        return next(self.folder.glob("*.npz"), None) is None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Holds every other process that does the same computation in this folder.

        The system takes the lock from a process that is killed.
        """
        if fcntl is None:
            yield
            return
        path = self.folder / f".{self._sha.hexdigest()[:12]}.lock"
        files.require_replaceable(path)  # a pipe would hold whoever opens it
        with path.open("a") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    message = f"resume: waiting for the process that computes in {self.folder}"
                    print(message, file=sys.stderr, flush=True)
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self, path: Path) -> Kept:
        """A finished batch.

        Raises:
          ValueError: if the file is damaged, or is that of another batch.
        """
        takes = "a whole result (delete the file to compute it again)"
        with (
            files.opened(path, "resume") as file,
            files.refusing("resume", f"the damaged {path}", "not whole", takes),
        ):
            arrays = Arrays(file, files.MOST, "")
            about = json.loads(str(arrays["about"]))
            leaves = [restored(arrays[f"leaf{i}"], name) for i, name in enumerate(about["dtypes"])]
            kept = Kept(leaves, about["outline"])
            if about["sha"] != _checksum(path, kept):
                raise ValueError("its values are not those that were kept under this name")
            if kept.outline is not None:
                jax.tree.unflatten(jax.tree.structure(tree_of(kept.outline)), leaves)
        return kept

    def write(self, path: Path, kept: Kept) -> None:
        """Keeps a finished batch."""
        about = {
            "outline": kept.outline,
            "dtypes": [leaf.dtype.name for leaf in kept.leaves],
            "sha": _checksum(path, kept),
        }
        named = {f"leaf{i}": storable(leaf) for i, leaf in enumerate(kept.leaves)}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, about=np.array(json.dumps(about)), **named)
        files.write_whole(path, content.getvalue())


def _checksum(path: Path, kept: Kept) -> str:
    """Of a batch's name and values: a file may be damaged, shortened, or another's by its name."""
    types = [(leaf.dtype.name, leaf.shape) for leaf in kept.leaves]
    sha = hashlib.sha256(json.dumps([path.stem, kept.outline, types]).encode())
    for leaf in kept.leaves:
        sha.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def outline(tree: Any) -> Any:
    """The dicts, lists, tuples and None around leaves, as JSON; None for other containers."""
    try:
        return _outline(tree)
    except TypeError:
        return None


def _outline(tree: Any) -> Any:
    kind = type(tree)
    if tree is None:
        return ["none"]
    if kind is dict and all(type(name) in (str, int) for name in tree):
        return ["dict", *([name, _outline(value)] for name, value in tree.items())]
    if kind in (list, tuple):
        return [kind.__name__, *map(_outline, tree)]
    if jax.tree_util.all_leaves([tree]):
        return ["leaf"]
    raise TypeError(kind)


def tree_of(outline: Any) -> Any:
    """What `outline` was made of, with 0 for each leaf."""
    kind, *parts = outline
    if kind == "none":
        return None
    if kind == "dict":
        return {name: tree_of(value) for name, value in parts}
    if kind == "leaf":
        return 0
    return {"list": list, "tuple": tuple}[kind](map(tree_of, parts))

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
import jax.numpy as jnp
import numpy as np

from jc2i.checks import invalid
from jc2i.files import write_whole
from jc2i.parallel import identity

try:
    import fcntl
except ImportError:  # not on this system: two processes may then compute the same batch twice
    fcntl = None


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
        identity.add(self._sha, computation)

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
        with (self.folder / f".{self._sha.hexdigest()[:12]}.lock").open("a") as file:
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
          ValueError: if the file is damaged.
        """
        try:
            # A file of our own: NumPy leaves the one it opened open when it is not a zip.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                leaves = [
                    file[f"leaf{i}"].view(jnp.dtype(name)) for i, name in enumerate(about["dtypes"])
                ]
        except Exception as error:
            takes = "a whole result (delete the file to compute it again)"
            raise invalid("resume", f"the damaged {path} ({error})", takes) from error
        return Kept(leaves, about["outline"])

    def write(self, path: Path, kept: Kept) -> None:
        """Keeps a finished batch."""
        about = {"outline": kept.outline, "dtypes": [leaf.dtype.name for leaf in kept.leaves]}
        named = {f"leaf{i}": _storable(leaf) for i, leaf in enumerate(kept.leaves)}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, about=np.array(json.dumps(about)), **named)
        write_whole(path, content.getvalue())


def _storable(array: np.ndarray) -> np.ndarray:
    """As NumPy's own files can hold it: of types that are not NumPy's (bfloat16), the bits."""
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


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

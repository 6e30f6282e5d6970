"""Where the results of a whole data set go: into memory, into files, or to a function."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from io import BufferedWriter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jc2i import checks, commands
from jc2i.files import naming, partial_of, require_replaceable, take_place, try_writing_in

SUFFIX = ".npy"
"""What the name of one array's file ends in; any other name is a folder's."""

WHOLE = "results"
"""What the file of a result that is one array is called in a folder."""

Given = str | os.PathLike | Callable[[np.ndarray, Any], None]
"""A file, a folder, or a function of items and their results."""


class Memory:
    """Holds the results of every batch."""

    def __init__(self) -> None:
        self._batches: list[list[np.ndarray]] = []

    def take(self, items: np.ndarray, leaves: list[np.ndarray], structure: Any) -> None:
        """Takes the next batch: its items, its arrays, and their structure."""
        del items, structure
        self._batches.append(leaves)

    def give(self, structure: Any) -> Any:
        """What the run returns."""
        columns = zip(*self._batches, strict=True)
        return jax.tree.unflatten(structure, [np.concatenate(arrays) for arrays in columns])


class Function:
    """Hands each batch on."""

    def __init__(self, function: Callable[[np.ndarray, Any], None]):
        self._function = function

    def take(self, items: np.ndarray, leaves: list[np.ndarray], structure: Any) -> None:
        """Calls the function."""
        self._function(items, jax.tree.unflatten(structure, leaves))

    def give(self, structure: Any) -> None:
        """Nothing: all has been handed on."""


class Files:
    """Writes each array of the results to a file of its own, batch behind batch.

    They take their places when they are whole. Not written through mapped memory, where a full
    disk would end the process.
    """

    def __init__(self, path: Path, length: int, stack: contextlib.ExitStack):
        self._path, self._length, self._stack = path, length, stack
        self._files: list[tuple[Path, BufferedWriter, np.dtype]] = []
        if path.suffix == SUFFIX:
            require_replaceable(path)
        try_writing_in(path.parent if path.suffix == SUFFIX else path)

    def take(self, items: np.ndarray, leaves: list[np.ndarray], structure: Any) -> None:
        """Appends a batch."""
        if not self._files:
            paths = self._paths(structure)
            self._files = [self._begun(*each) for each in zip(paths, leaves, strict=True)]
        for (path, file, _), leaf in zip(self._files, leaves, strict=True):
            with naming(path):
                file.write(leaf.tobytes())

    def give(self, structure: Any) -> Any:
        """The results as arrays that are read from the files as they are used."""
        for path, file, _ in self._files:
            with naming(path):
                file.close()
            take_place(partial_of(path), path)
        mapped = [
            np.load(path, mmap_mode="r", allow_pickle=False).view(dtype)
            for path, _, dtype in self._files
        ]
        return jax.tree.unflatten(structure, mapped)

    def _paths(self, structure: Any) -> list[Path]:
        numbered = jax.tree.unflatten(structure, range(structure.num_leaves))
        named = [name for name, _ in jax.tree.leaves_with_path(numbered)]
        if self._path.suffix == SUFFIX:
            takes = f"a folder (a name without {SUFFIX}) for results of several arrays"
            checks.require(len(named) == 1, "sink", str(self._path), takes)
            return [self._path]
        names = [jax.tree_util.keystr(keys, simple=True, separator="-") or WHOLE for keys in named]
        takes = "results of which no two have one name"
        checks.require(len(set(names)) == len(names), "sink", f"files {sorted(names)}", takes)
        return [self._path / f"{name}{SUFFIX}" for name in names]

    def _begun(self, path: Path, leaf: np.ndarray) -> tuple[Path, BufferedWriter, np.dtype]:
        require_replaceable(path)
        partial = partial_of(path)
        self._stack.enter_context(commands.unfinished(partial))
        # Of types that are not NumPy's (bfloat16) the bits.
        stored = np.dtype(f"u{leaf.itemsize}") if leaf.dtype.kind == "V" else leaf.dtype
        shape = (self._length, *leaf.shape[1:])
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = self._stack.enter_context(partial.open("wb"))
            header = {"descr": stored.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        return path, file, leaf.dtype


def nowhere(items: np.ndarray, results: Any) -> None:
    """Takes what another process of the run looks after."""


@contextlib.contextmanager
def opened(sink: Given | None, length: int) -> Iterator[Memory | Function | Files]:
    """Where results go; what was not finished is removed.

    Args:
      sink: None for memory, or as `map_batches` takes it.
      length: the number of items.
    """
    with contextlib.ExitStack() as stack:
        if sink is None:
            yield Memory()
        elif isinstance(sink, str | os.PathLike):
            yield Files(Path(checks.path("sink", sink)), length, stack)
        else:
            takes = "a file or folder, or a function of items and their results"
            checks.require(callable(sink), "sink", checks.describe(sink), takes)
            yield Function(sink)

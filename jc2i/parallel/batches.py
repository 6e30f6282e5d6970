"""A function of a batch, over a whole data set: padded, on every device, resumable."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from jc2i import checks, pytrees, streaming
from jc2i.parallel import hosts, identity, sinks
from jc2i.parallel.mesh import one_dimensional, part, replicate, shard
from jc2i.parallel.store import Kept, Store, outline, tree_of
from jc2i.precision import full_precision


def map_batches(
    function: Callable[..., Any],
    dataset: Any,
    batch_size: int,
    *,
    model: Any = None,
    key: Array | None = None,
    mesh: Mesh | None = None,
    progress: bool | str = True,
    watched: bool = False,
    resume: str | os.PathLike | None = None,
    tag: str = "",
    sink: sinks.Given | None = None,
) -> Any:
    """Applies a function of a batch to a whole data set: padded, on every device, resumable.

    Every device computes batches of one shape, however many devices there are: the data set is
    cut into batches of `batch_size`, the last filled up by repeating its last item (the surplus
    results are dropped). A mesh takes several batches at once, side by side in arrays that are
    split over it. Of its devices as many are used as give the same number of rounds: none computes
    only what is dropped.

    Args:
      function: `function(*batch)`, with `model` before the batch where one is given and `keys`
        behind it where a key is, returning a pytree of arrays with the batch as leading axis;
        `keys` holds `fold_in(key, i)` for item i of the data set, so that no result depends on the
        batch that held it.
      dataset: an array, a tuple of arrays with one leading axis, or an object with `len` whose
        indexing by an array of indices gives such a tuple (a `jc2i.data` data set).
      batch_size: items a batch, of one device; where there are fewer items, their number.
      model: a pytree of arrays (weights, a score) that is copied once to every device. What
        `function` closes over is copied at each call, unless it is on the whole mesh already.
      key: the data set's key, for functions that need randomness.
      mesh: compute on these devices; None for the default device.
      progress: whether to show a progress bar with the time left, on standard error; a string
        names it.
      watched: whether the bar moves within a batch too, with the steps of the method that
        `function` calls, and says what time all will take once the first are done. JAX's
        persistent cache does not keep such a program: for what takes longer than to compile.
      resume: a folder that keeps each finished batch, so that a run killed at any moment goes on
        where it stopped, on as many devices as there are then, and a run over more items uses the
        batches there are; None keeps nothing. A batch is called by all that it depends on: its
        items, the model, the key, the function and the versions of the code. So several
        computations may share a folder; of two processes with the same one, one waits.
      tag: what the function is known by, in place of its code and all that it closes over, where
        those are too much or cannot be told. See `digest`.
      sink: where results go, for more than memory holds. A file `*.npy`, for results of one array,
        or a folder, for a file `*.npy` of each array: they appear when they are whole, so that a
        run that may be killed needs `resume` besides. Or a function that takes the indices of the
        items of one batch and their results, and is called with one batch after the other, in
        order. None holds all results in memory.

    Returns:
      The pytree of results for the whole data set as NumPy arrays: those of files are read from
      them as they are used. Nothing for a function. Of several processes the first alone keeps
      batches, writes files or calls the function, and has what is in the files.

    Raises:
      ValueError: for an empty data set, a result without the batch as leading axis, a damaged file
        in the `resume` folder, a function that needs a tag, or a sink that is one file for several
        arrays.
      OSError: a file cannot be written; it is named.
    """
    checks.require(callable(function), "function", checks.describe(function), "a function")
    batch_size = checks.whole("batch_size", batch_size, most=2**31 - 1)
    key = None if key is None else checks.key("key", key, "one jax.random.key, or None")
    mesh = None if mesh is None else one_dimensional(mesh)
    if not isinstance(progress, str):
        progress = checks.flag("progress", progress)
    watched = checks.flag("watched", watched)
    folder = None if resume is None else Path(checks.path("resume", resume))
    checks.require(isinstance(tag, str), "tag", checks.describe(tag), "a text")
    fetch, length = _indexing(dataset)
    size = min(batch_size, length)
    batches = [  # the last is filled up with its last item
        np.minimum(np.arange(start, start + size), length - 1) for start in range(0, length, size)
    ]
    several = mesh is not None and mesh.is_multi_process
    # The processes of one run compute together. The first alone keeps batches and fills the sink,
    # and it holds the lock for all of them.
    first = hosts.is_first() or not several
    store = None
    if folder is not None and first:
        store = _store(folder, function, tag, (model, key, size))
    with (
        store.alone() if store else contextlib.nullcontext(),
        full_precision(),
        sinks.opened(sink if first or sink is None else sinks.nowhere, length) as results,
    ):
        kept = _finished(store, batches, fetch) if store else {}
        if several and resume is not None:
            kept = _known_to_all(kept)
        missing = [number for number in range(len(batches)) if number not in kept]
        mesh = _fitting(mesh, len(missing), function)
        together = 1 if mesh is None else mesh.size
        if model is not None and mesh is not None:
            model = replicate(model, mesh)

        def compute(items: np.ndarray, batch: tuple) -> Any:
            if key is not None:
                batch = (*batch, jax.vmap(jax.random.fold_in, (None, 0))(key, items))
            if mesh is not None:
                batch = shard(batch, mesh)
            return function(*batch) if model is None else function(model, *batch)

        def compute_together(numbers: list[int]) -> tuple[list[Kept], Any]:
            """As many batches as the mesh has devices, and the structure of their results."""
            filled = numbers + numbers[-1:] * (together - len(numbers))
            items = np.concatenate([batches[number] for number in filled])
            # What is kept is called by what all of it is made of.
            batch = fetch(items) if store else hosts.own_part(fetch, items, mesh)
            with during(len(numbers)):
                result = compute(items, batch)
                leaves, structure = pytrees.flattened("function", result)
                leaves = [_on_host(leaf, len(items)) for leaf in leaves]
            computed = []
            for place, number in enumerate(numbers):
                begin, count = place * size, min(size, length - number * size)
                own = [leaf[begin : begin + count] for leaf in leaves]
                computed.append(Kept(own, outline(result)))
                if store:
                    inputs = tuple(array[begin : begin + size] for array in batch)
                    store.write(store.path((batches[number], inputs)), computed[-1])
            return computed, structure

        structure = None
        waiting: list[Kept] = []  # computed, and yet to be taken: in the order of the data set
        arrays = None
        with _progress(progress, len(batches), len(kept), watched) as during:
            for number, items in enumerate(batches):
                if number in kept:
                    batch = _read(store, kept[number], several)
                    if structure is None:
                        structure = _structure(batch, lambda i=items: compute(i, fetch(i)))
                else:
                    if not waiting:
                        waiting, structure = compute_together(missing[:together])
                        missing = missing[together:]
                    batch = waiting.pop(0)
                arrays = len(batch.leaves) if arrays is None else arrays
                got = f"{tag!r}, with results of several structures"
                takes = "another tag for another function"
                checks.require(arrays == len(batch.leaves), "tag", got, takes)
                begin = number * size
                results.take(np.arange(begin, min(begin + size, length)), batch.leaves, structure)
        return results.give(structure)


def _indexing(dataset: Any) -> tuple[Callable[[np.ndarray], tuple], int]:
    takes = "an array, a tuple of arrays, or an object with len that indices give tuples of"
    if isinstance(dataset, jax.Array | np.ndarray):
        dataset = (dataset,)
    checks.require(not isinstance(dataset, list), "dataset", "a list", takes)
    if isinstance(dataset, tuple):
        for entry in dataset:
            is_array = checks.is_array(entry) and entry.ndim > 0
            checks.require(is_array, "dataset", f"a tuple with {checks.describe(entry)}", takes)
            checks.require_concrete("dataset", entry, takes)
        checks.require(len(dataset) > 0, "dataset", "an empty tuple", takes)
        lengths = {len(array) for array in dataset}
        one = len(lengths) == 1
        checks.require(one, "dataset", f"lengths {sorted(lengths)}", "arrays of one length")
        arrays, length = dataset, lengths.pop()

        def fetch(index: np.ndarray) -> tuple:
            return tuple(array[index] for array in arrays)
    else:
        has = hasattr(type(dataset), "__len__") and hasattr(type(dataset), "__getitem__")
        by_index = has and not isinstance(dataset, str | bytes | Mapping)
        checks.require(by_index, "dataset", checks.describe(dataset), takes)
        try:
            length = len(dataset)
        except Exception:  # of a class of enumerated numbers, say
            raise checks.invalid("dataset", checks.describe(dataset), takes) from None

        def fetch(index: np.ndarray) -> tuple:
            try:
                items = dataset[index]
            except TypeError as error:
                got = f"one that an array of indices cannot index ({error})"
                raise checks.invalid("dataset", got, takes) from error
            entries = items if isinstance(items, list | tuple) else ()
            fits = len(entries) > 0 and all(
                isinstance(entry, jax.Array | np.ndarray) and entry.shape[:1] == index.shape
                for entry in entries
            )
            got = f"one that gives {checks.describe(items)} for {len(index)} indices"
            checks.require(fits, "dataset", got, takes)
            return tuple(entries)

    checks.require(length > 0, "dataset", "no items", "at least one")
    return fetch, length


def _store(folder: Path, function: Callable, tag: str, others: tuple) -> Store:
    """The kept results of a function, which is known by its tag or else by its code."""
    if not tag:
        unknown = [x for x in identity.parts(function) if isinstance(x, identity.Unknown)]
        got = f"a function that depends on {unknown[0].what}" if unknown else ""
        checks.require(not unknown, "resume", got, "tag= with what its results depend on")
    settings = [getattr(jax.config, name) for name in _SETTINGS]
    return Store(folder, (tag or function, *others, jax.__version__, settings))


_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision")
"""JAX's settings that numbers depend on."""


def _finished(store: Store, batches: list, fetch: Callable) -> dict[int, Path | None]:
    """The files of the batches that are kept."""
    if store.is_empty():
        return {}  # nothing is decoded only to be called by a name
    paths = [store.path((index, fetch(index))) for index in batches]
    return {number: path for number, path in enumerate(paths) if path.exists()}


def _known_to_all(kept: dict[int, Path | None]) -> dict[int, Path | None]:
    """What the first process has kept: which batches, to the others."""
    numbers = json.loads(hosts.of_first(json.dumps(list(kept)).encode()))
    return {number: kept.get(number) for number in numbers}


def _read(store: Store | None, path: Path | None, several: bool) -> Kept:
    """A kept batch, which every process of a run is given by the first."""
    kept = store.read(path) if store and path else Kept([], None)
    if not several:
        return kept
    types = [(leaf.dtype.name, leaf.shape) for leaf in kept.leaves]
    about = json.loads(hosts.of_first(json.dumps([kept.outline, types]).encode()))
    contents = [np.ascontiguousarray(leaf).tobytes() for leaf in kept.leaves]
    contents = iter(contents if hosts.is_first() else [b""] * len(about[1]))
    leaves = [
        np.frombuffer(hosts.of_first(next(contents)), jnp.dtype(name)).reshape(shape)
        for name, shape in about[1]
    ]
    return Kept(leaves, about[0])


def _fitting(mesh: Mesh | None, batches: int, function: Callable) -> Mesh | None:
    """As many devices of a mesh as give the same number of rounds."""
    if mesh is None or mesh.is_multi_process:
        return mesh
    held = (x for x in identity.parts(function) if isinstance(x, jax.Array))
    if any(len(array.sharding.device_set) > 1 for array in held):
        return mesh  # what is on all its devices cannot meet what is on some of them
    rounds = max(1, -(-batches // mesh.size))
    return part(mesh, max(1, -(-batches // rounds)))


def _on_host(leaf: Any, items: int) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        from jax.experimental import multihost_utils

        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    array = np.asarray(leaf)
    takes = f"one that returns arrays[batch, ...] of numbers for its {items} items"
    by_item = array.ndim > 0 and len(array) == items
    by_item = by_item and checks.holds(array, *checks.KINDS.values())
    checks.require(by_item, "function", f"one that returns {checks.describe(array)}", takes)
    return array


def _structure(kept: Kept, compute: Callable[[], Any]) -> Any:
    """The structure of results that are all kept.

    Of a class of the caller's nothing is made from a file: where there is one, the function says
    which, traced if it can be.
    """
    if kept.outline is not None:
        return jax.tree.structure(tree_of(kept.outline))
    try:
        return jax.tree.structure(jax.eval_shape(compute))
    except Exception:  # a function of NumPy's, say
        return jax.tree.structure(compute())


@contextlib.contextmanager
def _progress(
    progress: bool | str, total: int, done: int, watched: bool
) -> Iterator[Callable[[int], AbstractContextManager]]:
    """A bar over batches: gives a context in which so many of them are computed."""
    if not progress or jax.process_index() != 0:
        yield lambda count: contextlib.nullcontext()
        return
    from rich import progress as bar
    from rich.console import Console

    name = "batches" if progress is True else progress
    columns = (
        bar.TextColumn("{task.description}", markup=False),
        bar.BarColumn(),
        bar.TaskProgressColumn(),
        bar.MofNCompleteColumn(),
        bar.TimeElapsedColumn(),
        bar.TextColumn("left"),
        bar.TimeRemainingColumn(),
    )
    # What goes to standard output stays there, if that is no terminal that the bar is on too.
    console = Console(stderr=True)
    with bar.Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as shown:
        task = shown.add_task(name, total=total, completed=done)
        started, said = None, False

        @contextlib.contextmanager
        def during(count: int) -> Iterator[None]:
            before = shown.tasks[0].completed

            def report(share: float) -> None:
                nonlocal started, said
                shown.update(task, completed=before + share * count)
                started = started or time.monotonic()  # when the first step begins: all is compiled
                if share and not said:
                    said = True
                    seconds = (time.monotonic() - started) / share * (total - before) / count
                    expected = datetime.timedelta(seconds=max(1, round(seconds)))
                    shown.console.print(f"{name}: about {expected} in all", highlight=False)

            # The processes of one run compile one program.
            tell = watched and jax.process_count() == 1
            with streaming.watched(report) if tell else contextlib.nullcontext():
                yield
            shown.update(task, completed=before + count)

        yield during

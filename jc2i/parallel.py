"""Batches over devices and hosts: the only place that knows where a computation runs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jc2i import checks
from jc2i.files import write_whole

AXIS = "batch"
SAMPLED = 64
"""Items, evenly spaced, that stand for a data set whose items are decoded one by one."""


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over devices, along which batches are split.

    Args:
      devices: the devices; None for all of them, on every host.

    Returns:
      A mesh with the one axis `"batch"`.

    Raises:
      ValueError: if there are no devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    checks.require(len(devices) > 0, "devices", "none", "at least one device")
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def shard(arrays: Any, mesh: Mesh) -> Any:
    """Splits the leading axis of each array over the devices of a mesh.

    Every process passes the whole batch and keeps the part of its own devices.

    Args:
      arrays: a pytree of arrays whose leading axis the mesh's size divides.
      mesh: the mesh, from `mesh()`.

    Returns:
      The same arrays, sharded.

    Raises:
      ValueError: if the mesh's size does not divide a leading axis.
    """
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def place(array: Any) -> jax.Array:
        if array.shape[0] % mesh.size:
            takes = f"a multiple of the mesh's {mesh.size} devices"
            raise checks.invalid("arrays", f"a leading axis of {array.shape[0]}", takes)
        if not jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = np.asarray(array)
            return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])
        return jax.random.wrap_key_data(
            place(jax.random.key_data(array)), impl=jax.random.key_impl(array)
        )

    return jax.tree.map(place, arrays)


def replicate(arrays: Any, mesh: Mesh) -> Any:
    """Puts a whole copy of each array (a model's weights, say) on every device of a mesh.

    Args:
      arrays: a pytree of arrays, a model for example.
      mesh: the mesh, from `mesh()`.

    Returns:
      The same pytree, replicated.
    """
    return jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))


def map_batches(
    function: Callable[..., Any],
    dataset: Any,
    batch_size: int,
    *,
    key: Array | None = None,
    mesh: Mesh | None = None,
    progress: bool | str = True,
    resume: str | os.PathLike | None = None,
    tag: str = "",
) -> Any:
    """Applies a function of a batch to a whole data set: padded, sharded, resumable.

    Every batch has the same shape: the last is filled up by repeating its last item, and the
    surplus results are dropped. Only one batch is on the device at a time.

    Args:
      function: `function(*batch)`, or `function(*batch, keys)` where a key is given, returning a
        pytree of arrays with the batch as leading axis; `keys` holds `fold_in(key, i)` for item i
        of the data set, so that no result depends on the batch that held it.
      dataset: a tuple of arrays with one leading axis, or an object with `len` whose indexing by
        an array of indices gives such a tuple (a `jc2i.data` data set).
      batch_size: items a batch, over all devices.
      key: the data set's key, for functions that need randomness.
      mesh: split batches over these devices; None leaves them on the default device.
      progress: whether to show a progress bar with the time left; a string names it.
      resume: a folder that keeps each finished batch, so that a run killed at any moment goes on
        where it stopped; None keeps nothing.
      tag: what distinguishes this computation from others (options, weights): part of what must
        be equal for `resume` to be used.

    Returns:
      The pytree of results for the whole data set as NumPy arrays.

    Raises:
      ValueError: for an empty data set, a batch size the mesh does not divide, or a `resume`
        folder that holds another computation or a damaged result.
    """
    checks.positive(batch_size=batch_size)
    fetch, length = _indexing(dataset)
    if mesh is not None and batch_size % mesh.size:
        takes = f"a multiple of the mesh's {mesh.size} devices"
        raise checks.invalid("batch_size", batch_size, takes)
    starts = range(0, length, batch_size)
    store = None
    if resume is not None:
        store = _Store(Path(resume), _fingerprint(dataset, fetch, length, batch_size, key, tag))
    finished = _finished(store, starts, mesh)

    def compute(start: int) -> Any:
        index = np.minimum(np.arange(start, start + batch_size), length - 1)
        batch = fetch(index)
        if key is not None:
            batch = (*batch, jax.vmap(jax.random.fold_in, (None, 0))(key, index))
        if mesh is not None:
            batch = shard(batch, mesh)
        keep = min(batch_size, length - start)
        return jax.tree.map(lambda x: _to_host(x)[:keep], function(*batch))

    parts = []
    with _progress(progress, len(starts)) as advance:
        for start in starts:
            if store and start in finished:
                part = store.read(start)
            else:
                part = compute(start)
                if store:
                    store.write(start, part)
            parts.append(part)
            advance()
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def digest(*values: Any) -> str:
    """A short name for what a computation depends on, for the `tag` of `map_batches`.

    Args:
      *values: words, numbers, and pytrees of arrays (of a model or calibrator, the weights).

    Returns:
      Twelve hexadecimal digits of a SHA-256.
    """
    sha = hashlib.sha256()
    for value in values:
        for leaf in jax.tree.leaves(value) if not isinstance(value, str) else [value]:
            if isinstance(leaf, jax.Array | np.ndarray):
                _add(sha, leaf)
            else:
                sha.update(json.dumps(leaf, default=str).encode())
    return sha.hexdigest()[:12]


def _indexing(dataset: Any) -> tuple[Callable[[np.ndarray], tuple], int]:
    if isinstance(dataset, tuple | list):
        lengths = {len(array) for array in dataset}
        checks.require(
            len(lengths) == 1, "dataset", f"lengths {sorted(lengths)}", "arrays of one length"
        )
        arrays, length = tuple(dataset), lengths.pop()

        def fetch(index: np.ndarray) -> tuple:
            return tuple(array[index] for array in arrays)
    else:
        length = len(dataset)

        def fetch(index: np.ndarray) -> tuple:
            return tuple(dataset[index])

    checks.require(length > 0, "dataset", "no items", "at least one")
    return fetch, length


def _fingerprint(
    dataset: Any, fetch: Callable, length: int, batch_size: int, key: Any, tag: str
) -> str:
    """What a stored batch depends on: the options, the key and the data.

    Arrays are hashed whole. Of a data set that decodes its items a sample is: a bounded cost.
    """
    digest = hashlib.sha256(json.dumps([length, batch_size, tag]).encode())
    in_memory = isinstance(dataset, tuple | list)
    sample = np.unique(np.linspace(0, length - 1, SAMPLED).astype(int))
    leaves = jax.tree.leaves(dataset if in_memory else fetch(sample))
    for array in leaves if key is None else [*leaves, key]:
        _add(digest, array)
    return digest.hexdigest()


def _add(digest: Any, array: Any) -> None:
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.ascontiguousarray(array)
    digest.update(f"{array.dtype}{array.shape}".encode())
    digest.update(array.tobytes())


def _finished(store: _Store | None, starts: Sequence[int], mesh: Mesh | None) -> set[int]:
    """The batches kept by every process, so that all agree on which ones to compute together."""
    if store is None:
        return set()
    kept = np.array([store.holds(start) for start in starts])
    if mesh is not None and mesh.is_multi_process:
        from jax.experimental import multihost_utils

        kept = np.all(np.asarray(multihost_utils.process_allgather(kept)), axis=0)
    return {starts[int(i)] for i in np.flatnonzero(kept)}


def _to_host(array: checks.Array) -> np.ndarray:
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


@contextlib.contextmanager
def _progress(progress: bool | str, total: int) -> Iterator[Callable[[], None]]:
    if not progress or jax.process_index() != 0:
        yield lambda: None
        return
    from rich import progress as bar

    columns = (
        bar.TextColumn("{task.description}"),
        bar.BarColumn(),
        bar.MofNCompleteColumn(),
        bar.TimeElapsedColumn(),
        bar.TextColumn("left"),
        bar.TimeRemainingColumn(),
    )
    with bar.Progress(*columns) as shown:
        task = shown.add_task("batches" if progress is True else progress, total=total)
        yield lambda: shown.advance(task)


class _Store:
    """Finished batches in a folder: one file each, complete or absent."""

    def __init__(self, folder: Path, fingerprint: str):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / "manifest.json"
        if not manifest.exists():
            write_whole(manifest, json.dumps({"fingerprint": fingerprint}).encode())
            return
        try:
            stored = json.loads(manifest.read_text())["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            takes = "a folder of finished batches (delete it to compute them again)"
            raise checks.invalid("resume", f"the damaged {manifest}", takes) from error
        if stored != fingerprint:
            takes = "a folder of the same data, batch size, key and tag, or an empty one"
            raise checks.invalid("resume", f"{folder}, which holds another run", takes)

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:09d}-of-{jax.process_count()}-{jax.process_index()}.npz"

    def holds(self, start: int) -> bool:
        return self._path(start).exists()

    def read(self, start: int) -> Any:
        path = self._path(start)
        try:
            # A file of our own: NumPy leaves the one it opened open when it is not a zip.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                leaves = [file[f"leaf{i}"] for i in range(len(file.files) - 1)]
                structure = str(file["structure"])
        except Exception as error:
            takes = "a whole result (delete the file to compute it again)"
            raise checks.invalid("resume", f"the damaged {path} ({error})", takes) from error
        return _rebuild(json.loads(structure), iter(leaves))

    def write(self, start: int, part: Any) -> None:
        leaves: list[np.ndarray] = []
        structure = json.dumps(_outline(part, leaves))
        content = io.BytesIO()
        named = {f"leaf{i}": leaf for i, leaf in enumerate(leaves)}
        np.savez(content, allow_pickle=False, structure=np.array(structure), **named)
        write_whole(self._path(start), content.getvalue())


def _outline(tree: Any, leaves: list[np.ndarray]) -> Any:
    """Dicts, lists and tuples as JSON, arrays moved to the list of leaves."""
    if isinstance(tree, dict):
        return {"dict": {name: _outline(value, leaves) for name, value in tree.items()}}
    if isinstance(tree, tuple | list):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [_outline(value, leaves) for value in tree]}
    leaves.append(np.asarray(tree))
    return "leaf"


def _rebuild(outline: Any, leaves: Iterator[np.ndarray]) -> Any:
    if outline == "leaf":
        return next(leaves)
    if "dict" in outline:
        return {name: _rebuild(value, leaves) for name, value in outline["dict"].items()}
    if "tuple" in outline:
        return tuple(_rebuild(value, leaves) for value in outline["tuple"])
    return [_rebuild(value, leaves) for value in outline["list"]]

"""One process of several, or a process that is killed: run by test_batches.py.

python process.py killed FOLDER CALLS
python process.py slow FOLDER OUT
python process.py digests
python process.py one_of_two FOLDER
python process.py lost FOLDER
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jc2i
from jc2i import commands, explainers, metrics, parallel

COUNT = 11


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense:
    """Class scores tanh(x A) B."""

    hidden: jax.Array
    output: jax.Array

    def __call__(self, images):
        return jnp.tanh(images.reshape(len(images), -1) @ self.hidden) @ self.output


def key():
    """Made when asked for: a process must join the others before its first array."""
    return jax.random.PRNGKey(3)


def subject():
    """A model and a data set of images and targets."""
    random = np.random.default_rng(0)
    hidden, output = random.normal(size=(48, 6)) * 0.3, random.normal(size=(6, 3))
    images = random.random((COUNT, 6, 4, 2)).astype("f4")
    return Dense(jnp.float32(hidden), jnp.float32(output)), (images, np.arange(COUNT) % 3)


def explain(model, images, targets, keys):
    """A gradient, a perturbation and a metric of each image."""
    maps = explainers.sensitivity(model, images, targets)
    return {
        "sensitivity": maps,
        "rise": explainers.rise(model, images, targets, key=keys, masks=20, grid=3),
        "deletion": metrics.deletion_curve(model, images, targets, maps, steps=6, baseline=0.0),
    }


def explained(mesh=None, dataset=None, **options):
    model, whole = subject()
    dataset = whole if dataset is None else dataset
    return parallel.map_batches(
        explain, dataset, 2, model=model, key=key(), mesh=mesh, progress=False, **options
    )


class Indexed:
    """The data set, which remembers what was asked of it."""

    def __init__(self):
        self.arrays, self.asked = subject()[1], []

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        self.asked.extend(index.tolist())
        return tuple(array[index] for array in self.arrays)


def noise(images, targets, keys):
    """A result that depends on each item and its key."""
    draw = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    return {"sum": images.sum((1, 2, 3)) + targets, "draws": (draw, [draw > 0])}


def killed(folder: str, calls: str) -> None:
    left = int(calls)

    def dies(*batch):
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return noise(*batch)

    parallel.map_batches(
        dies, subject()[1], 4, key=key(), progress=False, resume=folder, tag="noise"
    )


def slow(folder: str, out: str) -> None:
    """Says when it starts to compute; once the second is there, takes a second a batch."""
    computed = []

    def waits(*batch):
        Path(out).with_suffix(".started").touch()
        while not Path(out).with_name("second.there").exists():
            time.sleep(0.01)
        computed.append(1)
        time.sleep(1)
        return noise(*batch)

    Path(out).with_suffix(".there").touch()
    result = parallel.map_batches(
        waits, subject()[1], 4, key=key(), progress=False, resume=folder, tag="noise"
    )
    np.savez(out, sum=result["sum"], computed=len(computed))


def identified():
    """Values of every kind, whose digests are the same in every process."""
    model, _ = subject()
    table = np.arange(3.0)

    def closure(images, words=frozenset({"one", "two", "three"})):
        return images.sum() + table if images.shape in {(1,), (2,)} else words

    return {
        "model": jc2i.probabilities(model),
        "set": {"one", "two", "three"},
        "closure": closure,
        "partial": functools.partial(explainers.rise, masks=4),
        "jitted": jax.jit(closure),
        "network": jc2i.models.create("small", classes=2, key=jax.random.key(0), size=8),
        "optimizer": optax.adam(0.1),
        "class": Dense,
    }


def digests() -> None:
    print(json.dumps({name: parallel.digest(value) for name, value in identified().items()}))


def one_of_two(folder: str) -> None:
    with parallel.together():
        process, out, mesh = jax.process_index(), Path(folder), parallel.mesh()
        assert mesh.size == 4 and mesh.is_multi_process
        assert parallel.of_first(f"from {process}".encode()) == b"from 0"
        assert parallel.of_first(b"") == b""
        dataset = Indexed()
        alone = explained(mesh, dataset)
        # Six batches in two rounds of four devices, of which the last has two to spare.
        own = ([0, 1, 2, 3, 8, 9, 10, 10], [4, 5, 6, 7, *[10] * 4])[process]
        assert dataset.asked == own, dataset.asked
        kept, sink = out / f"kept{process}", out / f"sink{process}"  # each on a disk of its own
        first = explained(mesh, resume=kept)
        # As if the run had been killed before its second batch was kept.
        if process == 0:
            sorted(kept.glob("*.npz"))[1].unlink()
        second, third = explained(mesh, resume=kept), explained(mesh, resume=kept, sink=sink)
        assert (third is None) == (process == 1)
        for other in (first, second, alone if third is None else third):
            jax.tree.map(np.testing.assert_array_equal, alone, other)
        assert kept.exists() == sink.exists() == (process == 0)
        np.savez(out / f"process{process}.npz", allow_pickle=False, **alone)


def lost(folder: str) -> None:
    """The second process dies in its second round; the first says so."""

    def slow(values):
        if jax.process_index() == 1 and values.sharding and len(list(Path(folder).iterdir())) > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return values

    def work():
        with parallel.together():
            parallel.map_batches(
                slow,
                np.arange(16.0),
                2,
                mesh=parallel.mesh(),
                progress=False,
                resume=folder,
                tag="x",
            )

    commands.run(work)


if __name__ == "__main__":
    parts = {f.__name__: f for f in (killed, slow, digests, one_of_two, lost)}
    parts[sys.argv[1]](*sys.argv[2:])

"""The results of every method of the registry, of one process or as one of two.

python -m tests.contract.process OUT DEVICES [METHOD ...]

On so many devices of each process, each of which computes one image at a time. The first process
writes them, by method, to OUT, an .npz file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conftest import ConvNet, Transformer  # before JAX: it chooses the devices

# isort: split
import jax
import numpy as np

from jc2i import parallel

from .conftest import METHODS, made


def results(case, mesh):
    """A method's results, one image on each device at a time."""
    names = list(case.by_image)

    def compute(score, *batch):
        *arrays, keys = batch
        keys = {"key": keys} if case.method.stochastic else {}
        return case(score=score, **dict(zip(names, arrays, strict=True)), **keys)

    arrays = tuple(case.by_image.values())
    options = {"model": case.score, "key": jax.random.key(2), "mesh": mesh, "progress": False}
    return parallel.map_batches(compute, arrays, 1, **options)


def main(out: str, devices: str, *names: str) -> None:
    by_process = [
        [device for device in jax.devices() if device.process_index == process]
        for process in range(jax.process_count())
    ]
    mesh = parallel.mesh([d for own in by_process for d in own[: int(devices)]])
    convnet, transformer = ConvNet.random(), Transformer.random()
    found = {}
    for name in names or sorted(METHODS):
        found[name] = results(made(name, convnet, transformer), mesh)
        print(name, flush=True)
    if parallel.is_first():
        np.savez(Path(out), allow_pickle=False, **found)


if __name__ == "__main__":
    import os

    with parallel.together("JAX_NUM_PROCESSES" in os.environ):
        main(*sys.argv[1:])

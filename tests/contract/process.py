"""The results of every method of the registry, of one process or as one of several.

python -m tests.contract.process OUT DEVICES

On so many devices of each process, each of which computes one image at a time. The first process
writes them, by method, to OUT, an .npz file.
"""

from __future__ import annotations

import os
import sys

from tests.conftest import ConvNet, Transformer  # before JAX: it chooses the devices

# isort: split
import jax
import numpy as np

from jc2i import parallel

from .conftest import METHODS, by_image, made


def main(out: str, devices: str) -> None:
    by_process: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    mesh = parallel.mesh([d for own in by_process.values() for d in own[: int(devices)]])
    models = ConvNet.random(), Transformer.random()
    found = {name: by_image(made(name, *models), mesh) for name in sorted(METHODS)}
    if parallel.is_first():
        np.savez(out, allow_pickle=False, **found)


if __name__ == "__main__":
    with parallel.together("JAX_NUM_PROCESSES" in os.environ):
        main(*sys.argv[1:])

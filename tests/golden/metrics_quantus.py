"""Makes metrics_quantus.npz: AOPC and max-sensitivity by Quantus 0.6.0, on a linear softmax model.

Run from the root of the repository: `python tests/golden/metrics_quantus.py` with quantus, torch
and scikit-image installed. The noise that Quantus drew is kept beside its result.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import quantus
import torch

SHAPE = (3, 11, 13)
"""Neither side is a multiple of the patches' 4 pixels."""


def main() -> None:
    random = np.random.default_rng(0)
    images = random.uniform(0, 1, (4, *SHAPE)).astype("f4")
    images[:, 0, 0, 0] = 0  # the darkest value, which Quantus calls black
    weights = random.normal(size=(np.prod(SHAPE), 5)).astype("f4") / 4
    targets = np.array([0, 1, 4, 2])
    maps = random.normal(size=(4, 1, *SHAPE[1:])).astype("f4")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(len(weights), 5, bias=False))
    model[1].weight.data = torch.tensor(weights.T)
    model.eval()
    quiet = {"disable_warnings": True, "display_progressbar": False}

    def regions(count: int) -> np.ndarray:
        metric = quantus.RegionPerturbation(
            patch_size=4, regions_evaluation=count, normalise=False, **quiet
        )
        return np.array(metric(model, images, targets, a_batch=maps, softmax=True))

    drawn = []
    uniform = np.random.uniform

    def recorded(**options: object) -> np.ndarray:
        drawn.append(uniform(**options).astype("f4"))
        return drawn[-1]

    def product(model: object, inputs: np.ndarray, targets: np.ndarray, **_: object) -> np.ndarray:
        """A map that is not linear in the image: pixels squared times the target's weights."""
        chosen = weights.T[targets].reshape(len(inputs), *SHAPE)
        return (inputs**2 * chosen).sum(axis=1, keepdims=True)

    sensitivity = quantus.MaxSensitivity(nr_samples=10, lower_bound=0.2, **quiet)
    with mock.patch("numpy.random.uniform", recorded):
        largest = sensitivity(model, images, targets, explain_func=product)
    noise = np.stack(drawn, axis=1).reshape(4, 10, *SHAPE)
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"),
        allow_pickle=False,
        images=np.moveaxis(images, 1, -1),
        weights=np.moveaxis(weights.reshape(*SHAPE, 5), 0, 2),
        targets=targets,
        maps=maps[:, 0],
        regions_6=regions(6),
        regions_100=regions(100),
        noise=np.moveaxis(noise, 2, -1),
        max_sensitivity=np.array(largest),
    )


if __name__ == "__main__":
    main()

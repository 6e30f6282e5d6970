"""Makes metrics_mu_fidelity_quantus.npz: Quantus 0.6.0's FaithfulnessCorrelation on grey images.

Run from the root of the repository: `python tests/golden/metrics_mu_fidelity_quantus.py` with
quantus and torch installed. Quantus draws its subsets at random: 20,000 of them, so that its
correlations are within a few hundredths of those over all subsets. Images are grey, as it draws
from channels and pixels together.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import quantus
import torch

SIDE, SUBSET = 6, 5
"""Pixels a side, and pixels of a subset: about 15 %."""


def main() -> None:
    random = np.random.default_rng(0)
    np.random.seed(0)  # Quantus draws from the global generator
    images = random.uniform(0, 1, (4, 1, SIDE, SIDE)).astype("f4")
    first = random.normal(size=(SIDE * SIDE, 16)).astype("f4") / 2
    second = random.normal(size=(16, 3)).astype("f4")
    targets = np.array([0, 1, 2, 0])
    model = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(len(first), 16, bias=False),
        torch.nn.Tanh(),
        torch.nn.Linear(16, 3, bias=False),
    )
    model[1].weight.data, model[3].weight.data = torch.tensor(first.T), torch.tensor(second.T)
    model.eval()
    inputs = torch.tensor(images, requires_grad=True)
    scores = model(inputs)[range(4), targets].sum()
    (gradient,) = torch.autograd.grad(scores, inputs)
    products = images * gradient.numpy()
    noise = random.normal(size=products.shape).astype("f4") * products.std()
    # From a faithful map to one that is nearly noise.
    maps = products + np.array([0.1, 0.5, 1, 3], "f4")[:, None, None, None] * noise
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=20_000,
        subset_size=SUBSET,
        perturb_baseline=0.0,
        similarity_func=quantus.similarity_func.correlation_pearson,
        normalise=False,
        return_aggregate=False,
        disable_warnings=True,
    )
    found = metric(model, images, targets, a_batch=maps, softmax=False)
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"),
        allow_pickle=False,
        images=np.moveaxis(images, 1, -1),
        first=first,
        second=second,
        targets=targets,
        maps=maps[:, 0],
        subset_size=np.array(SUBSET),
        correlation=np.array(found, "f4"),
    )


if __name__ == "__main__":
    main()

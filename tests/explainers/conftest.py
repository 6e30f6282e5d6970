from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "explainers_captum.npz"


@pytest.fixture(scope="session")
def captum():
    """The arrays of golden/explainers_captum.py by name."""
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="session")
def explained(captum, convnet):
    """A maker of a network, images and targets that Captum explained, and its values by name."""

    def explained(activation):
        network = convnet(activation)
        network = type(network)({name: captum[name] for name in network.weights}, activation)
        values = {
            name.removeprefix(f"{activation}/"): value
            for name, value in captum.items()
            if name.startswith(f"{activation}/")
        }
        return network, captum["images"], captum["targets"], values

    return explained

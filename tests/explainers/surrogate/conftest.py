from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[2] / "golden" / "explainers_surrogate.npz"


@pytest.fixture(scope="session")
def published():
    """The arrays of golden/explainers_surrogate.py by name."""
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).uniform(size=(3, 8, 9, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def segments():
    """Eight regions of each image, of any shape, size and code."""
    random = np.random.default_rng(2)
    codes = np.array([-7, 0, 1, 2, 63, 64, 100, 2_000_000])
    drawn = random.integers(0, 8, (3, 8, 9))
    drawn[:, 0, :8] = np.arange(8)
    return codes[drawn].astype(np.int32)


def by_region(values, segments):
    """The value that all pixels of a region have, [batch, regions] in the order of the codes."""
    found = []
    for map_, regions in zip(np.asarray(values), segments, strict=True):
        parts = [map_[regions == code] for code in np.unique(regions)]
        assert all((part == part[0]).all() for part in parts)
        found.append([part[0] for part in parts])
    return np.array(found)


def variants(image, segments, shown, hidden):
    """An image with some of its regions hidden, by a plain loop."""
    result = []
    for row in shown:
        variant = image.copy()
        for code, visible in zip(np.unique(segments), row, strict=True):
            if not visible:
                variant[segments == code] = hidden[segments == code]
        result.append(variant)
    return np.stack(result)

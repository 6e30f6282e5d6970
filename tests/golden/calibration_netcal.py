"""Makes calibration_netcal.npz: binned calibration errors by netcal 1.4.0 (`pip install netcal`).

Run from the root of the repository: `python tests/golden/calibration_netcal.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from netcal.metrics import ECE, MCE


def main() -> None:
    random = np.random.default_rng(0)
    logits = 3 * random.normal(size=(600, 4))
    labels = np.argmax(logits / 2 + random.gumbel(size=logits.shape), axis=1)
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    errors = {
        f"{name}_{estimator}_{bins}": np.asarray(
            metric(bins, equal_intervals=equal).measure(probabilities, labels)
        )
        for name, metric in (("ece", ECE), ("mce", MCE))
        for estimator, equal in (("equal_width", True), ("equal_mass", False))
        for bins in (10, 15)
    }
    path = Path(__file__).with_suffix(".npz")
    arrays = {"probabilities": probabilities, "labels": labels, **errors}
    np.savez_compressed(path, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()

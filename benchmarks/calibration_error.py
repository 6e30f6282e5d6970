"""How near estimates of the calibration error are to the truth, on simulated classifiers.

Run from the root of the repository: `python -m benchmarks.calibration_error`. It writes
benchmarks/results/calibration_error.csv and prints the largest distance of each estimator.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit

from jc2i.metrics import expected_calibration_error

MEANS = (0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
SPREADS = {"wide": 3.0, "narrow": 0.7}
CLASSES = 10


def _tempered(temperature: float):
    return lambda s: expit(logit(np.clip(s, 1e-9, 1 - 1e-12)) / temperature)


ACCURACIES = {
    "calibrated": lambda s: s,
    "over-confident, T 2": _tempered(2),
    "over-confident, T 1.2": _tempered(1.2),
    "over-confident by a tenth": lambda s: 0.9 * s,
    "under-confident, T 2/3": _tempered(2 / 3),
    "under-confident by half": lambda s: s + (1 - s) / 2,
}
"""Accuracy as a function of the confidence."""

ESTIMATORS = {
    "default": {},
    "equal_width": {"estimator": "equal_width"},
    "debiased": {"estimator": "equal_width", "debiased": True},
    "density": {"estimator": "density"},
}


def predictions(
    case: str, mean: float, spread: str = "wide", rows: int = 10_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, float]:
    """Probabilities, labels and the true error of a simulated classifier.

    Args:
      case: one of `ACCURACIES`.
      mean: mean confidence, in (.1, 1).
      spread: one of `SPREADS`, of the logits of the confidences.
      rows: the number of predictions.
      seed: of the drawing.

    Returns:
      Probabilities[rows, 10], labels[rows], and mean |accuracy - confidence|.
    """
    random = np.random.default_rng(seed)
    drawn = SPREADS[spread] * random.standard_normal(rows)

    def confidences(shift: float) -> np.ndarray:
        return 1 / CLASSES + (1 - 1 / CLASSES) * expit(shift + drawn)

    shift = float(brentq(lambda shift: confidences(shift).mean() - mean, -20, 40))  # pyright: ignore
    confident = confidences(shift)
    accuracy = ACCURACIES[case](confident)
    right = random.random(rows) < accuracy
    others = np.repeat((1 - confident)[:, None] / (CLASSES - 1), CLASSES - 1, axis=1)
    probabilities = np.concatenate([confident[:, None], others], axis=1).astype(np.float32)
    return probabilities, np.where(right, 0, 1), float(np.abs(accuracy - confident).mean())


def main() -> None:
    """Makes the table."""
    rows = []
    for spread in SPREADS:
        for case in ACCURACIES:
            for mean in MEANS:
                probabilities, labels, truth = predictions(case, mean, spread)
                row = {"confidences": spread, "case": case, "mean confidence": mean}
                row |= {"n": len(labels), "truth": truth}
                for name, options in ESTIMATORS.items():
                    row[name] = float(expected_calibration_error(probabilities, labels, **options))
                rows.append(row)
    for name in ESTIMATORS:
        print(f"{name}: within {max(abs(row[name] - row['truth']) for row in rows):.4f}")
    path = Path(__file__).parent / "results" / "calibration_error.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            rounded = {k: f"{v:.4f}" for k, v in row.items() if k in ("truth", *ESTIMATORS)}
            writer.writerow(row | rounded)


if __name__ == "__main__":
    main()

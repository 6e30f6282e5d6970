"""What every fit refuses in its hold-out."""

from __future__ import annotations

import numpy as np
import pytest

from jc2i import calibrators

FITS = [
    calibrators.fit_temperature,
    calibrators.fit_vector_scaling,
    calibrators.fit_matrix_scaling,
    calibrators.fit_dirichlet,
    calibrators.fit_isotonic,
    calibrators.fit_histogram,
]
LOGITS = np.eye(3, dtype=np.float32)
LABELS = np.arange(3)


def _with(value: float) -> np.ndarray:
    logits = LOGITS.copy()
    logits[1, 1] = value
    return logits


@pytest.mark.parametrize("fit", FITS, ids=lambda fit: fit.__name__)
@pytest.mark.parametrize(
    "logits, labels, message",
    [
        (LOGITS, np.array([0, 1, 3]), "^labels: got class 3, takes classes 0 to 2"),
        (LOGITS, np.array([0, -1, 2]), "^labels: got class -1, takes classes 0 to 2"),
        (LOGITS, LABELS[:2], r"^labels: got int64\[2\], takes integers.* 3 rows of logits"),
        (LOGITS, LABELS.astype(float), r"^labels: got float64\[3\], takes integers"),
        (LOGITS, LOGITS, r"^labels: got float32\[3, 3\], takes integers"),
        (_with(np.nan), LABELS, "^logits: got NaN or infinity"),
        (_with(np.inf), LABELS, "^logits: got NaN or infinity"),
        (LOGITS[:0], LABELS[:0], "^logits: got an empty batch"),
        (LOGITS[0], LABELS, r"^logits: got float32\[3\], takes floats\[batch, classes\]"),
        (LOGITS[:, :1], LABELS, "^logits: got 1 class, takes at least 2 classes"),
        (LOGITS.astype(int), LABELS, r"^logits: got int64\[3, 3\], takes floats"),
        (LOGITS, LABELS, r"^logits: got probabilities .* pass log\(p\)"),
        (LOGITS, LABELS + 2**40, "^labels: got class 10995"),
        (list(range(5000)), LABELS, "^logits: got a list of 5000 entries, takes floats"),
        (LOGITS.astype(complex), LABELS, r"^logits: got complex128\[3, 3\], takes floats"),
        (LOGITS.astype(str), LABELS, r"^logits: got <U32\[3, 3\], takes floats"),
        ("logits.npz", LABELS, "^logits: got 'logits.npz', takes floats"),
    ],
)
def test_what_is_no_hold_out(fit, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit(logits, labels)

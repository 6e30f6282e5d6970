"""The numbers that the paper prints, to stand beside those measured here.

Source: Fel, Vigouroux, Cadene and Serre, "How good is your explanation? Algorithmic stability
measures to assess the quality of explanations for deep neural networks", tables 1 to 3 and 5 to 7.

MeGe as defined there, 1 / (1 + mean distance) by equation (5), of 1 - |rho|, which is at most 1, is
at least 0.5. Tables 1, 2, 5, 6 and 7 print values down to 0.30: they cannot be that measure of that
distance, nor of its square root, which the authors' library takes. Only orders and differences of
MeGe can be compared.
"""

from __future__ import annotations

_ORDER = (
    "integrated_gradients",
    "smoothgrad",
    "sensitivity",
    "gradient_x_input",
    "grad_cam",
    "grad_cam_plus_plus",
    "rise",
)


def _row(*values: float) -> dict[str, float]:
    return dict(zip(_ORDER, values, strict=True))


MEASURES: dict[str, dict[str, dict[str, float]]] = {
    "imagenet": {  # table 1, in the order of the others
        "fidelity": _row(0.55, 0.48, 0.47, 0.51, 0.69, 0.49, 0.67),
        "MeGe": _row(0.58, 0.36, 0.40, 0.50, 0.34, 0.33, 0.66),
        "ReCo": _row(0.16, 0.02, 0.20, 0.17, 0.35, 0.26, 0.59),
    },
    "cifar10": {  # table 5
        "fidelity": _row(0.11, 0.31, 0.23, 0.10, 0.91, 0.89, 0.84),
        "MeGe": _row(0.58, 0.46, 0.45, 0.55, 0.72, 0.82, 0.56),
        "ReCo": _row(0.11, 0.15, 0.15, 0.09, 0.64, 0.49, 0.52),
    },
    "eurosat": {  # table 6
        "MeGe": _row(0.40, 0.42, 0.41, 0.41, 0.67, 0.67, 0.39),
        "ReCo": _row(0.31, 0.18, 0.18, 0.23, 0.59, 0.64, 0.34),
    },
    "fashion_mnist": {  # table 7
        "MeGe": _row(0.90, 0.36, 0.30, 0.90, 0.77, 0.84, 0.52),
        "ReCo": _row(0.37, 0.13, 0.10, 0.37, 0.52, 0.32, 0.37),
    },
}
"""By data set, measure and method: tables 1, 5, 6 and 7."""

NETWORKS: dict[str, dict[str, dict[str, float]]] = {
    "MeGe": {  # table 2
        "model": _row(0.58, 0.46, 0.45, 0.55, 0.72, 0.83, 0.57),
        "lipschitz": _row(0.72, 0.60, 0.58, 0.67, 0.75, 0.54, 0.85),
    },
    "ReCo": {  # table 3
        "model": _row(0.11, 0.15, 0.15, 0.09, 0.64, 0.49, 0.52),
        "lipschitz": _row(0.60, 0.90, 0.81, 0.50, 0.67, 0.24, 0.84),
    },
}
"""By measure, network and method, on CIFAR-10: tables 2 and 3."""

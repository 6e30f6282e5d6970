"""Calibrators: callable pytrees, logits -> logits, fitted on a hold-out.

The softmax of what a calibrator returns are the calibrated probabilities. The leaves of a
calibrator are arrays: it goes through `jit` as an argument, several of one class stack and go
through `vmap`, and other values of its leaves never recompile.
"""

from __future__ import annotations

from jc2i.calibrators.dirichlet import Dirichlet, fit_dirichlet
from jc2i.calibrators.files import load, save
from jc2i.calibrators.histogram import Histogram, fit_histogram
from jc2i.calibrators.identity import Identity
from jc2i.calibrators.isotonic import Isotonic, fit_isotonic
from jc2i.calibrators.matrix_scaling import MatrixScaling, fit_matrix_scaling
from jc2i.calibrators.temperature import Temperature, fit_temperature
from jc2i.calibrators.vector_scaling import VectorScaling, fit_vector_scaling

__all__ = [
    "Dirichlet",
    "Histogram",
    "Identity",
    "Isotonic",
    "MatrixScaling",
    "Temperature",
    "VectorScaling",
    "fit_dirichlet",
    "fit_histogram",
    "fit_isotonic",
    "fit_matrix_scaling",
    "fit_temperature",
    "fit_vector_scaling",
    "load",
    "save",
]

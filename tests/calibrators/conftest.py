"""Hold-outs of over-confident classifiers, and the same likelihoods in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax


class HoldOut(NamedTuple):
    logits: np.ndarray
    labels: np.ndarray


def _hold_out(seed: int, rows: int = 400, classes: int = 4, over_confidence: float = 3) -> HoldOut:
    random = np.random.default_rng(seed)
    true = 2 * random.normal(size=(rows, classes)) + random.normal(size=classes)
    labels = np.argmax(true + random.gumbel(size=true.shape), axis=1)
    scale = over_confidence * random.uniform(0.5, 1.5, size=classes)
    logits = scale * true + random.normal(size=true.shape) + 7
    return HoldOut(logits.astype(np.float32), labels)


def _likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    return -float(log_softmax(logits.astype(float), axis=1)[np.arange(len(labels)), labels].mean())


def _affine_optimum(
    features: np.ndarray,
    labels: np.ndarray,
    weight_penalty: np.ndarray,
    bias_penalty: np.ndarray,
) -> float:
    """The least penalised loss, by SciPy's L-BFGS-B in float64."""
    rows, classes = features.shape
    features = features.astype(float)
    one_hot = np.eye(classes)[labels]
    diagonal = weight_penalty.ndim == 1

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        bias = parameters[-classes:]
        weight = parameters[:-classes].reshape(weight_penalty.shape)
        scores = (features * weight if diagonal else features @ weight.T) + bias
        logs = log_softmax(scores, axis=1)
        value = -(one_hot * logs).sum() / rows
        value += (weight_penalty * weight**2).sum() + (bias_penalty * bias**2).sum()
        slope = (np.exp(logs) - one_hot) / rows
        weight_slope = (slope * features).sum(0) if diagonal else slope.T @ features
        weight_slope = weight_slope + 2 * weight_penalty * weight
        bias_slope = slope.sum(0) + 2 * bias_penalty * bias
        return value, np.concatenate([weight_slope.ravel(), bias_slope])

    start = np.zeros(weight_penalty.size + classes)
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 2000, "maxfun": 4000}
    return float(minimize(loss, start, jac=True, method="L-BFGS-B", options=options).fun)


def _counted(function: Callable) -> tuple[Callable, list]:
    """The compiled function, and a list with one entry for each time it was traced."""
    traces = []

    def traced(*arguments):
        traces.append(arguments)
        return function(*arguments)

    return jax.jit(traced), traces


@pytest.fixture
def counted():
    return _counted


@pytest.fixture
def hold_out():
    return _hold_out


@pytest.fixture
def likelihood():
    return _likelihood


@pytest.fixture
def affine_optimum():
    return _affine_optimum

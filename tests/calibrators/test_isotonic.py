from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from sklearn.isotonic import IsotonicRegression

from jc2i import calibrators


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(jnp.asarray(logits)))


def test_tiny_probabilities_are_told_apart():
    random = np.random.default_rng(0)
    rare = np.linspace(-25, -11.6, 1184).astype(np.float32)
    labels = (random.random(1184) < np.linspace(0, 1, 1184)).astype(int)
    logits = np.stack([np.zeros_like(rare), rare], axis=1)
    fitted = calibrators.fit_isotonic(logits, labels)
    scores = _softmax(logits)[:, 1]
    assert len(np.unique(scores)) == 1184 and scores.max() < 1e-5
    expected = isotonic_regression(labels.astype(float)).x
    got = np.interp(scores, fitted.thresholds[:, 1], fitted.values[:, 1])
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_is_scikit_learns_regression_renormalised(hold_out):
    logits, labels = hold_out(0)
    unseen = hold_out(1).logits
    fitted = calibrators.fit_isotonic(logits, labels, floor=1e-4)
    columns = []
    for label in range(4):
        regression = IsotonicRegression(out_of_bounds="clip")
        # Given float32 it would merge probabilities closer than 1e-6.
        regression.fit(_softmax(logits)[:, label].astype(float), labels == label)
        columns.append(regression.predict(_softmax(unseen)[:, label].astype(float)))
    expected = np.maximum(np.stack(columns, axis=1), 1e-4)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(fitted(unseen)), expected, atol=2e-5)


def test_a_missing_class_gets_the_floor(hold_out):
    logits, labels = hold_out(0)
    fitted = calibrators.fit_isotonic(logits, np.minimum(labels, 2), floor=1e-5)
    probabilities = np.exp(fitted(logits))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert probabilities[:, 3].max() < 1e-4


def test_constant_logits_give_the_frequencies():
    labels = np.array([0, 0, 0, 1])
    fitted = calibrators.fit_isotonic(np.zeros((4, 2), np.float32), labels)
    np.testing.assert_allclose(np.exp(fitted(jnp.zeros(2))), [0.75, 0.25], rtol=1e-5)


def test_saturated_logits_stay_finite(hold_out):
    logits, labels = hold_out(0, over_confidence=1000.0)
    fitted = calibrators.fit_isotonic(logits, labels)
    assert np.isfinite(fitted(logits)).all()
    slope = jax.grad(lambda z: fitted(z)[:, 0].sum())(jnp.asarray(logits))
    assert np.isfinite(slope).all()


def test_works_under_jit_and_stacked_under_vmap(hold_out):
    logits, labels = hold_out(0)
    fitted = calibrators.fit_isotonic(logits, labels)
    expected = fitted(logits)
    compiled = jax.jit(lambda calibrator, z: calibrator(z))(fitted, logits)
    np.testing.assert_allclose(compiled, expected, rtol=1e-5, atol=1e-5)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), fitted)
    both = jax.vmap(lambda calibrator: calibrator(logits))(stacked)
    np.testing.assert_allclose(both[1], expected, rtol=1e-5, atol=1e-5)


def test_refuses_another_number_of_classes(hold_out):
    fitted = calibrators.fit_isotonic(*hold_out(0))
    with pytest.raises(ValueError, match="got 5 classes, takes the 4 classes that this Isotonic"):
        fitted(jnp.zeros((2, 5)))


def test_refuses_to_be_fitted_under_jit(hold_out):
    with pytest.raises(ValueError, match="^logits: got a tracer, takes concrete arrays"):
        jax.jit(calibrators.fit_isotonic)(*hold_out(0))


def test_refuses_a_floor_out_of_range(hold_out):
    with pytest.raises(ValueError, match="^floor: got 0.0, takes a number between 0 and 1"):
        calibrators.fit_isotonic(*hold_out(0), floor=0.0)

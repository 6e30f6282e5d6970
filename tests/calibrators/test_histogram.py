from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jc2i import calibrators


def test_is_the_frequency_in_each_bin(hold_out):
    logits, labels = hold_out(0)
    fitted = calibrators.fit_histogram(logits, labels, bins=8, floor=1e-4)
    scores = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    expected = np.empty_like(scores)
    for label in range(4):
        order = np.argsort(scores[:, label])
        for rows in np.split(order, 8):
            expected[rows, label] = (labels[rows] == label).mean()
    expected = np.maximum(expected, 1e-4)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(fitted(logits)), expected, rtol=1e-4)


def test_above_the_highest_sample_is_as_just_below_it():
    logits = np.zeros((4, 2), np.float32)
    fitted = calibrators.fit_histogram(logits, np.array([0, 0, 0, 1]), bins=3)
    np.testing.assert_allclose(np.exp(fitted(jnp.zeros(2))), [0.75, 0.25], rtol=1e-5)
    np.testing.assert_allclose(fitted.values[-1], [0.75, 0.25], rtol=1e-6)

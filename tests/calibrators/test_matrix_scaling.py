from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import calibrators


@pytest.mark.parametrize("l2", [0.0, 1e-2])
def test_loss_is_no_worse_than_scipys(hold_out, likelihood, affine_optimum, l2):
    logits, labels = hold_out(0)
    fitted = calibrators.fit_matrix_scaling(logits, labels, l2=l2)
    penalty = l2 * float((fitted.weight**2).sum() + (fitted.bias**2).sum())
    loss = likelihood(np.asarray(fitted(logits)), labels) + penalty
    optimum = affine_optimum(logits, labels, np.full((4, 4), l2), np.full(4, l2))
    assert loss <= optimum + 1e-5


def test_no_penalty_is_at_least_as_likely_as_temperature_and_vector(hold_out, likelihood):
    logits, labels = hold_out(3)
    fits = (
        calibrators.fit_temperature(logits, labels),
        calibrators.fit_vector_scaling(logits, labels),
        calibrators.fit_matrix_scaling(logits, labels, l2=0.0),
    )
    temperature, vector, matrix = (likelihood(np.asarray(f(logits)), labels) for f in fits)
    assert matrix <= vector <= temperature < likelihood(logits, labels)


def test_separable_hold_out_is_finite_and_warned_of(hold_out):
    logits, _ = hold_out(0)
    with pytest.warns(RuntimeWarning, match="no row of it is classified wrongly"):
        fitted = calibrators.fit_matrix_scaling(logits, logits.argmax(1), l2=0.0)
    assert np.isfinite(fitted.weight).all() and np.isfinite(fitted.bias).all()
    assert (np.argmax(fitted(logits), axis=1) == logits.argmax(1)).all()


def test_stacked_under_vmap(hold_out):
    logits = jnp.asarray(hold_out(0).logits)
    weights = jax.random.normal(jax.random.key(0), (3, 4, 4))
    biases = jax.random.normal(jax.random.key(1), (3, 4))
    stacked = calibrators.MatrixScaling(weights, biases)
    together = jax.vmap(lambda calibrator: calibrator(logits))(stacked)
    expected = np.einsum("ni,kji->knj", logits, weights) + biases[:, None]
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-4)


def test_refuses_another_number_of_classes():
    fitted = calibrators.MatrixScaling(jnp.eye(4), jnp.zeros(4))
    with pytest.raises(ValueError, match="^logits: got 10 classes, takes the 4 classes"):
        jax.jit(fitted)(jnp.zeros((2, 10)))

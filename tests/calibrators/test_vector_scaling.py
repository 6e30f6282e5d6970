from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import calibrators


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_loss_is_no_worse_than_scipys(hold_out, likelihood, affine_optimum, l2):
    logits, labels = hold_out(0)
    fitted = calibrators.fit_vector_scaling(logits, labels, l2=l2)
    penalty = l2 * float((fitted.scale**2).sum() + (fitted.bias**2).sum())
    loss = likelihood(np.asarray(fitted(logits)), labels) + penalty
    optimum = affine_optimum(logits, labels, np.full(4, l2), np.full(4, l2))
    assert loss == pytest.approx(optimum, abs=1e-6)


def test_slope_is_zero_at_the_optimum(hold_out):
    logits, labels = hold_out(1)
    fitted = calibrators.fit_vector_scaling(logits, labels)

    def loss(calibrator):
        logs = jax.nn.log_softmax(calibrator(logits))
        return -logs[jnp.arange(len(labels)), labels].mean()

    slope = jax.grad(loss)(fitted)
    np.testing.assert_allclose(slope.scale, 0, atol=5e-5)
    np.testing.assert_allclose(slope.bias, 0, atol=5e-5)


def test_a_missing_class_is_warned_of(hold_out):
    logits, labels = hold_out(0)
    with pytest.warns(RuntimeWarning, match="a class is missing"):
        fitted = calibrators.fit_vector_scaling(logits, np.minimum(labels, 2))
    assert np.isfinite(fitted.bias).all()


def test_other_leaves_do_not_recompile(hold_out, counted):
    logits = jnp.asarray(hold_out(0).logits)
    call, traces = counted(lambda calibrator, logits: calibrator(logits))
    for number in (1.0, 2.0):
        each = jnp.full(4, number)
        result = call(calibrators.VectorScaling(each, each), logits)
        np.testing.assert_allclose(result, number * logits + number, rtol=1e-6)
    assert len(traces) == 1


def test_refuses_another_number_of_classes(hold_out):
    fitted = calibrators.VectorScaling(jnp.ones(4), jnp.zeros(4))
    with pytest.raises(ValueError, match="got 10 classes, takes the 4 classes that this Vector"):
        fitted(jnp.zeros((2, 10)))

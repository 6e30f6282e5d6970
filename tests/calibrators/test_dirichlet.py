from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jc2i import calibrators
from jc2i.calibrators import _affine

OFF_DIAGONAL = (1 - np.eye(4)) / 12


@pytest.mark.parametrize(
    "options, weight_penalty, bias_penalty",
    [
        ({}, np.full((4, 4), 1e-2), np.full(4, 1e-2)),
        ({"l2": 1e-3}, np.full((4, 4), 1e-3), np.full(4, 1e-3)),
        (
            {"regularization": "odir", "off_diagonal": 0.1, "bias_weight": 0.02},
            0.1 * OFF_DIAGONAL,
            np.full(4, 0.02 / 4),
        ),
    ],
    ids=["default", "l2", "odir"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_is_no_worse_than_scipys(
    hold_out, likelihood, affine_optimum, options, weight_penalty, bias_penalty, seed
):
    logits, labels = hold_out(seed)
    fitted = calibrators.fit_dirichlet(logits, labels, **options)
    weight, bias = np.asarray(fitted.weight, float), np.asarray(fitted.bias, float)
    features = log_softmax(logits.astype(float), axis=1)
    loss = likelihood(features @ weight.T + bias, labels)
    loss += (weight_penalty * weight**2).sum() + (bias_penalty * bias**2).sum()
    assert loss <= affine_optimum(features, labels, weight_penalty, bias_penalty) + 1e-5


def test_slope_is_zero_at_the_optimum(hold_out):
    logits, labels = hold_out(0)
    fitted = calibrators.fit_dirichlet(logits, labels)

    def loss(calibrator):
        logs = jax.nn.log_softmax(calibrator(logits))
        penalty = (calibrator.weight**2).sum() + (calibrator.bias**2).sum()
        return -logs[jnp.arange(len(labels)), labels].mean() + 0.01 * penalty

    slope = jax.grad(loss)(fitted)
    np.testing.assert_allclose(slope.weight, 0, atol=5e-5)
    np.testing.assert_allclose(slope.bias, 0, atol=5e-5)


def test_scaled_identity_is_a_temperature(hold_out):
    logits = hold_out(0).logits
    dirichlet = calibrators.Dirichlet(jnp.eye(4) / 2.5, jnp.zeros(4))
    expected = jax.nn.softmax(calibrators.Temperature(2.5)(logits))
    np.testing.assert_allclose(jax.nn.softmax(dirichlet(logits)), expected, rtol=1e-5, atol=1e-7)


def test_heavy_odir_leaves_only_the_diagonal(hold_out):
    logits, labels = hold_out(0)
    fitted = calibrators.fit_dirichlet(
        logits, labels, regularization="odir", off_diagonal=1e4, bias_weight=1e4
    )
    off_diagonal = np.asarray(fitted.weight) * (1 - np.eye(4))
    assert np.abs(off_diagonal).max() < 1e-3 < np.diag(fitted.weight).min()
    assert np.abs(fitted.bias).max() < 1e-3


def test_penalty_keeps_a_separable_hold_out_regular(hold_out):
    logits, _ = hold_out(0)
    fitted = calibrators.fit_dirichlet(logits, logits.argmax(1))
    assert np.isfinite(fitted.weight).all() and np.abs(fitted.weight).max() < 10


def test_odir_of_a_separable_hold_out_is_warned_of(hold_out):
    logits, _ = hold_out(0)
    with pytest.warns(RuntimeWarning, match="no row of it is classified wrongly"):
        fitted = calibrators.fit_dirichlet(logits, logits.argmax(1), regularization="odir")
    assert np.isfinite(fitted.weight).all()


def test_fits_under_vmap_over_the_penalty(hold_out):
    logits, labels = hold_out(0)
    penalties = jnp.array([1e-3, 1e-1])
    fits = jax.vmap(lambda l2: calibrators.fit_dirichlet(logits, labels, l2=l2))(penalties)
    for index, l2 in enumerate(penalties):
        alone = calibrators.fit_dirichlet(logits, labels, l2=float(l2))
        np.testing.assert_allclose(fits.weight[index], alone.weight, atol=2e-3)


def test_the_order_of_the_rows_does_not_matter(hold_out):
    logits, labels = hold_out(0)
    fitted = calibrators.fit_dirichlet(logits, labels)
    backwards = calibrators.fit_dirichlet(logits[::-1], labels[::-1])
    np.testing.assert_allclose(backwards.weight, fitted.weight, atol=1e-3)


def test_other_leaves_do_not_recompile(hold_out, counted):
    logits = jnp.asarray(hold_out(0).logits)
    call, traces = counted(lambda calibrator, logits: calibrator(logits))
    for number in (1.0, 2.0):
        result = call(calibrators.Dirichlet(number * jnp.eye(4), jnp.zeros(4)), logits)
        np.testing.assert_allclose(result, number * jax.nn.log_softmax(logits), rtol=1e-5)
    assert len(traces) == 1


def test_refuses_another_number_of_classes():
    fitted = calibrators.Dirichlet(jnp.eye(10), jnp.zeros(10))
    with pytest.raises(ValueError, match="got 7 classes, takes the 10 classes that this Dirichlet"):
        fitted(jnp.zeros((2, 7)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"regularization": "l1"}, "^regularization: got 'l1', takes 'l2' or 'odir'"),
        ({"l2": -1.0}, "^l2: got -1.0, takes a finite number of at least 0"),
        ({"off_diagonal": float("nan")}, "^off_diagonal: got nan"),
        ({"bias_weight": float("inf")}, "^bias_weight: got inf"),
    ],
)
def test_refuses_options_out_of_range(hold_out, options, message):
    with pytest.raises(ValueError, match=message):
        calibrators.fit_dirichlet(*hold_out(0), **options)


@pytest.mark.parametrize("l2", [1e-2, 1e-4, 1e-6])
def test_a_small_penalty_is_fitted_to_the_end(hold_out, likelihood, affine_optimum, l2):
    logits, labels = hold_out(0)
    fitted = calibrators.fit_dirichlet(logits, labels, l2=l2)
    weight, bias = np.asarray(fitted.weight, float), np.asarray(fitted.bias, float)
    # The features are float32's: the fit is compared, not the rounding of its input.
    features = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)), float)
    loss = -log_softmax(features @ weight.T + bias, axis=1)[np.arange(len(labels)), labels].mean()
    loss += l2 * ((weight**2).sum() + (bias**2).sum())
    optimum = affine_optimum(features, labels, np.full((4, 4), l2), np.full(4, l2))
    assert loss <= optimum + 1e-8


@pytest.fixture
def stopped(monkeypatch):
    """Makes every fit stop after so many steps."""

    def after(steps):
        monkeypatch.setattr(_affine, "MAX_STEPS", steps)
        _affine._fit.clear_cache()

    yield after
    _affine._fit.clear_cache()


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("l2", [1e-2, 1e-4])
def test_a_fit_cut_off_says_how_far_above_the_least_its_loss_is(
    hold_out, likelihood, affine_optimum, stopped, l2, steps
):
    logits, labels = hold_out(0)
    stopped(steps)
    with pytest.warns(RuntimeWarning, match="did not converge") as warned:
        fitted = calibrators.fit_dirichlet(logits, labels, l2=l2)
    found = re.search(r"the loss is at most (\S+) above its least$", str(warned[0].message))
    assert found and f"after {steps} steps" in str(warned[0].message)
    weight, bias = np.asarray(fitted.weight, float), np.asarray(fitted.bias, float)
    features = np.asarray(jax.nn.log_softmax(jnp.asarray(logits)), float)
    loss = likelihood(features @ weight.T + bias, labels)
    loss += l2 * ((weight**2).sum() + (bias**2).sum())
    optimum = affine_optimum(features, labels, np.full((4, 4), l2), np.full(4, l2))
    # The parameters are rounded to float32 after the search.
    assert 0 < loss - optimum <= float(found[1]) + 1e-9
    # In the slopes by the parameters themselves, and no more than the equation's.
    probabilities = np.exp(log_softmax(features @ weight.T + bias, axis=1))
    above = (probabilities - np.eye(4)[labels]) / len(labels)
    slopes = np.append(above.T @ features + 2 * l2 * weight, above.sum(0) + 2 * l2 * bias)
    assert float(found[1]) == pytest.approx((slopes**2).sum() / (4 * l2), rel=0.15)


def test_a_fit_cut_off_whose_diagonal_is_free_gives_the_slope_alone(hold_out, stopped):
    stopped(3)
    with pytest.warns(RuntimeWarning, match="did not converge") as warned:
        calibrators.fit_dirichlet(*hold_out(0), regularization="odir")
    message = str(warned[0].message)
    assert "a slope of" in message and "above its least" not in message
    assert "without a penalty on each parameter bounds no distance in loss" in message

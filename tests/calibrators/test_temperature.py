from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from jc2i import calibrators


@pytest.mark.parametrize(
    "seed, rows, classes, over_confidence",
    [(0, 2000, 10, 3.0), (1, 500, 3, 8.0), (2, 1000, 50, 1.0), (3, 300, 2, 0.2)],
)
def test_is_scipys_optimum(hold_out, likelihood, seed, rows, classes, over_confidence):
    logits, labels = hold_out(seed, rows, classes, over_confidence)
    optimum = minimize_scalar(
        lambda log: likelihood(logits / np.exp(log), labels),
        bounds=(-4, 4),
        method="bounded",
        options={"xatol": 1e-10},
    )
    fitted = calibrators.fit_temperature(logits, labels).temperature
    np.testing.assert_allclose(fitted, np.exp(optimum.x), atol=1e-4, rtol=1e-5)


def test_does_not_depend_on_an_offset_and_follows_the_scale(hold_out):
    logits, labels = hold_out(0)
    fitted = calibrators.fit_temperature(logits, labels).temperature
    offsets = np.linspace(-50, 50, len(logits), dtype=np.float32)[:, None]
    moved = calibrators.fit_temperature(logits + offsets, labels).temperature
    scaled = calibrators.fit_temperature(4 * logits, labels).temperature
    np.testing.assert_allclose(moved, fitted, rtol=1e-5)
    np.testing.assert_allclose(scaled, 4 * fitted, rtol=1e-5)


def test_saturated_probabilities_keep_their_accuracy(hold_out, likelihood):
    # With 1 - p far below float32's resolution the plain gradient would be rounding noise.
    logits, labels = hold_out(5, 1000, 4, 200.0)
    optimum = minimize_scalar(
        lambda log: likelihood(logits / np.exp(log), labels),
        bounds=(3, 8),
        method="bounded",
        options={"xatol": 1e-10},
    )
    fitted = calibrators.fit_temperature(logits, labels, bounds=(0.1, 1e4)).temperature
    np.testing.assert_allclose(np.log(fitted), optimum.x, atol=1e-5)


def test_labels_always_right_give_the_lower_bound_and_a_warning(hold_out):
    logits, _ = hold_out(0)
    with pytest.warns(RuntimeWarning, match="no row of the hold-out is classified wrongly"):
        fitted = calibrators.fit_temperature(logits, logits.argmax(1), bounds=(0.05, 20.0))
    np.testing.assert_allclose(fitted.temperature, 0.05, rtol=1e-4)


def test_labels_against_the_logits_give_the_upper_bound_and_a_warning(hold_out):
    logits, _ = hold_out(0)
    with pytest.warns(RuntimeWarning, match="the labels do not go with the logits"):
        fitted = calibrators.fit_temperature(logits, logits.argmin(1), bounds=(0.01, 100.0))
    np.testing.assert_allclose(fitted.temperature, 100, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e4, 1e30])
def test_the_temperature_is_found_at_any_scale_of_the_logits(hold_out, scale):
    logits, labels = hold_out(0)
    fitted = calibrators.fit_temperature(logits, labels).temperature
    scaled = calibrators.fit_temperature(logits * np.float32(scale), labels).temperature
    np.testing.assert_allclose(scaled / np.float32(scale), fitted, rtol=1e-4)


def test_flat_logits_have_the_temperature_one():
    fitted = calibrators.fit_temperature(np.full((5, 3), 2, np.float32), np.arange(5) % 3)
    assert fitted.temperature == 1


def test_fits_many_hold_outs_under_vmap(hold_out):
    parts = [hold_out(seed) for seed in range(3)]
    logits, labels = (jnp.stack(arrays) for arrays in zip(*parts, strict=True))
    together = jax.jit(jax.vmap(calibrators.fit_temperature))(logits, labels)
    alone = [calibrators.fit_temperature(*part).temperature for part in parts]
    np.testing.assert_allclose(together.temperature, alone, rtol=1e-5)


def test_other_temperatures_do_not_recompile(hold_out, counted):
    logits = jnp.asarray(hold_out(0).logits)
    call, traces = counted(lambda calibrator, logits: calibrator(logits))
    for temperature in (0.5, 1.0, 2.0):
        result = call(calibrators.Temperature(jnp.float32(temperature)), logits)
        np.testing.assert_allclose(result, logits / temperature, rtol=1e-6)
    assert len(traces) == 1


def test_stacked_temperatures_under_vmap_compile_once(hold_out, counted):
    logits = jnp.asarray(hold_out(0).logits)
    call, traces = counted(jax.vmap(lambda calibrator, logits: calibrator(logits), (0, None)))
    for temperatures in (jnp.array([1.0, 2.0, 4.0]), jnp.array([3.0, 5.0, 7.0])):
        result = call(calibrators.Temperature(temperatures), logits)
        expected = logits[None] / temperatures[:, None, None]
        np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert len(traces) == 1


def test_stacked_temperatures_outside_vmap_are_refused(hold_out):
    stacked = calibrators.Temperature(jnp.ones(4))
    with pytest.raises(ValueError, match=r"temperature: got shape \[4\], takes rank 0.*jax.vmap"):
        stacked(hold_out(0).logits)


def test_gradients_are_those_of_the_quotient(hold_out):
    logits = jnp.asarray(hold_out(0).logits)
    one = calibrators.Temperature(jnp.float32(2))
    slope = jax.grad(lambda calibrator: calibrator(logits).sum())(one)
    np.testing.assert_allclose(slope.temperature, -logits.sum() / 4, rtol=1e-4)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (2.0, 1.0), (1.0, np.inf)])
def test_refuses_bounds_out_of_order(hold_out, bounds):
    with pytest.raises(ValueError, match="^bounds: got .* 0 < lower < upper"):
        calibrators.fit_temperature(*hold_out(0), bounds=bounds)

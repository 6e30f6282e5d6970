from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import jc2i
from jc2i.calibrators import Temperature
from jc2i.scores import exact_softmax, leads_of_targets, of_targets


def float64_gradient(logits, target):
    """d p_target / d logits = p_t (1[i = t] - p_i), in float64 and without cancellation."""
    logits = logits.astype(float)
    p = scipy.special.softmax(logits)
    gradient = -p[target] * p
    gradient[target] = p[target] * np.delete(p, target).sum()
    return gradient


@pytest.mark.parametrize("gap", [0.0, 5.0, 20.0, 30.0, 45.0, 60.0])
def test_gradients_of_saturated_probabilities_equal_float64s(gap):
    logits = np.random.default_rng(0).standard_normal(6).astype(np.float32)
    logits[2] += np.float32(gap)
    for target in (2, 0):
        gradient = jax.jit(jax.grad(lambda z, t=target: exact_softmax(z)[t]))(logits)
        expected = float64_gradient(logits, target)
        # Products of two tiny probabilities fall below the smallest float32.
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("gap", [20.0, 40.0])
def test_plain_softmax_loses_them(gap):
    logits = np.random.default_rng(0).standard_normal(6).astype(np.float32)
    logits[2] += np.float32(gap)
    gradient = jax.grad(lambda z: jax.nn.softmax(z)[2])(logits)
    assert not np.allclose(gradient, float64_gradient(logits, 2), rtol=1e-2, atol=0)


def test_a_saturated_models_map_equals_float64s(linear):
    model = linear((4, 4, 1), classes=5)
    images = jax.random.uniform(jax.random.key(0), (3, 4, 4, 1))
    model = type(model)(model.weights * 20)
    logits = np.asarray(model(images))
    targets = logits.argmax(1)
    calibrated = logits / np.float32(1.25)
    largest = jax.nn.softmax(calibrated).max(1)
    assert (1 - largest == 0).sum() == 2  # saturated, and one that is not
    by_logits = np.stack([float64_gradient(z, t) for z, t in zip(calibrated, targets, strict=True)])
    weights = np.asarray(model.weights, float)[..., 0, :]
    expected = np.einsum("hwk,bk->bhw", weights, by_logits / 1.25)
    score = jc2i.probabilities(model, Temperature(jnp.float32(1.25)))
    maps = jc2i.explainers.sensitivity(score, images, targets, channels="sum")
    scale = np.abs(expected).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(maps / scale, expected / scale, atol=3e-5)


def test_values_are_softmaxs_over_the_last_axis():
    logits = jnp.float32(np.random.default_rng(0).normal(0, 30, (4, 2, 7)))
    expected = scipy.special.softmax(np.asarray(logits, float), axis=-1)
    np.testing.assert_allclose(exact_softmax(logits), expected, rtol=2e-5, atol=1e-30)


def test_gradient_of_any_cotangent_equals_plain_softmaxs_where_nothing_saturates():
    random = np.random.default_rng(1)
    logits, cotangents = (jnp.float32(random.standard_normal((5, 4))) for _ in range(2))
    exact, plain = (jax.vjp(f, logits)[1](cotangents)[0] for f in (exact_softmax, jax.nn.softmax))
    np.testing.assert_allclose(exact, plain, atol=1e-6)


def test_composition(linear):
    model = linear()
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 2))
    calibrator = Temperature(jnp.float32(2.0))
    np.testing.assert_array_equal(jc2i.logits(model)(images), model(images))
    np.testing.assert_array_equal(jc2i.logits(model, calibrator)(images), model(images) / 2)
    expected = jax.nn.softmax(model(images) / 2)
    for softmax in ("exact", "plain"):
        probabilities = jc2i.probabilities(model, calibrator, softmax=softmax)
        np.testing.assert_allclose(probabilities(images), expected, rtol=1e-6)
    scores = jc2i.logits(model)(images)
    np.testing.assert_array_equal(
        of_targets(scores, jnp.array([2, 0])), [scores[0, 2], scores[1, 0]]
    )


def test_the_lead_of_a_target_is_over_the_highest_of_the_others():
    scores = jnp.float32([[1, 4, 3], [2, -5, -7], [0, 0, -1]])
    np.testing.assert_array_equal(leads_of_targets(scores, jnp.array([1, 2, 0])), [1, -9, 0])


def test_weights_are_leaves_and_plain_functions_are_static(linear):
    model, calibrator = linear(), Temperature(jnp.float32(2.0))
    assert len(jax.tree.leaves(jc2i.probabilities(model, calibrator))) == 2
    assert jax.tree.leaves(jc2i.probabilities(lambda images: images.mean((1, 2)))) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jc2i.probabilities(3), "model: got 3, takes a callable: images -> scores"),
        (lambda: jc2i.logits(len, 2.0), "calibrator: got 2.0, takes a callable: logits -> logits"),
        (
            lambda: jc2i.probabilities(len, softmax="soft"),
            "softmax: got 'soft', takes 'exact' or 'plain'",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError) as refusal:
        make()
    assert message in str(refusal.value)

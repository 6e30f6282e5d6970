from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i.explainers import integrated_gradients
from jc2i.explainers.gradients.integrated_gradients import METHODS, quadrature

OPTIONS = {"steps": 7, "channels": None}


@pytest.mark.parametrize("method", METHODS)
def test_equals_captums_for_the_same_rule(explained, captum, method):
    network, images, targets, expected = explained("relu")
    expected = expected[f"integrated_gradients/{method}"]
    if method == "trapezoid":
        # Captum's weights are 1/n and 1/(2n): they sum to (n - 1)/n. Ours sum to 1.
        expected = expected * 7 / 6
    reference = captum["reference"]
    maps = integrated_gradients(
        network, images, targets, references=reference, method=method, **OPTIONS
    )
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_equals_captums_from_black(explained, activation):
    network, images, targets, expected = explained(activation)
    maps = integrated_gradients(network, images, targets, references="black", **OPTIONS)
    expected = expected["integrated_gradients/black"]
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-6)


def test_references_are_averaged_before_the_channels_are_reduced(explained):
    network, images, targets, _ = explained("relu")
    explain = functools.partial(integrated_gradients, network, images, targets, steps=4)
    black, white = (explain(references=name, channels=None) for name in ("black", "white"))
    expected = jnp.abs((black + white) / 2).sum(-1)
    np.testing.assert_allclose(explain(), expected, rtol=1e-5, atol=1e-6)
    by_value = explain(references=(np.zeros((1, 1, 3)), np.ones((9, 10, 3))))
    np.testing.assert_allclose(by_value, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(explain(references=0.0), explain(references="white"))


def completeness_error(model, images, targets, **options):
    """|sum of the attributions - (score of the image - score of the reference)|."""
    maps = integrated_gradients(
        model, images, targets, references="black", channels="sum", **options
    )
    rows = jnp.arange(len(targets))
    gained = model(images)[rows, targets] - model(jnp.zeros_like(images))[rows, targets]
    return jnp.abs(maps.sum((1, 2)) - gained)


def test_completeness_error_falls_as_one_over_steps_on_a_relu_network(convnet):
    network = convnet("relu")
    images = jax.random.uniform(jax.random.key(0), (24, 8, 8, 3))
    targets = jnp.arange(24) % 4
    steps = np.array([8, 24, 72, 216])
    errors = [completeness_error(network, images, targets, steps=int(m)).mean() for m in steps]
    slope = np.polyfit(np.log(steps), np.log(np.array(errors)), 1)[0]
    assert -1.15 < slope < -0.85, errors


def test_completeness_holds_at_300_steps_on_a_smooth_network(convnet):
    network = jc2i.probabilities(convnet("softplus"))
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3))
    error = completeness_error(network, images, jnp.arange(4), steps=300)
    assert error.max() < 1e-3


def test_rules_integrate_the_polynomials_they_should():
    # Degree up to which each rule with 4 points is exact on [0, 1].
    degrees = {"riemann_middle": 1, "trapezoid": 1, "gauss_legendre": 7}
    for method in METHODS:
        points, weights = quadrature(method, 4)
        assert np.isclose(weights.sum(), 1)
        exact = [np.isclose(weights @ points**d, 1 / (d + 1)) for d in range(10)]
        degree = degrees.get(method, 0)
        assert all(exact[: degree + 1]) and not exact[degree + 1], method
    points, weights = quadrature("trapezoid", 30)
    assert np.allclose(weights[[0, 1, -1]], [1 / 58, 1 / 29, 1 / 58])


def test_references_may_mix_words_numbers_and_arrays(convnet):
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    grey = jnp.full((8, 8, 3), 0.5)

    def maps(*references):
        return integrated_gradients(
            convnet(), images, jnp.arange(2), steps=3, references=references, channels=None
        )

    mixed = maps("black", grey, 0.25)
    apart = (maps("black") + maps(0.5) + maps(0.25)) / 3
    np.testing.assert_allclose(mixed, apart, rtol=1e-4, atol=1e-6)

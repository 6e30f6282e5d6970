"""Guided backpropagation and deconvnet against Captum; which activations are rectifiers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i.explainers import deconvnet, guided_backprop
from jc2i.explainers.propagation.rectifiers import is_rectifier
from jc2i.tracing import units
from tests.explainers.propagation.networks import GOLDEN, captums_network, random


@pytest.mark.parametrize("method", [guided_backprop, deconvnet])
def test_equal_to_captums(method):
    found = method(captums_network("relu"), GOLDEN["images"], GOLDEN["targets"], channels=None)
    expected = GOLDEN[f"relu/{method.__name__}"]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "maximum": lambda x: jnp.maximum(0, x),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "relu6": jax.nn.relu6,
    "clip": lambda x: jnp.clip(x, 0, 6),
    "leaky_relu": jax.nn.leaky_relu,
    "prelu": lambda x: jnp.where(x >= 0, x, random((5,)) * x),
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "exact gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "silu by hand": lambda x: x / (1 + jnp.exp(-x)),
    "hard_swish": jax.nn.hard_swish,
    "softplus": jax.nn.softplus,
}
OTHERS = {"sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "hard_sigmoid": jax.nn.hard_sigmoid}


@pytest.mark.parametrize("name", [*ACTIVATIONS, *OTHERS])
def test_rectifiers_are_recognised_however_they_are_written(name):
    activation = {**ACTIVATIONS, **OTHERS}[name]
    program = units.read(activation, jnp.ones((2, 5)))
    (found,) = [unit for unit in program.units if unit.kind not in ("fixed", "held")]
    assert found.kind == "activation" and is_rectifier(found) == (name in ACTIVATIONS)


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_the_way_back_by_hand(name):
    # F = sum of w f(x): guided backpropagation gives f'(x) max(w, 0), deconvnet max(w, 0).
    weights, image = random((6,), 1), random((1, 2, 3, 1), 2)
    function = ACTIVATIONS[name]
    dense = jnp.stack([weights, weights], axis=1)

    def model(images):
        return function(images.reshape(len(images), -1)) @ dense

    slope = jax.vmap(jax.grad(function))(image.ravel())
    guided = guided_backprop(model, image, np.array([0]), channels="sum")
    np.testing.assert_allclose(guided.ravel(), slope * jnp.maximum(weights, 0), atol=1e-6)
    backward = deconvnet(model, image, np.array([1]), channels="sum")
    np.testing.assert_allclose(backward.ravel(), jnp.maximum(weights, 0), atol=1e-6)

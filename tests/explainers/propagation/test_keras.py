"""Propagation through a Keras network on JAX, where Keras is installed: no extra asks for it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import explainers

SHAPE = (12, 10, 3)
IMAGES = np.random.default_rng(0).uniform(0.1, 1, size=(2, *SHAPE)).astype(np.float32)
TARGETS = np.array([4, 1])


@pytest.fixture(scope="module")
def network():
    """A functional network with a normalisation, a residual sum and poolings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        keras = pytest.importorskip("keras")
    layers = keras.layers
    pixels = keras.Input(SHAPE)
    x = layers.Conv2D(6, 3, padding="same", use_bias=False)(pixels)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.MaxPooling2D(2)(x)
    y = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    return keras.Model(pixels, layers.Dense(5)(x))


def score(network, biases):
    """Its scores, a function of images, with random weights and `biases` or none."""
    random = np.random.default_rng(1)

    def value(variable):
        name, shape = variable.path.split("/")[-1], variable.shape
        if name in ("beta", "moving_mean", "bias"):
            return biases * random.standard_normal(shape)
        kernel = name == "kernel"
        return random.standard_normal(shape) if kernel else random.uniform(0.5, 1.5, shape)

    def scores(trainable, fixed, images):
        return network.stateless_call(trainable, fixed, images, training=False)[0]

    kinds = network.trainable_variables, network.non_trainable_variables
    return functools.partial(scores, *([jnp.float32(value(v)) for v in kind] for kind in kinds))


@pytest.mark.slow
def test_deeplift_of_a_keras_network_is_complete(network):
    model, rows = score(network, biases=1), np.arange(2)
    maps, error = explainers.deeplift(model, IMAGES, TARGETS, channels="sum", return_error=True)
    change = np.asarray(model(IMAGES) - model(0 * IMAGES))[rows, TARGETS]
    np.testing.assert_allclose(maps.sum((1, 2)), change, rtol=1e-4)
    assert np.abs(error).max() < 1e-4 * np.abs(change).max()


@pytest.mark.slow
def test_relevance_of_a_keras_network_without_biases_is_gradient_times_input(network):
    model = score(network, biases=0)
    relevance = explainers.lrp(model, IMAGES, TARGETS, epsilon=0.0)
    slope = jax.grad(lambda images: model(images)[np.arange(2), TARGETS].sum())(IMAGES)
    product = (slope * IMAGES).sum(-1)
    largest = np.abs(product).max()
    assert np.abs(relevance - product).max() < 1e-4 * largest

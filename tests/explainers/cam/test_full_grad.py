"""FullGrad against the logit it takes apart, its equation in NumPy and pytorch-grad-cam."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i import explainers, models
from jc2i.explainers.cam.full_grad import decomposition

from .test_cam_family import GOLDEN, IMAGES, TARGETS, convolved, golden_model


def total(parts):
    terms = (parts.input, *parts.prepared, *parts.biases)
    return sum(np.float64(term).reshape(len(term), -1).sum(axis=1) for term in terms)


def scores_of(model, images, targets):
    return np.asarray(model(images), float)[np.arange(len(images)), np.asarray(targets)]


def random_weights(model):
    """Every bias and statistic other than zero."""
    random = np.random.default_rng(0)
    weights = models.classifier.weights(model)
    drawn = {
        name: value + 0.2 * random.uniform(0.1, 1, value.shape).astype(np.float32)
        for name, value in weights.items()
        if value.ndim == 1
    }
    return models.classifier.with_weights(model, weights | drawn)


def test_completeness_on_a_rectifier_network():
    """Batch normalisations, connections around them, and a normalisation of the images."""
    model = random_weights(models.create("resnet20_cifar", classes=5, key=jax.random.key(0)))
    images = jax.random.uniform(jax.random.key(1), (2, 16, 12, 3))
    targets = jnp.array([4, 1])
    parts = jax.jit(lambda model, images: decomposition(model, images, targets))(model, images)
    expected = scores_of(model, images, targets)
    np.testing.assert_allclose(total(parts), expected, rtol=1e-4)
    biases = sum(np.float64(term).reshape(2, -1).sum(axis=1) for term in parts.biases)
    assert (np.abs(biases) > 0.005 * np.abs(expected)).all()


@pytest.mark.parametrize("activation", ["relu6", "gelu", "leaky_relu"])
def test_completeness_with_what_activations_add(convnet, activation):
    model, images = convnet(activation), 5 * IMAGES
    targets = np.array([3, 0, 1])
    parts = decomposition(model, images, targets, activations=True)
    np.testing.assert_allclose(total(parts), scores_of(model, images, targets), rtol=1e-4)
    alone = total(decomposition(model, images, targets))
    assert np.allclose(alone, total(parts), rtol=1e-3) == (activation == "leaky_relu")


def normalises_sums(values):
    """A block whose normalisation and rectifier stand in front of its convolution."""
    inside = (values + convolved(jax.nn.relu(values), "kernel1", 1)[..., :3] - 0.2) * GOLDEN[
        "bias1"
    ][:3]
    return values + convolved(jax.nn.relu(inside + GOLDEN["bias1"][1:4]), "kernel1", 1)[..., 1:]


BIAS = GOLDEN["bias1"]


def normalised(values):
    """The arithmetic of a batch normalisation, its numbers made up."""
    return (values - 0.3 * BIAS) * (1 + BIAS**2) / 1.7 + BIAS[::-1]


CELLS = {
    "a normalisation behind a rectifier": lambda x: normalised(
        jax.nn.relu(convolved(x, "kernel1", 1))
    ),
    "a normalisation between rectifiers": lambda x: jax.nn.relu(
        normalised(jax.nn.leaky_relu(convolved(x, "kernel1", 1)))
    ),
    "a normalisation on both sides": lambda x: normalised(
        jax.nn.relu(normalised(convolved(x, "kernel1", 1) + x[..., :1]))
    ),
    "a bias behind a rectifier": lambda x: jax.nn.relu(convolved(x, "kernel1", 1)) + BIAS,
    "a number behind a rectifier": lambda x: 3 * jax.nn.relu(convolved(x, "kernel1", 1)) - 0.6,
    "a normalisation of a sum": normalises_sums,
    "a number in front of a rectifier": lambda x: convolved(jax.nn.relu(0.7 - x), "kernel1", 1),
    "a border that is not black": lambda x: convolved(
        jnp.pad(x, ((0, 0), (1, 2), (2, 1), (0, 0)), constant_values=0.5), "kernel1", 1
    ),
}


@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS)
def test_no_bias_of_a_rectifier_network_is_left_out(cells):
    def model(images):
        values = cells(images).mean(axis=(1, 2))
        return jax.nn.relu(values + 0.3) @ GOLDEN["kernel1"].reshape(-1, 3)[: values.shape[1]]

    parts = decomposition(model, IMAGES, TARGETS % 3)
    expected = scores_of(model, IMAGES, TARGETS % 3)
    np.testing.assert_allclose(total(parts), expected, rtol=1e-4)
    assert not np.allclose(np.float64(parts.input).sum(axis=(1, 2, 3)), expected, rtol=1e-2)


def test_what_a_hard_sigmoid_adds_is_its_own():
    """relu6(x + 3) / 6: its 3 is no bias of the model's."""

    def model(images):
        return jax.nn.hard_sigmoid(convolved(images, "kernel1", 1)).mean(axis=(1, 2))

    assert not decomposition(model, IMAGES, TARGETS % 3).biases
    parts = decomposition(model, IMAGES, TARGETS % 3, activations=True)
    np.testing.assert_allclose(total(parts), scores_of(model, IMAGES, TARGETS % 3), rtol=1e-4)


def test_what_stands_in_front_of_the_first_layer_counts_to_the_input():
    mean, deviation = np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.25, 0.3])

    def prepared(images):
        return golden_model((images - mean) / deviation)

    raw = IMAGES * deviation + mean
    maps = explainers.full_grad(prepared, raw, TARGETS)
    expected = explainers.full_grad(golden_model, IMAGES, TARGETS)
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-3)


def psi(terms, together):
    """Min-max normalised absolute values, resized with pixel centres at half-integers, summed."""
    axes = (1, 2, 3) if together else (1, 2)
    terms = np.abs(terms)
    low, high = terms.min(axes, keepdims=True), terms.max(axes, keepdims=True)
    scaled = (terms - low) / np.where(high > low, high - low, 1)
    shape = (*IMAGES.shape[:3], terms.shape[-1])
    return np.asarray(jax.image.resize(scaled, shape, "linear")).sum(axis=-1)


@pytest.mark.parametrize("rescale", ["channel", "layer"])
def test_equal_to_its_equation_with_biases_written_out(rescale):
    """The two spatial biases, added by hand to what the layers give."""
    shift = GOLDEN["shift"] - GOLDEN["mean"] * GOLDEN["scale"] / np.sqrt(GOLDEN["variance"] + 1e-5)

    def with_biases(images, first, second):
        values = jax.nn.relu(convolved(images, "kernel1", 1) + first)
        values = convolved(values, "kernel2", 2) * (
            GOLDEN["scale"] / np.sqrt(GOLDEN["variance"] + 1e-5)
        ).astype(np.float32)
        values = jax.nn.relu(values + second).reshape(3, -1)
        return (values @ GOLDEN["dense"] + GOLDEN["bias3"])[jnp.arange(3), TARGETS].sum()

    first = jnp.broadcast_to(GOLDEN["bias1"], (3, 9, 10, 4))
    second = jnp.broadcast_to(jnp.float32(shift), (3, 5, 5, 6))
    by_image, *by_bias = jax.grad(with_biases, (0, 1, 2))(IMAGES, first, second)
    expected = psi(np.asarray(by_image * IMAGES), rescale == "layer")
    for bias, gradient in zip((first, second), by_bias, strict=True):
        expected = expected + psi(np.asarray(bias * gradient), rescale == "layer")
    maps = explainers.full_grad(golden_model, IMAGES, TARGETS, rescale=rescale)
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-4)


def test_equal_to_pytorch_grad_cam():
    maps = explainers.full_grad(golden_model, IMAGES, TARGETS)
    np.testing.assert_allclose(jc2i.normalize(maps), GOLDEN["full_grad"], atol=1e-4)

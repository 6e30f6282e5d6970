"""Each weighting of activations against its formula in NumPy, and against pytorch-grad-cam."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jc2i
from jc2i import explainers, taps

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "explainers_grad_cam.npz")
IMAGES, TARGETS = jnp.asarray(GOLDEN["images"]), jnp.asarray(GOLDEN["targets"])
LAYERS = {"layer1": "layer1", "layer2": "layer2", "both": ("layer1", "layer2")}


def golden_model(images):
    """The network of tests/golden/explainers_grad_cam.py."""
    values = convolved(images, "kernel1", 1) + GOLDEN["bias1"]
    values = checkpoint_name(jax.nn.relu(values), "layer1")
    values = convolved(values, "kernel2", 2)
    values = (values - GOLDEN["mean"]) * jax.lax.rsqrt(GOLDEN["variance"] + jnp.float32(1e-5))
    values = checkpoint_name(jax.nn.relu(values * GOLDEN["scale"] + GOLDEN["shift"]), "layer2")
    return values.reshape(len(images), -1) @ GOLDEN["dense"] + GOLDEN["bias3"]


def convolved(values, kernel, stride):
    layout, padding = ("NHWC", "HWIO", "NHWC"), ((1, 1), (1, 1))
    kernel = jnp.asarray(GOLDEN[kernel])
    return jax.lax.conv_general_dilated(
        values, kernel, (stride,) * 2, padding, dimension_numbers=layout
    )


@functools.cache
def captured(layer):
    """Activation and gradient of a layer in float64."""
    activation = taps.capture(golden_model, IMAGES, layer)

    def total(value):
        return taps.replace(golden_model, IMAGES, layer, value)[jnp.arange(3), TARGETS].sum()

    return np.float64(activation), np.float64(jax.jit(jax.grad(total))(activation))


def weighted(weights, activation):
    return np.maximum(np.einsum("bhwk,bk->bhw", activation, weights), 0)


def grad_cam_plus_plus(activation, gradient, epsilon=0.0):
    square, total = gradient**2, activation.sum(axis=(1, 2), keepdims=True)
    below = 2 * square + total * gradient**3 + epsilon
    share = np.divide(square, below, out=np.zeros_like(below), where=gradient != 0)
    return weighted((share * np.maximum(gradient, 0)).sum(axis=(1, 2)), activation)


def xgrad_cam(activation, gradient):
    total = activation.sum(axis=(1, 2))
    above = (gradient * activation).sum(axis=(1, 2))
    return weighted(np.divide(above, total, out=0 * total, where=total != 0), activation)


def layer_cam(activation, gradient):
    return np.maximum((np.maximum(gradient, 0) * activation).sum(axis=-1), 0)


def norm_grad(activation, gradient):
    return np.linalg.norm(activation, axis=-1) * np.linalg.norm(gradient, axis=-1)


@pytest.mark.parametrize("layer", ["layer1", "layer2"])
@pytest.mark.parametrize("formula", [grad_cam_plus_plus, xgrad_cam, layer_cam, norm_grad])
def test_equal_to_the_formula_in_numpy(formula, layer):
    method = getattr(explainers, formula.__name__)
    maps = method(golden_model, IMAGES, TARGETS, layer=layer, resize=False)
    expected = formula(*captured(layer))
    assert expected.max() > 0.1
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5 * expected.max())


@pytest.mark.parametrize("virtual", ["scaling", "bias"])
def test_norm_grad_of_other_layers_put_in(virtual):
    activation, gradient = captured("layer1")
    term = gradient * (activation if virtual == "scaling" else 1)
    options = {"layer": "layer1", "virtual": virtual, "resize": False}
    maps = explainers.norm_grad(golden_model, IMAGES, TARGETS, **options)
    np.testing.assert_allclose(maps, np.linalg.norm(term, axis=-1), rtol=1e-4, atol=1e-4)


def test_norm_grad_is_the_weight_gradient_of_a_convolution_put_in():
    """One cell at a time: the gradient of an identity kernel that is there alone."""
    activation = taps.capture(golden_model, IMAGES, "layer2")
    maps = explainers.norm_grad(golden_model, IMAGES, TARGETS, layer="layer2", resize=False)

    def total(kernel):
        cell = activation.at[:, 2, 3].set(activation[:, 2, 3] @ kernel)
        return taps.replace(golden_model, IMAGES, "layer2", cell)[jnp.arange(3), TARGETS]

    found = jax.jacobian(total)(jnp.eye(6))
    np.testing.assert_allclose(maps[:, 2, 3], jnp.linalg.norm(found, axis=(1, 2)), rtol=1e-4)


PEERS = ["grad_cam", "grad_cam_plus_plus", "xgrad_cam", "hires_cam", "layer_cam", "score_cam"]
CASES = [(name, layer) for name in PEERS for layer in LAYERS]


@pytest.mark.parametrize(
    ("name", "layer"), [*CASES, ("ablation_cam", "layer1"), ("ablation_cam", "layer2")]
)
def test_equal_to_pytorch_grad_cam(name, layer):
    # It divides by the score, rectifies HiRes-CAM, and normalises what it returns.
    options = {"hires_cam": {"relu": True}, "ablation_cam": {"relative": True}}.get(name, {})
    method = getattr(explainers, name)
    maps = method(golden_model, IMAGES, TARGETS, layer=LAYERS[layer], **options)
    expected = GOLDEN[f"{name}_{layer}"]
    assert (expected.max(axis=(1, 2)) > 0.99).any()
    np.testing.assert_allclose(jc2i.normalize(maps), expected, atol=1e-4)


def test_grad_cam_plus_plus_of_pytorch_grad_cam_adds_to_its_denominator():
    """Which no score that is large notices, and every probability does."""
    activation, gradient = captured("layer2")
    for scale in (1, 1e-4):
        exact = grad_cam_plus_plus(activation, scale * gradient)
        theirs = grad_cam_plus_plus(activation, scale * gradient, epsilon=1e-6)
        difference = np.abs(theirs - exact).max() / exact.max()
        assert difference < 1e-3 if scale == 1 else difference > 0.1
        score = functools.partial(scaled, scale=scale)
        options = {"layer": "layer2", "resize": False}
        maps = explainers.grad_cam_plus_plus(score, IMAGES, TARGETS, **options)
        np.testing.assert_allclose(maps, exact, rtol=1e-4, atol=1e-5 * exact.max())


def scaled(images, scale):
    return scale * golden_model(images)


@pytest.mark.parametrize("method", [explainers.grad_cam_plus_plus, explainers.xgrad_cam])
def test_a_feature_whose_sum_is_zero_is_left_out(method):
    """Signed activations: the sum of one feature over its cells is exactly zero."""

    def model(images):
        values = checkpoint_name(images - 0.5, "layer")
        return jnp.stack([(values**3).sum((1, 2, 3)), values.sum((1, 2, 3))], axis=1)

    images = np.zeros((1, 4, 4, 2), np.float32)
    images[0, ::2, :, 0] = 1
    images[0, :, :, 1] = np.linspace(0, 1, 16).reshape(4, 4) ** 2
    maps = method(model, images, np.array([0]), layer="layer")
    assert np.isfinite(maps).all() and maps.max() > 0
    if method is explainers.xgrad_cam:
        alone = method(model, images * np.float32([1, 1]), np.array([0]), layer="layer")
        second = images[..., 1] - 0.5
        weight = (3 * second**3).sum() / second.sum()
        np.testing.assert_allclose(alone, np.maximum(weight * second, 0), rtol=1e-4, atol=1e-6)


def test_cam_is_the_last_dense_layer_in_front_of_any_calibration(convnet):
    model, images = convnet(), jnp.float32(np.random.default_rng(0).random((3, 8, 9, 3)))
    targets = np.array([3, 0, 1])
    activation = np.asarray(taps.capture(model, images, "layer2"))
    weights = np.asarray(model.weights["dense"])[:, targets]
    expected = np.einsum("bhwk,kb->bhw", activation, weights)
    maps = explainers.cam(model, images, targets, resize=False)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)
    half = jc2i.calibrators.Temperature(jnp.float32(2.0))
    for score in (jc2i.logits, jc2i.probabilities, jc2i.log_odds):
        maps = explainers.cam(score(model, half), images, targets, resize=False)
        np.testing.assert_allclose(maps, expected / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer", ["layer1", "layer2"])
def test_cam_refuses_a_layer_with_more_behind_it(layer):
    """A convolution; a dense layer that sees each cell."""
    with pytest.raises(ValueError, match=f"^layer: got '{layer}', takes one with nothing behind"):
        explainers.cam(golden_model, IMAGES, TARGETS, layer=layer)


def test_cam_refuses_a_hidden_dense_layer_and_a_token_that_is_read_alone():
    head = jnp.float32(np.random.default_rng(0).standard_normal((3, 4)))

    def hidden(images):
        values = checkpoint_name(images[:, ::2, ::2], "layer").mean(axis=(1, 2))
        return jax.nn.relu(values @ head) @ jnp.ones((4, 3))

    def token(images):
        return checkpoint_name(images.reshape(len(images), -1, 3), "layer")[:, 0] @ head

    for model in (hidden, token):
        with pytest.raises(ValueError, match="^layer: got 'layer', takes one with nothing behind"):
            explainers.cam(model, IMAGES, jnp.zeros(3, int), layer="layer")


@pytest.mark.parametrize("layer", ["layer1", "layer2"])
def test_eigen_cam_is_the_first_singular_vector(layer):
    activation = captured(layer)[0]
    options = {"layer": layer, "resize": False}
    maps = explainers.eigen_cam(golden_model, IMAGES, TARGETS, **options)
    for found, values in zip(maps, activation, strict=True):
        _, _, right = np.linalg.svd(values.reshape(-1, values.shape[-1]))
        expected = np.abs(values @ right[0])  # of one sign behind a rectifier
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())
    centred = explainers.eigen_cam(
        golden_model, IMAGES, TARGETS, center=True, relu=False, **options
    )
    for found, peer, values in zip(centred, GOLDEN[f"eigen_cam_{layer}"], activation, strict=True):
        found, together = np.asarray(found), values.mean(axis=-1)
        assert np.corrcoef(found.ravel(), together.ravel())[0, 1] > 0
        sign = np.sign((found * peer).sum())
        np.testing.assert_allclose(found, sign * peer, rtol=1e-3, atol=1e-4 * np.abs(peer).max())


def test_eigen_cam_of_nothing_is_nothing():
    def model(images):
        return checkpoint_name(0 * images, "layer").mean(axis=(1, 2))

    np.testing.assert_array_equal(explainers.eigen_cam(model, IMAGES, jnp.zeros(3, int)), 0)

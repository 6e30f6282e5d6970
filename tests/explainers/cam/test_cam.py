"""Grad-CAM and HiRes-CAM against CAM, a sum rule, the formulas in NumPy and Captum."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jc2i
from jc2i import explainers, models, taps
from jc2i.explainers.cam import layers

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "explainers_cam.npz")
METHODS = [explainers.grad_cam, explainers.hires_cam]


def random(shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


@pytest.fixture(scope="module")
def resnet():
    """Ends in global average pooling and one dense layer."""
    model = models.create("resnet20_cifar", classes=5, key=jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (3, 16, 24, 3))
    return model, images, jnp.array([4, 0, 2])


def in_the_middle(resnet):
    """Activation and gradient of a layer whose gradient is not the same in every cell."""
    model, images, targets = resnet
    activation = taps.capture(model, images, "stage2.block1")

    def total(value):
        scores = taps.replace(model, images, "stage2.block1", value)
        return scores[jnp.arange(3), targets].sum()

    return np.float64(activation), np.float64(jax.grad(total)(activation))


def test_grad_cam_is_cam_before_global_average_pooling(resnet):
    model, images, targets = resnet
    activation = np.asarray(taps.capture(model, images, "stage3.block2"))
    weights = np.asarray(model.fc.kernel)[:, np.asarray(targets)]
    cam = np.einsum("bhwk,kb->bhw", activation, weights)  # Zhou et al. 2016, equation (2)
    options = {"layer": "stage3.block2", "resize": False}
    maps = explainers.grad_cam(model, images, targets, relu=False, **options)
    assert maps.shape == (3, 4, 6)
    # Grad-CAM's mean is of the gradient w / cells.
    np.testing.assert_allclose(maps, cam / 24, rtol=1e-4, atol=1e-6)
    positive = explainers.grad_cam(model, images, targets, **options)
    np.testing.assert_array_equal(positive, np.maximum(maps, 0))


def test_hires_cam_sums_to_the_logit_minus_its_bias(resnet):
    model, images, targets = resnet
    biased = models.classifier.with_weights(
        model, models.classifier.weights(model) | {"fc.bias": random((5,))}
    )
    for layer in ("stage3.block2", None):
        maps = explainers.hires_cam(biased, images, targets, layer=layer, resize=False)
        logits = biased(images) - biased.fc.bias
        expected = logits[jnp.arange(3), targets]
        np.testing.assert_allclose(maps.sum(axis=(1, 2)), expected, rtol=1e-4, atol=1e-5)


def test_grad_cam_is_its_formula_worked_in_numpy(resnet):
    activation, gradient = in_the_middle(resnet)
    assert np.std(gradient, axis=(1, 2)).max() > 0.1 * np.abs(gradient).max()
    weights = gradient.mean(axis=(1, 2))
    expected = np.maximum(np.einsum("bhwk,bk->bhw", activation, weights), 0)
    maps = explainers.grad_cam(*resnet, layer="stage2.block1", resize=False)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)


def test_hires_cam_is_its_formula_worked_in_numpy(resnet):
    activation, gradient = in_the_middle(resnet)
    maps = explainers.hires_cam(*resnet, layer="stage2.block1", resize=False)
    np.testing.assert_allclose(maps, (activation * gradient).sum(-1), rtol=1e-4, atol=1e-6)


def golden_model(images):
    """The network of tests/golden/explainers_cam.py."""
    values = images
    for stride, layer in ((1, "1"), (2, "2")):
        values = jax.lax.conv_general_dilated(
            values,
            jnp.asarray(GOLDEN["kernel" + layer]),
            (stride,) * 2,
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        values = checkpoint_name(jax.nn.relu(values + GOLDEN["bias" + layer]), f"layer{layer}")
    return values.reshape(len(images), -1) @ GOLDEN["dense"] + GOLDEN["bias3"]


@pytest.mark.parametrize("layer", ["layer1", "layer2"])
def test_equal_to_captum(layer):
    images, targets = jnp.asarray(GOLDEN["images"]), jnp.asarray(GOLDEN["targets"])
    for relu in (True, False):
        maps = explainers.grad_cam(golden_model, images, targets, layer=layer, relu=relu)
        expected = GOLDEN[f"{layer}_upsampled" if relu else f"{layer}_raw_upsampled"]
        np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)
    maps = explainers.grad_cam(golden_model, images, targets, layer=layer, resize=False)
    np.testing.assert_allclose(maps, GOLDEN[layer], rtol=1e-4, atol=1e-6)


def test_the_last_layer_on_a_grid_is_the_default(resnet):
    model, images, targets = resnet
    for method in METHODS:
        default = method(model, images, targets)
        last = method(model, images, targets, layer="stage3.block2")
        np.testing.assert_array_equal(default, last)


def test_of_a_calibrated_probability(resnet):
    model, images, targets = resnet
    score = jc2i.probabilities(model, jc2i.calibrators.Temperature(jnp.float32(2.0)))
    maps = explainers.grad_cam(score, images, targets)
    assert maps.shape == (3, 16, 24) and (maps > 0).any() and np.isfinite(maps).all()


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_layer_is_refused_with_the_names(resnet, method):
    with pytest.raises(ValueError, match="^layer: got 'layer4', takes one of stem, stage1.block0"):
        method(*resnet, layer="layer4")


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_is_no_grid_is_refused(resnet, method):
    takes = r"takes one of stem, .*, stage3.block2"
    with pytest.raises(ValueError, match=rf"^layer: got 'pool', float32\[3, 64\], {takes}"):
        method(*resnet, layer="pool")


def test_a_model_that_names_nothing_is_refused(linear):
    with pytest.raises(ValueError, match="^layer: got None, takes a model that names"):
        explainers.grad_cam(linear(), jnp.zeros((1, 8, 8, 2)), jnp.zeros(1, int))


def test_attention_maps_are_no_grid():
    def model(images):
        attention = checkpoint_name(jnp.zeros((len(images), 12, 65, 65)), "attention")
        grid = checkpoint_name(images[:, ::2, ::2] + attention.sum(), "grid")
        pixels = checkpoint_name(grid.mean(axis=(1, 2), keepdims=True), "pixel")
        return checkpoint_name(pixels[:, 0, 0], "features")

    images = jnp.zeros((2, 16, 17, 3))
    assert layers.chosen(model, images, None) == ("grid", -1)
    with pytest.raises(ValueError, match="^layer: got 'attention'"):
        layers.chosen(model, images, "attention")


def test_channels_first_is_told_by_the_grid_or_by_name():
    """An activation whose axes could be taken either way is refused; named, it gives one map."""
    random = np.random.default_rng(0)
    kernel = jnp.float32(random.standard_normal((3, 3, 2, 16)))
    head = jnp.float32(random.standard_normal((16 * 16 * 16, 3)))

    def model(images, first):
        layout = ("NHWC", "HWIO", "NHWC")
        values = jax.lax.conv_general_dilated(
            images, kernel, (2, 2), "SAME", dimension_numbers=layout
        )
        values = values.transpose(0, 3, 1, 2) if first else values
        values = jax.nn.relu(checkpoint_name(values, "layer"))
        values = values.transpose(0, 2, 3, 1) if first else values
        return values.reshape(len(values), -1) @ head

    images = jnp.float32(random.random((2, 32, 32, 2)))
    models = {axis: functools.partial(model, first=axis == 1) for axis in (1, -1)}
    maps = {
        axis: explainers.grad_cam(models[axis], images, np.zeros(2, int), channel_axis=axis)
        for axis in models
    }
    np.testing.assert_allclose(maps[1], maps[-1], rtol=1e-5, atol=1e-6)
    for either in models.values():
        with pytest.raises(ValueError, match="^channel_axis: got None, takes -1 or 1"):
            explainers.grad_cam(either, images, np.zeros(2, int), layer="layer")
    wide = jax.lax.slice_in_dim(images, 0, 28, axis=2)

    def narrow(images):
        named = checkpoint_name(images[:, ::2, ::2].repeat(8, -1).transpose(0, 3, 1, 2), "layer")
        return named.sum((2, 3))

    assert layers.chosen(narrow, wide, "layer") == ("layer", 1)

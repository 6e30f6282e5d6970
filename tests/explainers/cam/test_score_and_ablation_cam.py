"""Score-CAM and Ablation-CAM against a plain loop over the features, feature by feature."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import explainers, removal, taps

LAYER = "layer2"
IMAGES = np.random.default_rng(0).uniform(size=(3, 12, 10, 3)).astype(np.float32)
TARGETS = np.array([0, 3, 1])


@pytest.fixture(scope="module")
def network(convnet):
    return convnet()


@pytest.fixture(scope="module")
def activation(network):
    return np.asarray(taps.capture(network, IMAGES, LAYER))


def map_of(weights, activation):
    return np.maximum(np.einsum("bhwk,bk->bhw", activation, weights), 0)


def score(network, images, values=None):
    scores = network(images) if values is None else taps.replace(network, images, LAYER, values)
    return np.asarray(scores)[np.arange(len(images)), TARGETS]


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_ablation_cam_is_brute_force_zeroing_through_the_whole_network(
    network, activation, relative, batch_size
):
    whole, falls = score(network, IMAGES), []
    for k in range(activation.shape[-1]):
        ablated = activation.copy()
        ablated[..., k] = 0
        falls.append(whole - score(network, IMAGES, jnp.asarray(ablated)))
    weights = np.stack(falls, 1) / (whole[:, None] if relative else 1)
    maps = explainers.ablation_cam(
        network,
        IMAGES,
        TARGETS,
        layer=LAYER,
        relative=relative,
        resize=False,
        batch_size=batch_size,
    )
    np.testing.assert_allclose(maps, map_of(weights, activation), rtol=1e-4, atol=1e-6)


def test_a_score_of_zero_divides_nothing(network, activation):
    def model(images):
        scores = network(images)
        return scores.at[0].multiply(0)

    options = {"layer": LAYER, "relu": False, "resize": False}
    maps = explainers.ablation_cam(model, IMAGES, TARGETS, relative=True, **options)
    np.testing.assert_array_equal(maps[0], 0)
    alone = explainers.ablation_cam(network, IMAGES, TARGETS, relative=True, **options)
    np.testing.assert_allclose(maps[1:], alone[1:], rtol=1e-5)


@pytest.mark.parametrize("baseline", [0.0, "blur"])
def test_score_cam_is_a_loop_over_masked_images(network, activation, baseline):
    fill, scores = np.asarray(removal.fill(jnp.asarray(IMAGES), baseline)), []
    for k in range(activation.shape[-1]):
        # JAX's bilinear resize has its pixel centres at half-integers.
        mask = np.asarray(jax.image.resize(activation[..., k], IMAGES.shape[:3], "linear"))
        low, high = (f(mask, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
        mask = ((mask - low) / np.where(high > low, high - low, 1))[..., None]
        scores.append(score(network, np.float32(IMAGES * mask + fill * (1 - mask))))
    weights = np.exp(scores) / np.exp(scores).sum(0)
    maps = explainers.score_cam(
        network, IMAGES, TARGETS, layer=LAYER, baseline=baseline, resize=False, batch_size=8
    )
    np.testing.assert_allclose(maps, map_of(weights.T, activation), rtol=1e-4, atol=1e-6)


def test_ablations_cost_the_part_behind_the_layer(network):
    """Each feature costs what is behind the layer, and the part in front is computed once."""

    def operations(function):
        compiled = jax.jit(function).lower(network, IMAGES).compile()
        return compiled.cost_analysis()["flops"]

    whole = operations(lambda model, x: model(x))
    front = operations(lambda model, x: taps.capture(model, x, LAYER))
    assert front > 0.9 * whole  # a pooling and a dense layer are behind
    every = operations(
        lambda model, x: explainers.ablation_cam(
            model, x, TARGETS, layer=LAYER, resize=False, batch_size=None
        )
    )
    assert every < 1.5 * whole  # a loop's body counts once: with the front in it, it would be two


@pytest.mark.parametrize("method", ["score_cam", "ablation_cam"])
def test_memory_with_two_thousand_features_is_bounded_by_batch_size(method):
    """Beside the activation itself: no mask, and no ablated copy, a feature."""
    kernel = np.random.default_rng(1).standard_normal((1, 1, 3, 2048)).astype(np.float32)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    activation = 2 * 16 * 16 * 2048 * 4  # bytes

    def network(kernel, x):
        pooled = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 4, 4, 1), (1, 4, 4, 1), "VALID")
        dimensions = ("NHWC", "HWIO", "NHWC")
        features = jax.nn.relu(
            jax.lax.conv_general_dilated(
                pooled, kernel, (1, 1), "VALID", dimension_numbers=dimensions
            )
        )
        return jax.ad_checkpoint.checkpoint_name(features, "last").mean((1, 2))[:, :5]

    def temporary(batch_size):
        def explain(kernel, x):
            model = functools.partial(network, kernel)
            explainer = getattr(explainers, method)
            return explainer(model, x, np.array([0, 1]), layer="last", batch_size=batch_size)

        compiled = jax.jit(explain).lower(kernel, images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, some = temporary(8), temporary(32)
    assert few < some < 40 * activation  # all 2,048 at once would be thousands of activations
    assert few < 12 * activation

"""Score-CAM and Ablation-CAM against a plain loop over the features, feature by feature."""

from __future__ import annotations

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

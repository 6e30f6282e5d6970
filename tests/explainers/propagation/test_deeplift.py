"""DeepLIFT against Captum, worked by hand, and complete on every operation it knows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i.explainers import deeplift
from tests.explainers.propagation.networks import GOLDEN, captums_network, random

IMAGES = random((2, 4, 5, 3), 1)
TARGETS = np.array([1, 0])


# Quotients of nearly equal numbers: elu's are a few roundings further from Captum's.
TOLERANCE = {"relu": 1e-5, "elu": 5e-5}


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_rescale_equals_captums(activation):
    net, golden = captums_network(activation), GOLDEN
    images, targets = jnp.asarray(golden["images"]), golden["targets"]
    close(net(images), golden[f"{activation}/scores"])
    black = deeplift(net, images, targets, channels=None)
    close(black, golden[f"{activation}/deeplift_black"], TOLERANCE[activation])
    for i in range(3):
        own = deeplift(
            net,
            images[i : i + 1],
            targets[i : i + 1],
            reference=golden["references"][i],
            channels=None,
        )
        close(own[0], golden[f"{activation}/deeplift"][i], TOLERANCE[activation])


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_several_references_are_captums_deeplift_shap(activation):
    golden = GOLDEN
    several = deeplift(
        captums_network(activation),
        golden["images"],
        golden["targets"],
        reference=tuple(golden["references"]),
        channels=None,
    )
    close(several, golden[f"{activation}/deeplift_shap"], TOLERANCE[activation])


def test_a_linear_model_gives_gradient_times_difference():
    kernel = random((60, 3), 2)

    def model(images):
        return images.reshape(len(images), -1) @ kernel

    reference = random((4, 5, 3), 3)
    maps = deeplift(model, IMAGES, TARGETS, reference=reference, channels=None)
    expected = kernel.T[TARGETS].reshape(IMAGES.shape) * (IMAGES - reference)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)


def test_reveal_cancel_by_hand():
    # The paper's example, min(i1, i2) = i1 - relu(i1 - i2), figure 2: reference 0, i1 = 3, i2 = 1.
    # z = i1 - i2: D+ = 3, D- = -1. relu's change by D+: ((3 - 0) + (2 - 0)) / 2 = 2.5, by D-:
    # ((0 - 0) + (2 - 3)) / 2 = -.5. i1 then has 3 - 2.5 = .5 and i2 has .5. Rescaled: relu's
    # multiplier is 1, so that i1 has 3 - 3 = 0 and i2 all of the 1.
    difference = jnp.float32([[1.0, 0], [-1.0, 0]])

    def model(images):
        pixels = images.reshape(len(images), 2)
        hidden = jax.nn.relu(pixels @ difference)
        return jnp.stack([pixels[:, 0] - hidden[:, 0], pixels[:, 1]], axis=1)

    image = jnp.float32([3, 1]).reshape(1, 1, 2, 1)
    revealed = deeplift(model, image, np.array([0]), rule="reveal_cancel")
    np.testing.assert_allclose(revealed.ravel(), [0.5, 0.5], atol=1e-6)
    rescaled = deeplift(model, image, np.array([0]))
    np.testing.assert_allclose(rescaled.ravel(), [0, 1], atol=1e-6)


def normalized(values):
    centred = values - values.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + 1e-5)


MASK = np.where(np.tri(20) > 0, 0, -np.inf).astype(np.float32)

OPERATIONS = {
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "hard swish": jax.nn.hard_swish,
    "leaky relu": jax.nn.leaky_relu,
    "by hand": lambda x: x * (1 / (1 + jnp.exp(-x))) + jnp.where(x > 0.1, x, jnp.expm1(x)),
    "gate": lambda x: x * jax.nn.sigmoid(x.mean(axis=(1, 2), keepdims=True)),
    "normalisation": normalized,
    "softmax": lambda x: jax.nn.softmax(9 * x) + jax.nn.softmax(x, axis=(1, 2)),
    "log softmax": jax.nn.log_softmax,
    "attention": lambda x: jnp.einsum(
        "bij,bjc->bic",
        jax.nn.softmax(jnp.einsum("bic,bjc->bij", *[x.reshape(2, 20, 6)] * 2) + MASK),
        x.reshape(2, 20, 6),
    ),
    "quotient": lambda x: x[..., :3] / (2 + jnp.square(x[..., 3:])),
    "maxima": lambda x: (
        jnp.maximum(x[..., :3], x[..., 3:]) + x.max(axis=(1, 2), keepdims=True)[..., :3]
    ),
    "pooling": lambda x: jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    ),
}


@pytest.mark.parametrize("rule", ["rescale", "reveal_cancel"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_complete(name, rule):
    first, bias = random((3, 6), 4), random((6,), 5)

    def model(images):
        values = OPERATIONS[name](jnp.tanh(images @ first + bias))
        flat = values.reshape(len(images), -1)
        return flat @ random((flat.shape[1], 3), 6)

    reference = (0.3, random((4, 5, 3), 7))
    maps, error = deeplift(
        model, IMAGES, TARGETS, rule=rule, reference=reference, return_error=True
    )
    at = [model(jnp.broadcast_to(r, IMAGES.shape)) for r in reference]
    change = np.array(model(IMAGES) - sum(at) / 2)[np.arange(2), TARGETS]
    scale = np.abs(change).max() + np.abs(maps).sum(axis=(1, 2)).max() / 10
    assert np.abs(maps.sum(axis=(1, 2)) - change).max() < 1e-4 * scale
    np.testing.assert_allclose(error, maps.sum(axis=(1, 2)) - change, atol=1e-4 * scale)


def test_max_pooling_by_hand():
    # Windows of two pixels, reference 0.1, 0.9 and 0.3, 0.2, image 0.5, 0.6 and 0.8, 0.4. First
    # window: .6 < .9, so all of -.3 is the reference's place's, the second pixel. Second window: .8
    # is the image's place's, the first pixel: .8 - .3.
    def model(images):
        rows = images.reshape(len(images), 2, 2).max(axis=2)
        windows = jax.lax.reduce_window(
            images, -jnp.inf, jax.lax.max, (1, 1, 2, 1), (1, 1, 2, 1), "VALID"
        )
        return jnp.stack([windows.sum(axis=(1, 2, 3)), rows.sum(axis=1)], axis=1)

    image = jnp.float32([0.5, 0.6, 0.8, 0.4]).reshape(1, 2, 2, 1)
    reference = np.float32([0.1, 0.9, 0.3, 0.2]).reshape(2, 2, 1)
    for target in (0, 1):
        maps = deeplift(model, image, np.array([target]), reference=reference)
        np.testing.assert_allclose(maps.ravel(), [0, -0.3, 0.5, 0], atol=1e-6)


def test_a_saturated_probability_is_complete():
    def model(images):
        return 30 * images.mean(axis=(1, 2)) * jnp.float32([3, -1, 0])

    maps, error = deeplift(
        jc2i.probabilities(model), IMAGES, TARGETS, reference="white", return_error=True
    )
    assert np.isfinite(maps).all() and np.abs(error).max() < 1e-5


def test_temperature_changes_the_scale_and_nothing_else():
    # C2I figure 4: maps of a logit are those of the calibrated logit.
    net = captums_network("relu")
    images, targets = jnp.asarray(GOLDEN["images"]), GOLDEN["targets"]
    calibrated = jc2i.logits(net, jc2i.calibrators.Temperature(jnp.float32(2.5)))
    before = deeplift(net, images, targets)
    close(2.5 * deeplift(calibrated, images, targets), np.array(before))
    same = jc2i.metrics.structural_similarity(
        jc2i.normalize(before), jc2i.normalize(deeplift(calibrated, images, targets)), window=7
    )
    np.testing.assert_allclose(same, 1, atol=1e-4)


def test_scores_that_do_not_depend_on_the_image_share_out_nothing():
    maps, error = deeplift(lambda images: jnp.ones((2, 3)), IMAGES, TARGETS, return_error=True)
    np.testing.assert_array_equal(maps, 0)
    np.testing.assert_array_equal(error, 0)


def test_an_unknown_operation_is_refused_by_name_and_line():
    def model(images):
        return jnp.sort(images.reshape(len(images), -1))[:, :4]

    with pytest.raises(ValueError, match=r"model: got one with sort at .*test_deeplift.py:\d+"):
        deeplift(model, IMAGES, TARGETS)

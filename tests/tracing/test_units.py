"""A program as linear maps, activations and single operations, however it was written."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from jc2i import models
from jc2i.tracing import units


def random(shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


IMAGES = random((2, 6, 5, 3))
MEAN, SCALE, BIAS = (random((4,), seed) for seed in (1, 2, 3))
VARIANCE = jnp.abs(random((4,), 4)) + 0.1


def separate(values):
    return (values - MEAN) / jnp.sqrt(VARIANCE + 1e-5) * SCALE + BIAS


def scale_and_shift(values):
    scale = SCALE * jax.lax.rsqrt(VARIANCE + 1e-5)
    return values * scale + (BIAS - MEAN * scale)


def turned(values):
    """Broadcast by hand, in another order, with signs that cancel."""
    wide = [jnp.broadcast_to(v, values.shape) for v in (MEAN, SCALE * jax.lax.rsqrt(VARIANCE))]
    return BIAS - wide[1] * -(2 * (values - wide[0]) / 2)


def already(values):
    return values + BIAS


NORMALISATIONS = {f.__name__: f for f in (separate, scale_and_shift, turned, already)}


def convolved(images, layout="NHWC"):
    return jax.lax.conv_general_dilated(
        images, random((3, 3, 3, 4), 5), (2, 1), "SAME", dimension_numbers=(layout, "HWIO", layout)
    )


MAPS = {
    "convolution": convolved,
    "convolution with a bias": lambda images: convolved(images) + random((4,), 6),
    "depthwise": lambda images: jax.lax.conv_general_dilated(
        images @ random((3, 4)),
        random((3, 3, 1, 4), 5),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=4,
    ),
    "product": lambda images: images @ random((3, 4), 5),
    "weights first": lambda images: jnp.moveaxis(random((4, 3), 5) @ images.reshape(-1, 3).T, 0, 1),
}


def program(model, images=IMAGES, **options):
    return units.read(model, images, **options)


def evaluated(model):
    return lambda images: program(model, images).evaluate({}, images)


def kinds(model, images=IMAGES, **options):
    return [u.kind for u in program(model, images, **options).units if u.kind != "fixed"]


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("kind", [kind for kind in MAPS if kind != "weights first"])
@pytest.mark.parametrize("call", ["plain", "jit", "checkpoint"])
def test_a_normalisation_written_in_any_way_is_one_map_and_one_sum(kind, normalisation, call):
    wrap = {"plain": lambda f: f, "jit": jax.jit, "checkpoint": jax.checkpoint}[call]

    def model(images):
        return jnp.tanh(wrap(NORMALISATIONS[normalisation])(MAPS[kind](images)))

    np.testing.assert_allclose(evaluated(model)(IMAGES), model(IMAGES), rtol=1e-5, atol=2e-6)
    found = [kind for kind in kinds(model) if kind != "linear"]
    assert found == ["activation"] and kinds(model)[-2] == "linear"


@pytest.mark.parametrize(
    "model",
    [
        lambda x: MAPS["weights first"](x) * 3,
        # Channels in the second place.
        lambda x: convolved(x.transpose(0, 3, 1, 2), "NCHW") * SCALE[:, None, None],
        # Several axes of one kernel, as heads of attention have them.
        lambda x: jnp.einsum("bhwc,cij->bhwij", x, random((3, 2, 4))) * random((2, 4)) / 7,
        lambda x: jnp.einsum("bhwc,wcj->wbhj", x, random((5, 3, 4))) * SCALE,
        lambda x: 3.0 / convolved(x),
    ],
)
def test_other_layouts_have_the_same_values(model):
    np.testing.assert_allclose(evaluated(model)(IMAGES), model(IMAGES), rtol=2e-5, atol=1e-5)
    assert not {"affine", "add", "mul"} & {*kinds(model)}


def test_gates_residuals_and_names_are_not_folded():
    def model(images):
        values = convolved(images)
        gate = jax.nn.sigmoid(values.mean(axis=(1, 2), keepdims=True))
        named = checkpoint_name(convolved(images), "named") * SCALE
        by_pixel = convolved(images) * random((3, 5, 1), 8)
        return values * gate + named + by_pixel

    np.testing.assert_allclose(evaluated(model)(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)
    found = kinds(model)
    # The gate is a product, and what scales a named value or single pixels no part of a linear map.
    assert found.count("mul") == 1 and "name" in found
    assert found.count("linear") == 3 and found.count("scale") == 2


@pytest.mark.parametrize("name", ["resnet20_cifar", "efficientnet_lite0"])
def test_networks_have_nothing_but_a_sum_behind_a_linear_map(name):
    model = models.create(name, classes=5, key=jax.random.key(0))
    drawn = np.random.default_rng(0)
    # Statistics and scales that no two normalisations share.
    model = jax.tree.map(
        lambda leaf: leaf * jnp.float32(drawn.uniform(0.7, 1.3, leaf.shape)), model
    )
    images = jnp.float32(drawn.uniform(size=(1, 32, 32, 3)))
    scores, expected = jax.jit(lambda m, x: (evaluated(m)(x), m(x)))(model, images)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    found = [u for u in program(model, images).units if u.kind != "fixed"]
    assert {"linear", "activation"} <= {u.kind for u in found}
    assert all(u.first for u in found if u.kind in ("affine", "sub", "rsqrt"))


def test_a_softmax_is_one_unit_unless_something_else_reads_its_parts():
    def shared(part):
        def model(images):
            values = images @ random((3, 4))
            exponential = jnp.exp(
                values - jax.lax.stop_gradient(values.max(axis=-1, keepdims=True))
            )
            total = exponential.sum(axis=-1, keepdims=True)
            read = {"sum": lambda: jnp.log(total), "exp": lambda: exponential, None: lambda: values}
            return exponential / total, read[part]()

        return model

    assert "softmax" in kinds(shared(None)) and "softmax" in kinds(lambda x: jax.nn.softmax(x, 1))
    for part in ("sum", "exp"):
        model = shared(part)
        assert "softmax" not in kinds(model)
        for found, expected in zip(evaluated(model)(IMAGES), model(IMAGES), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_below_zero_is_known():
    def model(images):
        values = jax.nn.relu6(convolved(images)).mean(axis=(1, 2))
        gated = jax.nn.sigmoid(values @ random((4, 4), 9)) * values
        return (gated @ random((4, 3), 10), (gated - values) @ random((4, 3), 10))

    found = [u.nonnegative for u in program(model).units if u.kind == "linear"]
    # The image's sign is not known, relu6's and its mean's is, a gate's product's, no difference's.
    assert found == [False, True, True, False]


def test_a_program_under_grad_and_vmap():
    def model(images):
        return jnp.tanh(separate(convolved(images))).sum(axis=(1, 2))

    def gradients(model):
        loss = jax.grad(lambda image: (model(image[None]) ** 2).sum())
        return jax.jit(jax.vmap(loss))(IMAGES)

    np.testing.assert_allclose(gradients(evaluated(model)), gradients(model), rtol=1e-4, atol=1e-5)

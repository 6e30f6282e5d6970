"""Models of every make, prepared: which convolutions change, and what does not."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jc2i import models, taps
from jc2i.tracing import prepared
from jc2i.tracing.interpreter import equations


def random(shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(images, kernel, strides=(1, 1), padding="SAME", layout=LAYOUT, **options):
    return jax.lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=layout, **options
    )


def inside(model, images):
    return [e.primitive.name for e in equations(jax.make_jaxpr(model)(images).jaxpr)]


def equal(model, images):
    def evaluate(model):
        def loss(images):
            scores = model(images)
            return (scores**2).sum(), scores

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(images)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        evaluate(prepared(model)),
        evaluate(model),
    )


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_a_pointwise_convolution_is_a_matrix_product(strides):
    def model(images):
        return convolve(images, random((1, 1, 3, 5)), strides)

    images = random((2, 5, 7, 3), 1)
    equal(model, images)
    found = inside(prepared(model), images)
    assert "dot_general" in found and "conv_general_dilated" not in found


@pytest.mark.parametrize(
    ("layout", "options"),
    [
        (LAYOUT, {"padding": ((1, 0), (0, 0))}),
        (LAYOUT, {"padding": ((0, 0), (0, 0)), "lhs_dilation": (2, 1)}),
        (("NCHW", "HWIO", "NCHW"), {}),
    ],
)
def test_other_pointwise_convolutions_stay_convolutions(layout, options):
    images = random((2, 3, 3, 3), 1)

    def model(images):
        return convolve(images, random((1, 1, 3, 5)), layout=layout, **options)

    equal(model, images)
    assert "conv_general_dilated" in inside(prepared(model), images)


def blocks(wrap):
    """Depthwise and pointwise convolutions, as a user writes them, in a scan."""
    weights = (random((3, 3, 3, 1, 4), 1) / 3, random((3, 1, 1, 4, 4), 2) / 2)

    @wrap
    def step(values, kernels):
        values = jnp.tanh(convolve(values, kernels[0], feature_group_count=4))
        return jnp.tanh(convolve(values, kernels[1])), None

    def model(images):
        values = convolve(images, random((3, 3, 3, 4)))
        return jax.lax.scan(step, values, weights)[0].mean(axis=(1, 2))

    return model


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_convolutions_inside_a_scan_change_and_it_stays_a_scan(wrap):
    model, images = blocks(wrap), random((2, 5, 6, 3))
    equal(model, images)
    found = inside(prepared(model), images)
    assert found.count("scan") == 1
    # The first one alone, whose gradient is another.
    assert found.count("conv_general_dilated") == 1
    assert (wrap is not jax.checkpoint) or {"remat2", "checkpoint"} & {*found}


class Linen(nn.Module):
    @nn.compact
    def __call__(self, images):
        values = nn.relu(nn.Conv(4, (3, 3), feature_group_count=1)(images))
        values = nn.relu(nn.Conv(4, (3, 3), feature_group_count=4)(values))
        return nn.Dense(3)(nn.Conv(6, (1, 1))(values).mean(axis=(1, 2)))


def linen():
    module, images = Linen(), random((2, 6, 5, 3))
    variables = module.init(jax.random.key(0), images)
    return (lambda images: module.apply(variables, images)), images


def equinox():
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(jax.random.key(0), 4)
    network = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 4, 3, padding=1, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Conv2d(4, 4, 3, groups=4, stride=2, key=keys[1]),
            eqx.nn.Conv2d(4, 6, 1, key=keys[2]),
        ]
    )

    def model(images):
        return jax.vmap(network)(images.transpose(0, 3, 1, 2)).mean(axis=(2, 3))

    return model, random((2, 7, 6, 3))


def lite():
    model = models.create("efficientnet_lite0", classes=3, key=jax.random.key(0))
    return model, jnp.abs(random((1, 32, 32, 3)))


@pytest.mark.parametrize("make", [linen, equinox])
def test_networks_of_every_library(make):
    model, images = make()
    equal(model, images)
    assert "custom_vjp_call" in inside(prepared(model), images)


def test_a_users_depthwise_network_becomes_the_same_program_as_ours():
    model, images = lite()
    found = inside(prepared(model), images)
    # The stem alone: all others are depthwise or pointwise.
    assert found.count("conv_general_dilated") == 1
    plain = inside(model, images)
    assert plain.count("conv_general_dilated") == 1 + 16 + 32
    assert list(taps.names(prepared(model), images)) == list(taps.names(model, images))


def test_preparing_twice_is_preparing_once():
    model, images = blocks(lambda f: f), random((2, 5, 6, 3))
    once = prepared(model)
    assert prepared(once) is once
    # Nor does a prepared model inside of another one change again.
    twice = prepared(lambda images: once(images))
    assert sorted(inside(twice, images)) == sorted(inside(once, images))
    equal(once, images)


def test_a_prepared_model_is_a_pytree_of_the_models_leaves(convnet):
    network, images = convnet(), random((2, 8, 8, 3))
    traced = []

    @jax.jit
    def call(model, images):
        traced.append(model)
        return model(images)

    model = prepared(network)
    assert len(jax.tree.leaves(model)) == len(jax.tree.leaves(network))
    np.testing.assert_allclose(call(model, images), network(images), rtol=1e-5, atol=1e-6)
    call(jax.tree.map(lambda leaf: leaf / 2, model), images)
    assert len(traced) == 1


def test_a_training_step_is_prepared_as_a_function_of_images():
    """The statistics that batch norms gather in a call leave it as results."""
    network = nnx.Sequential(
        nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)),
        nnx.BatchNorm(4, rngs=nnx.Rngs(0)),
        nnx.Conv(4, 4, (3, 3), feature_group_count=4, rngs=nnx.Rngs(1)),
    )
    graph, trained, fixed = nnx.split(network, nnx.Param, ...)
    trained, fixed = nnx.as_pure(trained), nnx.as_pure(fixed)

    def gradient(prepare):
        def loss(trained, images):
            def forward(images):
                model = nnx.merge(graph, trained, fixed)
                values = model(images)
                return values, nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param)))

            values, statistics = prepare(forward)(images)
            return (values**2).mean(), statistics

        return jax.jit(jax.grad(loss, has_aux=True))(trained, random((2, 6, 5, 3)))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradient(prepared),
        gradient(lambda forward: forward),
    )


def test_other_backends_keep_their_convolutions(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    model, _ = linen()
    assert prepared(model) is model

"""Named activations: found, read and replaced, whatever the function is made of."""

from __future__ import annotations

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

import jc2i
from jc2i import models, parallel, taps


def random(shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


IMAGES = jnp.abs(random((3, 8, 8, 3)))


def plain(images):
    """Three named activations behind each other, and a connection around the middle one."""
    first = checkpoint_name(jnp.tanh(images @ random((3, 4), 1)), "first")
    middle = checkpoint_name(jnp.sin(first @ random((4, 4), 2)), "middle")
    pool = checkpoint_name((first + middle).mean(axis=(1, 2)), "pool")
    return pool @ random((4, 5), 3)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, images):
        values = checkpoint_name(nn.relu(nn.Conv(4, (3, 3))(images)), "conv")
        return nn.Dense(5)(checkpoint_name(values.mean(axis=(1, 2)), "pool"))


class Nnx(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
        self.dense = nnx.Linear(4, 5, rngs=nnx.Rngs(1))

    def __call__(self, images):
        values = checkpoint_name(nnx.relu(self.conv(images)), "conv")
        return self.dense(checkpoint_name(values.mean(axis=(1, 2)), "pool"))


def linen():
    module = Linen()
    weights = module.init(jax.random.key(0), IMAGES)
    return lambda images: module.apply(weights, images)


MODELS = {
    "plain": (lambda: plain, "middle"),
    "linen": (linen, "conv"),
    "nnx": (Nnx, "conv"),
    "small": (
        lambda: models.create("small", classes=5, key=jax.random.key(0), size=8, channels=3),
        "block1",
    ),
    "probabilities": (lambda: jc2i.probabilities(Nnx()), "conv"),
}


@pytest.fixture(params=MODELS)
def model_and_layer(request):
    make, layer = MODELS[request.param]
    return make(), layer


def test_names_come_with_shapes_in_order_of_execution():
    listed = taps.names(plain, IMAGES)
    assert list(listed) == ["first", "middle", "pool"]
    assert listed["middle"] == jax.ShapeDtypeStruct((3, 8, 8, 4), jnp.float32)
    shapes = jax.ShapeDtypeStruct(IMAGES.shape, IMAGES.dtype)
    assert taps.names(plain, shapes) == listed


def test_replacing_by_what_was_captured_changes_no_bit(model_and_layer):
    model, layer = model_and_layer
    value = taps.capture(model, IMAGES, layer)
    np.testing.assert_array_equal(taps.replace(model, IMAGES, layer, value), model(IMAGES))


def test_compiled_replacing_by_what_was_captured_changes_no_bit(model_and_layer):
    """Each part compiled for itself, as the whole model is."""
    model, layer = model_and_layer
    value = jax.jit(lambda x: taps.capture(model, x, layer))(IMAGES)
    scores = jax.jit(lambda x, value: taps.replace(model, x, layer, value))(IMAGES, value)
    np.testing.assert_allclose(scores, jax.jit(lambda x: model(x))(IMAGES), rtol=1e-6, atol=1e-7)
    whole = jax.jit(lambda x: taps.replace(model, x, layer, taps.capture(model, x, layer)))
    np.testing.assert_array_equal(whole(IMAGES), jax.jit(lambda x: model(x))(IMAGES))


def test_capture_is_the_activation():
    first = np.tanh(np.asarray(IMAGES) @ np.asarray(random((3, 4), 1)))
    np.testing.assert_allclose(taps.capture(plain, IMAGES, "first"), first, rtol=1e-5, atol=1e-6)
    captured = taps.capture(plain, IMAGES, ["pool", "first"])
    assert isinstance(captured, tuple) and [c.shape for c in captured] == [(3, 4), (3, 8, 8, 4)]


def test_a_connection_around_the_layer_still_works():
    first = taps.capture(plain, IMAGES, "first")
    scores = taps.replace(plain, IMAGES, "middle", jnp.zeros_like(first))
    expected = first.mean(axis=(1, 2)) @ random((4, 5), 3)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_several_layers_are_replaced_at_once():
    first, middle = taps.capture(plain, IMAGES, ("first", "middle"))
    scores = taps.replace(plain, IMAGES, ("first", "middle"), (2 * first, -middle))
    expected = (2 * first - middle).mean(axis=(1, 2)) @ random((4, 5), 3)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_gradient_by_an_activation_is_that_of_the_rest():
    value = taps.capture(plain, IMAGES, "middle")
    gradient = jax.grad(lambda v: taps.replace(plain, IMAGES, "middle", v)[:, 2].sum())(value)
    expected = np.broadcast_to(np.asarray(random((4, 5), 3))[:, 2] / 64, value.shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_gradient_by_the_images_goes_through_what_was_captured():
    def direct(images):
        return jnp.tanh(images @ random((3, 4), 1)).sum()

    gradient = jax.grad(lambda images: taps.capture(plain, images, "first").sum())(IMAGES)
    np.testing.assert_allclose(gradient, jax.grad(direct)(IMAGES), rtol=1e-5, atol=1e-6)


def test_vmap_over_replacements():
    value = taps.capture(plain, IMAGES, "middle")
    scales = jnp.arange(3.0)
    replaced = jax.jit(
        jax.vmap(lambda scale: taps.replace(plain, IMAGES, "middle", scale * value))
    )(scales)
    for scale, scores in zip(scales, replaced, strict=True):
        expected = taps.replace(plain, IMAGES, "middle", scale * value)
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_sharded_equals_one_device(model_and_layer):
    model, layer = model_and_layer
    images = jnp.tile(IMAGES, (3, 1, 1, 1))[:8]
    sharded = parallel.shard(images, parallel.mesh())

    def run(images):
        value = taps.capture(model, images, layer)
        return value, taps.replace(model, images, layer, 2 * value)

    value, scores = jax.jit(run)(sharded)
    assert len(value.sharding.device_set) == len(scores.sharding.device_set) == 8
    for got, expected in zip((value, scores), run(images), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_what_is_before_a_replaced_layer_is_not_computed():
    model = models.create("resnet20_cifar", classes=5, key=jax.random.key(0))
    images = jnp.zeros((1, 32, 32, 3))

    def flops(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    whole = flops(lambda m, x: m(x), model, images)
    shares = []
    for layer in ("stage1.block0", "stage2.block1", "stage3.block2", "pool"):
        value = taps.capture(model, images, layer)
        behind = flops(
            lambda m, x, v, layer=layer: taps.replace(m, x, layer, v), model, images, value
        )
        before = flops(lambda m, x, layer=layer: taps.capture(m, x, layer), model, images)
        assert behind + before == pytest.approx(whole, rel=0.02)
        shares.append(behind / whole)
    # In 3x3 convolutions of 16 to 16 channels at full size: 17.2 in all, 15 behind the first block.
    np.testing.assert_allclose(shares, [15 / 17.2, 7.5 / 17.2, 0, 0], atol=0.03)


def nested(images):
    """Names inside jit in jit, and inside remat."""

    @jax.jit
    def inner(values):
        return checkpoint_name(values * 2, "inner")

    @jax.jit
    def outer(values):
        return checkpoint_name(jnp.sin(inner(values)), "outer")

    @jax.checkpoint
    def again(values):
        return jnp.cos(checkpoint_name(values * 3, "again"))

    return again(outer(images)).sum(axis=(1, 2))


def test_nested_jit_and_remat_are_entered():
    assert list(taps.names(nested, IMAGES)) == ["inner", "outer", "again"]
    for layer, expected in (
        ("inner", IMAGES * 2),
        ("outer", jnp.sin(IMAGES * 2)),
        ("again", 3 * jnp.sin(IMAGES * 2)),
    ):
        for run in (lambda f: f, jax.jit):
            value = run(lambda x, layer=layer: taps.capture(nested, x, layer))(IMAGES)
            np.testing.assert_allclose(value, expected, rtol=1e-6)
            zero = jnp.zeros_like(value)
            scores = run(lambda x, v, layer=layer: taps.replace(nested, x, layer, v))(IMAGES, zero)
            np.testing.assert_allclose(scores, jnp.full((3, 3), 64.0), rtol=1e-6)


def test_gradients_pass_a_rematerialised_call_and_stay_rematerialised():
    def scores(value):
        return taps.replace(nested, IMAGES, "outer", value).sum()

    value = taps.capture(nested, IMAGES, "outer")
    np.testing.assert_allclose(jax.grad(scores)(value), -3 * jnp.sin(3 * value), rtol=1e-5)
    primitives = [e.primitive.name for e in jax.make_jaxpr(jax.grad(scores))(value).eqns]
    assert any(name in ("remat2", "checkpoint") for name in primitives)


def repeated(images):
    for scale in (2.0, 3.0):
        images = checkpoint_name(images * scale, "scaled")
    return images.sum(axis=(1, 2))


def test_repeated_names_are_asked_for_by_number():
    assert list(taps.names(repeated, IMAGES)) == ["scaled#0", "scaled#1"]
    np.testing.assert_allclose(taps.capture(repeated, IMAGES, "scaled#1"), 6 * IMAGES, rtol=1e-6)
    ones = jnp.ones_like(IMAGES)
    scores = taps.replace(repeated, IMAGES, "scaled#0", ones)
    np.testing.assert_allclose(scores, jnp.full((3, 3), 192.0))
    with pytest.raises(ValueError, match=re.escape("takes 'scaled#0', 'scaled#1'")) as error:
        taps.capture(repeated, IMAGES, "scaled")
    assert "layer: got 'scaled', which names 2 activations" in str(error.value)
    with pytest.raises(ValueError, match="layer: got 'scaled#2', takes 'scaled#0', 'scaled#1'"):
        taps.capture(repeated, IMAGES, "scaled#2")


def hidden(images):
    """Names where the evaluator does not go."""

    def step(values, _):
        return checkpoint_name(values * 2, "in scan"), None

    @jax.custom_jvp
    def jvp(values):
        return checkpoint_name(values * 3, "in jvp")

    jvp.defjvp(lambda primals, tangents: (jvp(*primals), 3 * tangents[0]))

    @jax.custom_vjp
    def vjp(values):
        return checkpoint_name(values * 3, "in vjp")

    vjp.defvjp(lambda values: (vjp(values), None), lambda _, cotangent: (3 * cotangent,))
    images = checkpoint_name(images, "reachable")
    images = jax.lax.scan(step, images, None, length=2)[0]
    images = jax.lax.while_loop(
        lambda values: values.max() < 0, lambda values: checkpoint_name(values, "in while"), images
    )
    images = jax.lax.cond(
        images.max() > 0, lambda values: checkpoint_name(values, "in cond"), jnp.sin, images
    )
    return vjp(jvp(images)).sum(axis=(1, 2))


@pytest.mark.parametrize(
    ("layer", "where"),
    [
        ("in scan", "scan"),
        ("in while", "while"),
        ("in cond", "cond"),
        ("in jvp", "custom_jvp_call"),
        ("in vjp", "custom_vjp_call"),
    ],
)
def test_names_that_cannot_be_reached_are_refused_not_lost(layer, where):
    assert list(taps.names(hidden, IMAGES)) == ["reachable"]
    message = f"layer: got '{layer}', which is inside {where} and cannot be reached, takes one of"
    with pytest.raises(ValueError, match=f"^{message} reachable$"):
        taps.capture(hidden, IMAGES, layer)
    with pytest.raises(ValueError, match=f"^{message} reachable$"):
        taps.replace(hidden, IMAGES, layer, IMAGES)


def test_an_unknown_layer_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="^layer: got 'last', takes one of first, middle, pool$"):
        taps.capture(plain, IMAGES, "last")
    with pytest.raises(ValueError, match="^layer: got 'x', takes none: this model names no"):
        taps.capture(lambda images: images.sum(axis=(1, 2)), IMAGES, "x")


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (jnp.zeros((3, 4)), r"float32\[3, 4\]"),
        (jnp.zeros((3, 8, 8, 4), jnp.bfloat16), r"bfloat16\[3, 8, 8, 4\]"),
        (np.zeros((3, 8, 8, 4)), r"float64\[3, 8, 8, 4\]"),
    ],
)
def test_a_replacement_of_another_shape_or_type_is_refused(value, got):
    takes = r"float32\[3, 8, 8, 4\], as 'middle' is"
    with pytest.raises(ValueError, match=f"^value: got {got}, takes {takes}$"):
        taps.replace(plain, IMAGES, "middle", value)


def test_as_many_values_as_layers(untyped):
    with pytest.raises(ValueError, match="^value: got 1 values, takes one for each of"):
        taps.replace(plain, IMAGES, ["first", "middle"], [IMAGES])

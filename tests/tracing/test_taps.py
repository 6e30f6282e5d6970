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
    """Names where the interpreter does not go."""

    @jax.custom_jvp
    def jvp(values):
        return checkpoint_name(values * 3, "in jvp")

    jvp.defjvp(lambda primals, tangents: (jvp(*primals), 3 * tangents[0]))

    @jax.custom_vjp
    def vjp(values):
        return checkpoint_name(values * 3, "in vjp")

    vjp.defvjp(lambda values: (vjp(values), None), lambda _, cotangent: (3 * cotangent,))

    def step(values, _):
        return jax.lax.cond(
            values.max() > 0, lambda values: checkpoint_name(values, "in scan"), jnp.sin, values
        ), None

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
        ("in scan", "cond"),
        ("in while", "while"),
        ("in cond", "cond"),
        ("in jvp", "custom_jvp_call"),
        ("in vjp", "custom_vjp_call"),
    ],
)
def test_names_that_cannot_be_reached_are_refused_not_lost(layer, where):
    assert list(taps.names(hidden, IMAGES)) == ["reachable"]
    message = f"layer: got '{layer}', which is inside {where} and cannot be reached, takes one of"
    for call in (
        lambda: taps.capture(hidden, IMAGES, layer),
        lambda: taps.replace(hidden, IMAGES, layer, IMAGES),
        lambda: taps.cut(hidden, IMAGES, ["reachable", layer]),
    ):
        with pytest.raises(ValueError, match=f"^{message} reachable$"):
            call()


WEIGHTS = {"mix": random((6, 4, 4), 7) / 2, "shift": random((6, 4), 8)}
STEPS = 6


def block(values, weights):
    inner = checkpoint_name(jnp.tanh(values @ weights["mix"] + weights["shift"]), "inner")
    return checkpoint_name(values + jnp.sin(inner), "block")


def finish(values):
    return checkpoint_name(values.mean(axis=(1, 2)), "pool") @ random((4, 5), 3)


def unrolled(images, reverse=False):
    values = images @ random((3, 4), 1)
    for i in reversed(range(STEPS)) if reverse else range(STEPS):
        values = block(values, jax.tree.map(lambda leaf, i=i: leaf[i], WEIGHTS))
    return finish(values)


def scanned(images, wrap=lambda step: step, reverse=False):
    @wrap
    def step(values, weights):
        values = block(values, weights)
        return values, values.sum()

    values, sums = jax.lax.scan(step, images @ random((3, 4), 1), WEIGHTS, reverse=reverse)
    return finish(values) + 0 * sums.sum()


SCANS = {
    "plain": ({}, lambda step: step),
    "reversed": ({"reverse": True}, lambda step: step),
    "rematerialised": ({}, jax.checkpoint),
    "jitted": ({}, jax.jit),
}


@pytest.mark.parametrize("case", SCANS)
def test_names_inside_a_scan_are_those_of_the_unrolled_model(case):
    options, wrap = SCANS[case]

    def twin(images):
        return unrolled(images, **options)

    def model(images):
        return scanned(images, wrap, **options)

    layers = taps.names(twin, IMAGES)
    assert taps.names(model, IMAGES) == layers
    assert [layer for layer in layers if layer != "pool"] == [
        f"{name}#{i}" for i in range(STEPS) for name in ("inner", "block")
    ]

    def everything(model):
        def evaluate(images):
            together = taps.capture(model, images, list(layers))
            alone = [taps.capture(model, images, layer) for layer in layers]
            replaced = [
                jax.value_and_grad(
                    lambda v, layer=layer: (taps.replace(model, images, layer, v) ** 2).sum()
                )(2 * value)
                for layer, value in zip(layers, alone, strict=True)
            ]
            return together, alone, replaced

        return jax.jit(evaluate)(IMAGES)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        everything(model),
        everything(twin),
    )


def test_a_step_that_is_not_asked_for_stays_rematerialised():
    def gradient(images):
        activation, behind = taps.cut(
            lambda images: scanned(images, jax.checkpoint), images, "block#2"
        )
        return jax.grad(lambda value: behind(value).sum())(activation)

    jaxpr = jax.make_jaxpr(gradient)(IMAGES)
    primitives = [equation.primitive.name for equation in jaxpr.eqns]
    assert any(name in ("remat2", "checkpoint") for name in primitives)


def test_a_scan_without_the_name_stays_a_scan():
    jaxpr = jax.make_jaxpr(lambda images: taps.cut(scanned, images, "pool")[0])(IMAGES)
    assert "scan" in [equation.primitive.name for equation in jaxpr.eqns]
    jaxpr = jax.make_jaxpr(lambda images: taps.cut(scanned, images, "block#2")[0])(IMAGES)
    assert "scan" not in [equation.primitive.name for equation in jaxpr.eqns]


def test_both_parts_of_a_cut_are_the_model(model_and_layer):
    model, layer = model_and_layer
    activation, behind = taps.cut(model, IMAGES, layer)
    np.testing.assert_array_equal(activation, taps.capture(model, IMAGES, layer))
    np.testing.assert_array_equal(behind(activation), model(IMAGES))
    half = activation / 2
    np.testing.assert_array_equal(behind(half), taps.replace(model, IMAGES, layer, half))


@pytest.mark.parametrize("model", [unrolled, scanned])
def test_ablations_under_vmap_and_lax_map_are_replacements(model):
    @jax.jit
    def ablated(images):
        activation, behind = taps.cut(model, images, "block#3")
        kept = 1 - jnp.eye(4)
        return (
            jax.vmap(lambda kept: behind(activation * kept))(kept),
            jax.lax.map(lambda kept: behind(activation * kept), kept),
        )

    activation = taps.capture(model, IMAGES, "block#3")
    expected = [
        taps.replace(model, IMAGES, "block#3", activation.at[..., i].set(0)) for i in range(4)
    ]
    for scores in ablated(IMAGES):
        np.testing.assert_allclose(scores, jnp.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "layer", "primitive", "behind", "before"),
    [
        # Two blocks and the dense layer behind, four blocks and the first product before.
        (lambda: unrolled, "block#3", "dot_general", 3, 5),
        (lambda: scanned, "block#3", "dot_general", 3, 5),
        # Two of the last block's behind; before, a stem's and two in each of eight blocks.
        (
            lambda: models.create("resnet20_cifar", classes=5, key=jax.random.key(0)),
            "stage3.block1",
            "conv_general_dilated",
            2,
            17,
        ),
    ],
)
def test_a_loop_over_ablations_holds_only_what_is_behind_the_layer(
    make, layer, primitive, behind, before
):
    """Counted in the program, as XLA's FLOPs of a loop are those of one step."""
    model = make()

    def ablated(images):
        activation, rest = taps.cut(model, images, layer)
        return jax.lax.map(lambda scale: rest(scale * activation), jnp.arange(16.0))

    jaxpr = jax.make_jaxpr(ablated)(jnp.zeros((1, 32, 32, 3))).jaxpr
    (loop,) = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    counted = [
        [equation.primitive.name for equation in equations].count(primitive)
        for equations in (loop.params["jaxpr"].jaxpr.eqns, jaxpr.eqns)
    ]
    assert counted == [behind, before]


def test_layers_behind_each_other_are_cut_together():
    layers = ("middle", "first", "pool")
    activations, behind = taps.cut(plain, IMAGES, layers)
    for layer, activation in zip(layers, activations, strict=True):
        np.testing.assert_allclose(activation, taps.capture(plain, IMAGES, layer), rtol=1e-6)
    np.testing.assert_allclose(behind(activations), plain(IMAGES), rtol=1e-5)
    with pytest.raises(ValueError, match="^value: got .*, takes a list of one for each of"):
        behind(activations[:2])
    with pytest.raises(ValueError, match="^value: got "):
        taps.cut(plain, IMAGES, "first")[1](activations[2])


def test_two_names_of_one_value():
    def model(images):
        return checkpoint_name(checkpoint_name(images, "a"), "b").sum(axis=(1, 2))

    (a, b), behind = taps.cut(model, IMAGES, ("a", "b"))
    np.testing.assert_array_equal(a, IMAGES)
    np.testing.assert_array_equal(b, IMAGES)
    np.testing.assert_allclose(behind((0 * a, 2 * b)), 2 * model(IMAGES), rtol=1e-5)


def test_the_gradient_of_a_cut_goes_to_the_images_by_both_ways():
    def through(images):
        activation, behind = taps.cut(plain, images, "middle")
        return (behind(activation) ** 2).sum()

    expected = jax.grad(lambda images: (plain(images) ** 2).sum())(IMAGES)
    np.testing.assert_allclose(jax.grad(through)(IMAGES), expected, rtol=1e-4, atol=1e-5)


def test_a_name_that_holds_a_number_sign_is_a_name():
    def model(images):
        for name in ("a#1", "a", "a"):
            images = checkpoint_name(images * 2, name)
        return images.sum(axis=(1, 2))

    np.testing.assert_allclose(taps.capture(model, IMAGES, "a#1"), 2 * IMAGES)
    np.testing.assert_allclose(taps.capture(model, IMAGES, "a#0"), 4 * IMAGES)


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
    with pytest.raises(ValueError, match="^value: got .*, takes a list of one for each of"):
        taps.replace(plain, IMAGES, ["first", "middle"], [IMAGES])

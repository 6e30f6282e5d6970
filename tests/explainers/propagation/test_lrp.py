"""Layer-wise relevance propagation: worked by hand, conserved, however a model is written."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jc2i
from jc2i import explainers
from jc2i.explainers.propagation import backward, relevance
from jc2i.tracing import units

ONE, TWO = np.zeros(1, int), np.array([1, 2])
CONSERVING = ["epsilon", "z_plus", "alpha_beta", "gamma"]
RULES = [*CONSERVING, "w_square", "flat"]


def random(shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


IMAGES = jnp.float32(np.random.default_rng(0).uniform(size=(2, 6, 5, 3)))


def dense(*columns):
    """The weights from all inputs to each output."""
    return jnp.float32(np.stack(columns, axis=1))


def row(model, pixels, rule="epsilon", *, epsilon=0.0, **options):
    """Relevances of the pixels of an image of one row, for the one score that is given of them."""
    image = jnp.float32(pixels).reshape(1, 1, -1, 1)
    maps = explainers.lrp(
        lambda images: jnp.pad(model(images.reshape(len(images), -1)), ((0, 0), (0, 1))),
        image,
        ONE,
        rule=rule,
        epsilon=epsilon,
        **options,
    )
    return np.asarray(maps).ravel()


def close(found, expected, atol=1e-6):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol)


# By hand. One dense layer: x = (1, 2), w = (3, -1), so x w = (3, -2), the score and R are 1.


@pytest.mark.parametrize(
    ("rule", "options", "expected"),
    [
        ("epsilon", {}, (3, -2)),  # x w / 1
        ("epsilon", {"epsilon": 1.0}, (1.5, -1)),  # x w / (1 + 1)
        # Root mean square of the one output: 1, of which epsilon is a half; x w / 1.5.
        ("epsilon", {"epsilon": 0.5, "relative": True}, (2, -4 / 3)),
        ("z_plus", {}, (1, 0)),  # 3 / 3
        ("alpha_beta", {}, (2, -1)),  # 2 (3 / 3), -1 (-2 / -2)
        ("alpha_beta", {"alpha": 1.0}, (1, 0)),
        ("gamma", {"gamma": 1.0}, (1.5, -0.5)),  # w + max(w, 0) = (6, -1); (6, -2) / 4
        ("w_square", {}, (0.9, 0.1)),  # (9, 1) / 10
        ("flat", {}, (0.5, 0.5)),
        # x w - low max(w, 0) - high min(w, 0) = (3, -2 + 3), which is (3, 1) / 4
        ("z_box", {"high": 3.0}, (0.75, 0.25)),
        # (3 + 3, -2 + 3) / 7
        ("z_box", {"low": -1.0, "high": 3.0}, (6 / 7, 1 / 7)),
    ],
)
def test_a_dense_layer(rule, options, expected):
    close(row(lambda x: x @ dense((3, -1)), (1, 2), rule, **options), expected)


def test_epsilon_has_the_sign_of_the_sum():
    # x w = (-3, 2), R = -1: (-3, 2) * -1 / (-1 - 1)
    close(row(lambda x: x @ dense((-3, 1)), (1, 2), epsilon=1.0), (-1.5, 1))


def test_gamma_of_an_output_below_zero_favours_what_opposes():
    # w + min(w, 0) = (-6, 1): (-6, 2) * -1 / -4
    close(row(lambda x: x @ dense((-3, 1)), (1, 2), "gamma", gamma=1.0), (-1.5, 0.5))


def test_relevance_starts_as_the_score_or_as_one():
    close(row(lambda x: x @ dense((6, -2)), (1, 2)), (6, -4))  # R = 2
    close(row(lambda x: x @ dense((6, -2)), (1, 2), start="one"), (3, -2))


@pytest.mark.parametrize(
    ("rule", "options", "expected"),
    [
        # x = (1, 2) by columns (1, 1) and (-1, 2): products (1, 2) and (-1, 4), h = (3, 3);
        # h by (2, -1): products (6, -3), the score and R are 3.
        # R of h = (6, -3): (1, 2) 6 / 3 + (-1, 4) -3 / 3 = (2, 4) + (1, -4).
        ("epsilon", {}, (3, 0)),
        # h (4, -1) = (12, -3), R of h = (12, -3) 3 / 9 = (4, -1). Columns (2, 2) and (-1, 4):
        # (2, 4) 4 / 6 + (-1, 8) -1 / 7 = (4/3 + 1/7, 8/3 - 8/7).
        ("gamma", {"gamma": 1.0}, (31 / 21, 32 / 21)),
        # R of h = (2 * 3, -1 * 3). The first has no products below zero: 2 * 6 (1, 2) / 3; the
        # second: 2 * -3 (0, 4) / 4 - 1 * -3 (1, 0). Together (4, 8) + (0, -6) + (3, 0).
        ("alpha_beta", {}, (7, 2)),
        # R of h = (3, 0): (1, 2) 3 / 3.
        ("z_plus", {}, (1, 2)),
    ],
)
def test_two_dense_layers(rule, options, expected):
    def model(x):
        return jax.nn.relu(x @ dense((1, 1), (-1, 2))) @ dense((2, -1))

    close(row(model, (1, 2), rule, **options), expected)


def test_a_skip_connection():
    # x = (1, 3) by columns (2, -1) and (1, 1): (-1, 4), h = (0, 4); x + h = (1, 7), score 8.
    # R of the sum = (1, 7): of x (1, 3), of h (0, 4), of which x has (1, 3) 4 / 4.
    def model(x):
        return (x + jax.nn.relu(x @ dense((2, -1), (1, 1)))) @ dense((1, 1))

    close(row(model, (1, 3)), (2, 6))


def windows(x, function, start):
    return jax.lax.reduce_window(x, start, function, (1, 2), (1, 2), "VALID")


def test_the_winner_of_a_max_pooling_takes_all():
    # (3, 2.5) by (2, -1): R = (6, -2.5)
    def model(x):
        return windows(x, jax.lax.max, -jnp.inf) @ dense((2, -1))

    close(row(model, (1, 3, 2, 2.5)), (0, 6, 0, -2.5))


def test_an_average_pooling_shares_in_proportion():
    # (2, 3) by (2, 1): R = (4, 3); (1, 3) 4 / 4 and (2, 4) 3 / 6
    def model(x):
        return windows(x, jax.lax.add, 0.0) / 2 @ dense((2, 1))

    close(row(model, (1, 3, 2, 4)), (1, 3, 1, 2))


@pytest.mark.parametrize(
    ("rule", "kept", "left_out"),
    [
        # x w = (3, -2), bias 1, score and R are 2.
        ("epsilon", (3, -2), (6, -4)),  # / 2; missing 1 * 2 / 2
        ("z_plus", (1.5, 0), (2, 0)),  # 3 * 2 / (3 + 1); missing 1 * 2 / 4
        # 2 * 3 * 2 / (3 + 1) and -1 * -2 * 2 / -2; missing 2 * 1 * 2 / 4
        ("alpha_beta", (3, -2), (4, -2)),
        # (6, -2) * 2 / (4 + 2); missing 2 * 2 / 6
        ("gamma", (2, -2 / 3), (3, -1)),
        # (9, 1) * 2 / (10 + 1); missing 1 * 2 / 11
        ("w_square", (18 / 11, 2 / 11), (1.8, 0.2)),
        ("flat", (1, 1), (1, 1)),
    ],
)
def test_a_bias_takes_its_share_unless_it_is_left_out(rule, kept, left_out):
    def model(x):
        return x @ dense((3, -1)) + jnp.ones(1)

    close(row(model, (1, 2), rule, gamma=1.0), kept)
    close(row(model, (1, 2), rule, gamma=1.0, bias=False), left_out)


def test_a_product_of_two_parts_halves_relevance():
    # A gate: p = h g, R of h and of g is p / 2 each, and each dense layer shares it.
    first, second = random((3, 4)), random((3, 4), 1)
    x = np.float32([1.0, -2.0, 0.5])

    def model(x):
        return ((x @ first) * jax.nn.sigmoid(x @ second)).sum(axis=1, keepdims=True)

    h, g = x @ first, x @ second
    half = h * jax.nn.sigmoid(g) / 2
    expected = x * (first @ (half / h) + second @ (half / g))
    close(row(model, x), expected, 1e-5)


def test_a_product_of_values_with_themselves_conserves():
    """Similarities of all pixels, which are one value read twice."""

    def model(images):
        values = images.reshape(len(images), -1, 3)
        return jnp.einsum("bic,bjc->bij", values, values).mean(axis=1)

    maps = explainers.lrp(model, IMAGES, TWO)
    close(maps.sum(axis=(1, 2)), scores(model), 1e-5)


def test_squeeze_and_excitation_conserves():
    """A gate of one value a channel: what it is a product with is larger than it."""
    kernel, squeeze = random((3, 4)), random((4, 4), 1)

    def model(images):
        values = jax.nn.relu(images @ kernel)
        gate = jax.nn.sigmoid(values.mean(axis=(1, 2), keepdims=True) @ squeeze)
        return (values * gate).mean(axis=(1, 2))

    maps = explainers.lrp(model, IMAGES, TWO, epsilon=1e-9)
    close(maps.sum(axis=(1, 2)), model(IMAGES)[np.arange(2), TWO], 1e-5)


# What is known of networks.


@pytest.fixture(scope="module")
def bias_free(convnet):
    network = convnet(seed=3)
    zeroed = {n: v * (not n.startswith("bias")) for n, v in network.weights.items()}
    return type(network)(zeroed, "relu")


def scores(model, targets=TWO, images=IMAGES):
    return model(images)[np.arange(len(targets)), targets]


def test_epsilon_zero_is_gradient_x_input_without_biases(bias_free):
    # A black corner has sums of exactly zero, which nothing is divided by.
    images = IMAGES.at[:, :4, :4].set(0)
    found = explainers.lrp(bias_free, images, TWO, epsilon=0.0, channels=None)
    gradient = explainers.sensitivity(bias_free, images, TWO, channels=None)
    expected = images * gradient
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("rule", CONSERVING)
def test_relevance_is_conserved_without_biases(bias_free, rule):
    maps = explainers.lrp(bias_free, IMAGES, TWO, rule=rule, epsilon=1e-9)
    expected = scores(bias_free)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("rule", RULES)
def test_biases_take_relevance_of_every_rule_but_flat(convnet, rule):
    model = convnet(seed=3)
    kept, left_out = (
        explainers.lrp(model, IMAGES, TWO, rule=rule, bias=bias).sum(axis=(1, 2))
        for bias in (True, False)
    )
    assert np.allclose(kept, left_out, rtol=1e-4) == (rule == "flat")


MEAN, SCALE, BIAS = (random((4,), seed) for seed in (1, 2, 3))
VARIANCE = jnp.abs(random((4,), 4)) + 0.1
FACTOR = np.asarray(SCALE / jnp.sqrt(VARIANCE + 1e-5))


def convolved(images, kernel):
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def folded(images, kernel):
    return convolved(images, kernel * FACTOR) + (BIAS - MEAN * FACTOR)


def separate(images, kernel):
    return (convolved(images, kernel) - MEAN) / jnp.sqrt(VARIANCE + 1e-5) * SCALE + BIAS


def scale_and_shift(images, kernel):
    return convolved(images, kernel) * FACTOR + (BIAS - MEAN * FACTOR)


def normalised(layer):
    def model(images):
        values = jax.nn.relu(layer(images - 0.4, random((3, 3, 3, 4), 5)))
        values = jax.nn.relu(layer(values, random((3, 3, 4, 4), 6)))
        return values.mean(axis=(1, 2)) @ random((4, 3), 7)

    return model


@pytest.mark.parametrize(
    "options",
    [*({"rule": rule} for rule in RULES), {"composite": "epsilon_gamma_box"}],
    ids=lambda options: next(iter(options.values())),
)
def test_a_batch_normalisation_has_one_map_however_it_is_written(options):
    maps = [
        explainers.lrp(normalised(layer), IMAGES, TWO, epsilon=1e-3, **options)
        for layer in (folded, separate, scale_and_shift)
    ]
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], atol=1e-4 * np.abs(maps[0]).max())


def test_temperature_changes_a_probabilitys_map_but_no_logits(bias_free):
    warm = jc2i.calibrators.Temperature(2.0)

    def shape(model):
        maps = np.asarray(explainers.lrp(model, IMAGES, TWO))
        return maps / np.abs(maps).max(axis=(1, 2), keepdims=True)

    of_logit = shape(bias_free)
    np.testing.assert_allclose(shape(jc2i.logits(bias_free, warm)), of_logit, atol=1e-4)
    cold, warmed = (shape(jc2i.probabilities(bias_free, c)) for c in (None, warm))
    assert np.abs(cold - warmed).max() > 1e-2


# How models are written.


def by_hand(x):
    return 0.5 * x * (1 + jnp.tanh(0.7978846 * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "exact gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu by hand": by_hand,
    "silu": jax.nn.silu,
    "silu by hand": lambda x: x / (1 + jnp.exp(-x)),
    "hard_swish": jax.nn.hard_swish,
    "hard_swish by hand": lambda x: x * jnp.clip(x + 3, 0, 6) / 6,
    "leaky_relu": jax.nn.leaky_relu,
    "leaky_relu by hand": lambda x: jnp.maximum(x, 0.01 * x),
    "prelu": lambda x: jnp.where(x > 0, x, jnp.array([0.1, 0.2, 0.3, 0.4]) * x),
    "prelu by hand": lambda x: jnp.maximum(x, 0) - 0.2 * jnp.maximum(-x, 0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_passes_relevance_on(name):
    activation, first, second = ACTIVATIONS[name], random((3, 4)), random((4, 1), 1)
    x = np.float32([1.0, -2.0, 0.5])

    def model(x):
        return activation(x @ first) @ second

    read = units.read(model, jnp.asarray(x[None]), normalisations_held=True).units
    assert [u.kind for u in read if u.kind != "fixed"] == ["linear", "activation", "linear"]
    z = x @ first
    expected = x * (first @ (activation(z) * second[:, 0] / z))
    close(row(model, x), expected, 1e-5)


def stack(through):
    kernels = random((3, 4, 4), 8) / 2

    def model(images):
        values = through(lambda v, k: jax.nn.relu(v + v @ k), images @ random((3, 4), 9), kernels)
        return values.mean(axis=(1, 2))

    return model


def unrolled(layer, values, kernels):
    for kernel in kernels:
        values = layer(values, kernel)
    return values


WRITTEN = {
    "checkpoint": lambda layer, v, ks: unrolled(jax.checkpoint(layer), v, ks),
    "jit": lambda layer, v, ks: jax.jit(lambda v: unrolled(layer, v, ks))(v),
    "scan": lambda layer, v, ks: jax.lax.scan(lambda v, k: (layer(v, k), None), v, ks)[0],
    "checkpointed scan": lambda layer, v, ks: jax.lax.scan(
        jax.checkpoint(lambda v, k: (layer(v, k), None)), v, ks
    )[0],
}


@pytest.fixture(scope="module")
def unrolled_maps():
    return np.asarray(explainers.lrp(stack(unrolled), IMAGES, TWO, rule="gamma"))


@pytest.mark.parametrize("written", WRITTEN)
def test_calls_and_loops_are_entered(unrolled_maps, written):
    maps = explainers.lrp(stack(WRITTEN[written]), IMAGES, TWO, rule="gamma")
    np.testing.assert_allclose(maps, unrolled_maps, atol=1e-5 * np.abs(unrolled_maps).max())


@pytest.mark.parametrize("composite", ["epsilon_plus", "epsilon_gamma_box"])
def test_a_model_in_bfloat16_is_near_the_one_in_float32(convnet, composite):
    network = convnet(seed=3)
    half = type(network)({n: v.astype(jnp.bfloat16) for n, v in network.weights.items()}, "relu")

    def model(images):
        return half(images.astype(jnp.bfloat16)).astype(jnp.float32)

    maps = explainers.lrp(model, IMAGES, TWO, composite=composite)
    expected = explainers.lrp(network, IMAGES, TWO, composite=composite)
    assert maps.dtype == np.float32
    assert np.abs(maps - expected).max() < 0.05 * np.abs(expected).max()


def linen():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, values):
            values = nn.Conv(4, (3, 3))(values)
            values = nn.relu(nn.BatchNorm(use_running_average=True)(values))
            values = nn.avg_pool(values, (2, 2), (2, 2))
            return nn.Dense(3)(values.mean(axis=(1, 2)))

    network = Network()
    variables = network.init(jax.random.key(0), IMAGES)
    return lambda images: network.apply(variables, images)


def flax_nnx():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        nnx.Conv(3, 4, (3, 3), rngs=rngs),
        nnx.BatchNorm(4, use_running_average=True, rngs=rngs),
        nnx.relu,
        lambda values: nnx.max_pool(values, (2, 2), (2, 2)).mean(axis=(1, 2)),
        nnx.Linear(4, 3, rngs=rngs),
    )


def equinox():
    first, second = jax.random.split(jax.random.key(0))
    network = eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(3, 4, 3, padding=1, use_bias=False, key=first),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Lambda(lambda values: values.mean(axis=(1, 2))),
            eqx.nn.Linear(4, 3, use_bias=False, key=second),
        ]
    )
    return lambda images: jax.vmap(network)(images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("make", [linen, flax_nnx, equinox])
@pytest.mark.parametrize("rule", ["epsilon", "gamma"])
def test_networks_of_other_libraries_conserve(make, rule):
    model = make()
    maps = explainers.lrp(model, IMAGES, TWO, rule=rule, epsilon=1e-9)
    expected = scores(model)
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), expected, atol=1e-4 * np.abs(expected).max())


def sorting(images):
    return jnp.sort(images, axis=1).mean(axis=(1, 2))


def complex_product(images):
    return (images * (1 + 1j)).real.mean(axis=(1, 2))


@pytest.mark.parametrize(
    ("model", "primitive"), [(sorting, "sort"), (complex_product, "(mul|convert_element_type)")]
)
def test_an_operation_without_a_rule_is_refused_by_name_and_line(model, primitive):
    line = f"{Path(__file__).name}:{model.__code__.co_firstlineno + 1}"
    with pytest.raises(ValueError, match=rf"model: got one with {primitive} at .*{line}.*lrp"):
        explainers.lrp(model, IMAGES, TWO)


def arctangent(images):
    return jnp.arctan2(images @ random((3, 3)), images).sum(axis=(1, 2))


def test_a_function_of_two_values_without_a_rule_is_refused_by_name_and_line():
    line = f"{Path(__file__).name}:{arctangent.__code__.co_firstlineno + 1}"
    with pytest.raises(ValueError, match=f"model: got one with atan2 at .*{line} of two values"):
        explainers.lrp(arctangent, IMAGES, TWO)


@pytest.mark.parametrize(
    "options", [{"rule": "z"}, {"composite": "plus"}, {"epsilon": -1.0}, {"alpha": 0.5}]
)
def test_options_out_of_range_are_refused(linear, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: got"):
        explainers.lrp(linear((6, 5, 3)), IMAGES, TWO, **options)


def test_z_box_of_a_map_behind_others_is_refused(bias_free):
    with pytest.raises(ValueError, match="rule: got z_box for a map behind others"):
        explainers.lrp(bias_free, IMAGES, TWO, rule="z_box")


def test_a_rule_for_another_operation_is_one_line_of_the_table(monkeypatch):
    # As docs/propagation.md has it.
    kernel = jnp.abs(random((3, 4), 3))

    def model(images):
        return jax.lax.cummax(images.mean(axis=(1, 2)) @ kernel, axis=1)

    images, targets = jnp.abs(random((2, 4, 4, 3), 1)), np.array([3, 2])
    with pytest.raises(ValueError, match="model: got one with cummax at"):
        explainers.lrp(model, images, targets)
    table = relevance.table
    monkeypatch.setattr(
        "jc2i.explainers.propagation.lrp.table", lambda *a: table(*a) | {"cummax": backward.own}
    )
    maps = explainers.lrp(model, images, targets, epsilon=0.0)
    np.testing.assert_allclose(
        maps.sum(axis=(1, 2)), model(images)[np.arange(2), targets], rtol=1e-5
    )

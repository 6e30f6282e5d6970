"""What every architecture promises."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from flax import nnx

from jc2i import models
from jc2i.models.classifier import weights
from jc2i.models.layers import Dropout
from jc2i.models.registry import blank


def convolutions(*counts):
    parts = [(n, i) for n, count in enumerate(counts, start=1) for i in [*range(count), None]]
    return [f"stage{n}.pool" if i is None else f"stage{n}.conv{i}" for n, i in parts]


def blocks(*counts):
    return [f"stage{n}.block{i}" for n, count in enumerate(counts, start=1) for i in range(count)]


ACTIVATIONS = {
    "resnet18": ["stem", *blocks(2, 2, 2, 2), "pool", "logits"],
    "resnet34": ["stem", *blocks(3, 4, 6, 3), "pool", "logits"],
    "resnet50": ["stem", *blocks(3, 4, 6, 3), "pool", "logits"],
    "vgg16": [*convolutions(2, 2, 3, 3, 3), "dense0", "dense1", "logits"],
    "vgg16_bn": [*convolutions(2, 2, 3, 3, 3), "dense0", "dense1", "logits"],
    "efficientnet_b0": ["stem", *blocks(1, 2, 2, 3, 3, 4, 1), "head", "pool", "logits"],
    "efficientnet_lite0": ["stem", *blocks(1, 2, 2, 3, 3, 4, 1), "head", "pool", "logits"],
    "efficientnet_lite1": ["stem", *blocks(1, 3, 3, 4, 4, 5, 1), "head", "pool", "logits"],
    "efficientnet_lite2": ["stem", *blocks(1, 3, 3, 4, 4, 5, 1), "head", "pool", "logits"],
    "resnet18_cifar": ["stem", *blocks(2, 2, 2, 2), "pool", "logits"],
    "resnet20_cifar": ["stem", *blocks(3, 3, 3), "pool", "logits"],
    "vgg11_bn_cifar": [*convolutions(1, 1, 2, 2, 2), "dense0", "dense1", "logits"],
    "small": ["block0", "block1", "dense", "logits"],
    "lipschitz": ["convolution0", "convolution1", "convolution2", "logits"],
}


def randomised(model, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: leaf + jnp.float32(random.uniform(0.0, 0.1, leaf.shape)), model
    )


@pytest.fixture(scope="module", params=["resnet", "small"])
def model(request):
    if request.param == "small":
        return randomised(models.Small(classes=7))
    return randomised(models.ResNetCifar(8, classes=7, shortcut="B"))


@pytest.fixture
def untyped():
    """The user's view: annotations are enforced in tests only."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def shapes_of(name, **options):
    """A model without its weights: VGG-16's take half a gigabyte."""
    return jax.eval_shape(lambda: blank(name, classes=7, **options))


def images_for(model, batch=3, seed=1):
    size = model.size or 8
    return jax.random.uniform(jax.random.key(seed), (batch, size, size, model.channels))


def stacked(*copies):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *copies)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_named_once_and_in_order(name):
    model = shapes_of(name)
    images = jnp.zeros((1, model.size or 32, model.size or 32, model.channels))
    equations = jax.make_jaxpr(lambda m, x: m(x))(model, images).eqns
    names = [e.params["name"] for e in equations if e.primitive.name == "name"]
    assert names == ACTIVATIONS[name]


def test_compiled_equals_eager_and_images_are_independent(model):
    images = images_for(model)
    eager = model(images)
    call = jax.jit(lambda m, x: m(x))
    assert eager.shape == (3, 7)
    np.testing.assert_allclose(call(model, images), eager, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(call(model, images[1:2]), eager[1:2], rtol=1e-4, atol=1e-4)


def test_new_weights_do_not_recompile_and_change_the_logits(model):
    traces = []

    @jax.jit
    def call(model, images):
        traces.append(model)
        return model(images)

    images = images_for(model)
    # Built anew, as another process would.
    fresh = type(model)(*([8] if model.architecture == "resnet8_cifar" else []), **model.options)
    other = randomised(fresh, seed=5)
    assert not np.allclose(call(model, images), call(other, images))
    assert len(traces) == 1


def test_stacked_weights_run_under_vmap(model):
    images = images_for(model)
    half = jax.tree.map(lambda leaf: leaf / 2, model)
    call = jax.jit(lambda m, x: m(x))
    together = jax.jit(jax.vmap(call, in_axes=(0, None)))(stacked(model, half), images)
    apart = jnp.stack([call(model, images), call(half, images)])
    np.testing.assert_allclose(together, apart, rtol=1e-3, atol=1e-4)


def test_every_leaf_is_an_array_of_weights(model):
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", models.names())
def test_models_have_the_name_and_the_type_asked_for(name):
    model = shapes_of(name, dtype="bfloat16")
    assert model.architecture == name
    size = model.size or 32
    images = jax.ShapeDtypeStruct((1, size, size, model.channels), jnp.float32)
    closed = jax.make_jaxpr(lambda m, x: m(x))(model, images)
    named = {
        e.params["name"]: e.outvars[0].aval.dtype for e in closed.eqns if e.primitive.name == "name"
    }
    assert named.pop("logits") == closed.out_avals[0].dtype == jnp.float32
    assert set(named.values()) == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}


def test_bfloat16_is_near_float32(model):
    low = type(model)(
        *([8] if model.architecture == "resnet8_cifar" else []),
        **model.options | {"dtype": "bfloat16"},
    )
    low = models.classifier.with_weights(low, weights(model))
    images = images_for(model)
    expected = np.asarray(model(images))
    assert 0 < np.abs(np.asarray(low(images)) - expected).max() < 0.05 * np.abs(expected).max()


def test_normalisation_happens_inside():
    mean, std = (0.25, 0.5), (0.5, 2.0)
    plain = models.Small(classes=3, channels=2)
    inside = models.Small(classes=3, channels=2, mean=mean, std=std)
    outside = models.Small(classes=3, channels=2, mean=mean, std=std, normalize=False)
    images = np.asarray(images_for(plain))
    by_hand = (images - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(inside.preprocess(images), by_hand, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(outside.preprocess(images), images)
    np.testing.assert_array_equal(plain.preprocess(images), images)
    assert outside.mean == mean


def test_depths_have_the_published_number_of_weights():
    # He et al. 2016, table 6 (in millions), without batch norms' running statistics.
    published = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85}
    for depth, millions in published.items():
        model = models.ResNetCifar(depth, classes=10)
        count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
        assert round(count / 1e6, 2) == millions


def test_training_is_a_pure_function_and_moves_the_statistics():
    model = randomised(models.ResNetCifar(8, classes=4))
    images, labels = images_for(model, batch=8), jnp.arange(8) % 4
    model.train()
    graph, params, statistics = nnx.as_pure(nnx.split(model, nnx.Param, nnx.BatchStat))

    def loss(params, statistics):
        training = nnx.merge(graph, params, statistics)
        losses = optax.softmax_cross_entropy_with_integer_labels(training(images), labels)
        return losses.mean(), nnx.as_pure(nnx.state(training, nnx.BatchStat))

    before = jax.tree.map(np.array, statistics)
    descend = jax.jit(jax.value_and_grad(loss, has_aux=True))
    losses, moved = [], statistics
    for _ in range(4):
        (value, moved), gradient = descend(params, statistics)
        losses.append(float(value))
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient)
    assert losses[-1] < losses[0]
    jax.tree.map(np.testing.assert_array_equal, statistics, before)
    assert not np.array_equal(jax.tree.leaves(moved)[0], jax.tree.leaves(statistics)[0])

    trained = nnx.merge(graph, params, moved)
    trained.eval()
    assert jax.tree.structure(trained) == jax.tree.structure(models.ResNetCifar(8, classes=4))


def test_dropout_is_of_training_alone_and_of_its_key():
    narrow = {"classes": 3, "base_filters": 2, "channels": 1}
    key = jax.random.key(0)
    model = models.create("resnet18_cifar", key=key, dropout=0.5, **narrow)
    images, keys = images_for(model), jax.random.split(key)
    call = jax.jit(lambda model, images, key: model(images, key))
    without = models.create("resnet18_cifar", key=key, **narrow)
    np.testing.assert_array_equal(call(model, images, keys[0]), call(without, images, keys[1]))
    model.train()
    one, again, other = (call(model, images, k) for k in (keys[0], keys[0], keys[1]))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    with pytest.raises(ValueError, match=r"^key: got None, takes a jax.random.key, in training"):
        model(images)


def test_dropout_keeps_the_mean_and_the_part_asked_for():
    layer, values = Dropout(0.4), jnp.ones((400, 100))
    np.testing.assert_array_equal(layer(values, None), values)
    layer.deterministic = False
    left = np.asarray(layer(values, jax.random.key(0)))
    assert np.mean(left == 0) == pytest.approx(0.4, abs=0.01)
    assert left.mean() == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(np.unique(left), [0, 1 / 0.6], rtol=1e-6)


@pytest.mark.parametrize(
    ("base_filters", "channels", "expected"), [(64, 3, 11_173_962), (16, 1, 0)]
)
def test_small_images_go_through_resnet18_at_their_own_size(base_filters, channels, expected):
    model = jax.eval_shape(
        lambda: blank("resnet18_cifar", classes=10, base_filters=base_filters, channels=channels)
    )
    images = jax.ShapeDtypeStruct((1, 28, 28, channels), jnp.float32)
    equations = jax.make_jaxpr(lambda m, x: m(x))(model, images).eqns
    shapes = {
        e.params["name"]: e.outvars[0].aval.shape for e in equations if e.primitive.name == "name"
    }
    assert shapes["stem"] == shapes["stage1.block1"] == (1, 28, 28, base_filters)
    assert shapes["stage4.block1"] == (1, 4, 4, 8 * base_filters)
    # kuangliu/pytorch-cifar's ResNet18 has 11,173,962 weights.
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert count == expected or base_filters != 64


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros((2, 32, 32, 1), np.float32), "float32[2, 32, 32, 1]"),
        (np.zeros((2, 28, 28, 3), np.float32), "float32[2, 28, 28, 3]"),
        (np.zeros((32, 32, 3), np.float32), "float32[32, 32, 3]"),
        (np.zeros((2, 32, 32, 3), np.uint8), "uint8[2, 32, 32, 3]"),
    ],
)
def test_images_that_do_not_fit_are_refused(untyped, images, got):
    model = models.VGGCifar(11, classes=2)
    with pytest.raises(ValueError) as error:
        model(images)
    takes = "floats[batch, 32, 32, 3] in [0, 1] (vgg11_bn_cifar)"
    assert str(error.value) == f"images: got {got}, takes {takes}"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet20", {}, r"name: got 'resnet20', takes one of resnet18, resnet34, .*"),
        ("small", {"shortcut": "A"}, r"options: got shortcut, takes those of small: classes, .*"),
        ("resnet20_cifar", {"shortcut": "C"}, r"shortcut: got 'C', takes 'A' or 'B'"),
        ("resnet20_cifar", {"mean": (0.5,)}, r"mean: got \(0.5,\), takes one number for each .*"),
        (
            "resnet20_cifar",
            {"std": (1.0, 0.0, 1.0)},
            r"std: got \(1.0, 0.0, 1.0\), takes numbers .*",
        ),
        (
            "efficientnet_b0",
            {"padding": "SAME"},
            "padding: got 'SAME', takes 'symmetric' or 'same'",
        ),
        ("efficientnet_b0", {"epsilon": 0.0}, "epsilon: got 0.0, takes a number above 0"),
        (
            "resnet18_cifar",
            {"base_filters": 0},
            "base_filters: got 0, takes a whole number above 0",
        ),
        ("resnet18_cifar", {"dropout": 1.0}, r"dropout: got 1.0, takes a number in \[0, 1\)"),
        ("resnet18_cifar", {"dropout": -0.1}, r"dropout: got -0.1, takes a number in \[0, 1\)"),
        ("vgg16", {"size": 100}, "size: got 100, takes a multiple of 32"),
        ("small", {"size": 18}, r"size: got 18, takes a multiple of 4"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        models.create(name, classes=2, key=jax.random.key(0), **options)


def test_wrong_depth_class_count_and_key_are_refused(untyped):
    with pytest.raises(ValueError, match=r"^depth: got 21, takes 6 n \+ 2"):
        models.ResNetCifar(21, classes=2)
    with pytest.raises(ValueError, match=r"^depth: got 12, takes 11, 13, 16 or 19"):
        models.VGGCifar(12, classes=2)
    with pytest.raises(ValueError, match=r"^classes: got 0, takes"):
        models.Small(classes=0)
    with pytest.raises(ValueError, match=r"^key: got 0, takes one jax.random.key"):
        models.create("small", classes=2, key=0)  # type: ignore[arg-type]


def test_new_kernels_have_variance_two_over_fan_in():
    one, other = (models.create("resnet20_cifar", classes=2, key=jax.random.key(i)) for i in (0, 1))
    kernel, another = (np.asarray(weights(m)["layer3.1.conv1.kernel"]) for m in (one, other))
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    assert abs(kernel.mean()) < 0.001
    assert not np.allclose(kernel, another)
    np.testing.assert_array_equal(weights(one)["bn1.scale"], np.ones(16))

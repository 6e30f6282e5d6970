"""Randomised weights: which, in what order, how; and what explainers make of them."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jc2i
from jc2i import explainers, metrics
from jc2i.calibrators import Temperature
from jc2i.metrics.randomization import layers_of, parameter_randomization, randomized_models

KEY = jax.random.key(5)
IMAGES = np.random.default_rng(0).random((3, 4, 4, 1)).astype("f4")
TARGETS = np.array([0, 1, 2])


class Network(nnx.Module):
    """Two dense layers and a normalisation, named so that no order by name is theirs."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.zero = nnx.Linear(16, 6, rngs=rngs)
        self.middle = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
        self.all = nnx.Linear(6, 4, rngs=rngs)
        self.unused = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, images):
        values = self.zero((images - jnp.float32([0.5])).reshape(len(images), -1))
        return self.all(nnx.relu(self.middle(values)))


@pytest.fixture(scope="module")
def model():
    network = Network()
    random = np.random.default_rng(1)
    for norm in ("mean", "scale", "bias"):
        getattr(network.middle, norm)[...] = jnp.asarray(random.random(6), jnp.float32)
    network.middle.var[...] = jnp.asarray(random.uniform(0.5, 2, 6), jnp.float32)
    for layer in (network.zero, network.all):
        layer.bias[...] = jnp.asarray(random.normal(size=layer.bias.shape), jnp.float32)
    return jc2i.probabilities(network, Temperature(jnp.float32(0.7)))


def changed(model, copy):
    """The places of the leaves that differ."""
    pairs = zip(jax.tree.leaves(model), jax.tree.leaves(copy), strict=True)
    return {place for place, (a, b) in enumerate(pairs) if not np.array_equal(a, b)}


def test_layers_go_from_the_scores_down(model):
    layers = layers_of(model, IMAGES)
    assert list(layers) == ["all", "middle", "zero"]
    assert [len(places) for places in layers.values()] == [2, 4, 2]


@pytest.mark.parametrize("mode", ["cascading", "independent"])
@pytest.mark.parametrize("initializer", ["permute", "gaussian"])
def test_copies_differ_in_their_layers(model, mode, initializer):
    layers = layers_of(model, IMAGES)
    copies = list(randomized_models(model, IMAGES, key=KEY, mode=mode, initializer=initializer))
    assert [name for name, _ in copies] == list(layers)
    above = set()
    for name, copy in copies:
        above |= set(layers[name])
        assert changed(model, copy) == (above if mode == "cascading" else set(layers[name]))
        assert jax.tree.structure(copy) == jax.tree.structure(model)
        assert np.isfinite(copy(IMAGES)).all()
        for place in layers[name]:
            old, new = (np.asarray(jax.tree.leaves(tree)[place]) for tree in (model, copy))
            if initializer == "permute":
                np.testing.assert_array_equal(np.sort(old, axis=None), np.sort(new, axis=None))
            elif (old >= 0).all():
                assert (new >= 0).all()


def test_gaussian_has_the_mean_and_deviation_of_the_weight():
    weight = 3 + 2 * np.random.default_rng(0).standard_exponential((16, 900)).astype("f4") - 4

    def network(weights, images):
        return images.reshape(len(images), -1) @ weights

    model = functools.partial(network, weight)
    ((name, copy),) = randomized_models(model, IMAGES, key=KEY, initializer="gaussian")
    new = copy.arguments[0]
    assert abs(new.mean() - weight.mean()) < 0.1 and abs(new.std() / weight.std() - 1) < 0.05
    skew = ((new - new.mean()) ** 3).mean() / new.std() ** 3
    assert abs(skew) < 0.15  # an exponential's is 2


def test_layers_of_every_framework():
    """Equinox' and Linen's paths, and plain dictionaries with all weights under one path."""
    names = {}
    first, second = eqx.nn.Linear(16, 5, key=KEY), eqx.nn.Linear(5, 4, key=KEY)

    class Equinox(eqx.Module):
        b: eqx.nn.Linear
        a: eqx.nn.Linear

        def __call__(self, images):
            flat = images.reshape(len(images), -1)
            return jax.vmap(lambda x: self.a(jax.nn.relu(self.b(x))))(flat)

    names["equinox"] = list(layers_of(jc2i.logits(Equinox(first, second)), IMAGES))

    class Linen(linen.Module):
        @linen.compact
        def __call__(self, images):
            values = linen.Dense(5, name="b")(images.reshape(len(images), -1))
            return linen.Dense(4, name="a")(jax.nn.relu(values))

    network = Linen()
    apply = functools.partial(network.apply, network.init(KEY, IMAGES))
    names["linen"] = list(layers_of(jc2i.probabilities(apply), IMAGES))
    assert names["equinox"] == ["a", "b"]
    assert [name.split(".")[-1] for name in names["linen"]] == ["a", "b"]

    def plain(weights, images):
        scaled = (images - weights["mean"]) / weights["std"]
        values = scaled.reshape(len(images), -1) @ weights["k2"] + weights["b2"]
        return jax.jit(lambda w, v: v @ w)(weights["k1"].astype(jnp.float32), jnp.tanh(values))

    shapes = {"k1": (5, 4), "k2": (16, 5), "b2": (5,), "mean": (2,), "std": (2,)}
    weights = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    images = jax.ShapeDtypeStruct((1, 4, 2, 2), jnp.float32)
    layers = layers_of(functools.partial(plain, weights), images)
    assert [name.split(".")[-1] for name in layers] == ["k1", "k2"]
    assert [len(places) for places in layers.values()] == [1, 2]


def test_layers_in_scans_and_branches_are_found():
    weights = {"c": {"w": np.ones((2, 3, 3), "f4")}, "b": {"w": np.ones((3, 3), "f4")}}
    weights["a"] = {"w": np.ones((4, 3), "f4")}

    def network(weights, images):
        values = images.reshape(len(images), -1)[:, :4] @ weights["a"]["w"]
        values, _ = jax.lax.scan(lambda v, w: (jnp.tanh(v @ w), None), values, weights["c"]["w"])
        return jax.lax.cond(
            values.sum() > 0, lambda w: values @ w, lambda w: -values @ w, weights["b"]["w"]
        )

    layers = layers_of(functools.partial(network, weights), IMAGES)
    assert [name.split(".")[-1] for name in layers] == ["b", "c", "a"]


def test_maps_of_every_copy_from_one_program(model):
    explain = functools.partial(parameter_randomization, explainers.sensitivity, model, key=KEY)
    compiled = jc2i.query._compiled._cache_size()
    found = explain(IMAGES, TARGETS)
    assert jc2i.query._compiled._cache_size() == compiled + 1
    assert found.layers == ("all", "middle", "zero") and found.maps.shape == (3, 4, 4, 4)
    own = explainers.sensitivity(model, IMAGES, TARGETS)
    np.testing.assert_allclose(found.maps[:, 0], own, rtol=1e-6)
    for k, (_, copy) in enumerate(randomized_models(model, IMAGES, key=KEY)):
        right = explainers.sensitivity(copy, IMAGES, TARGETS)
        np.testing.assert_allclose(found.maps[:, k + 1], right, rtol=1e-6)
    alike = found.similarities(metrics.spearman)
    assert alike.shape == (3, 3) and (alike < 0.999).all()
    one = explain(IMAGES[1:2], TARGETS[1:2])
    np.testing.assert_allclose(one.maps[0], found.maps[1], rtol=1e-4, atol=1e-7)


def test_a_map_that_does_not_look_at_the_model_stays_what_it_is(model):
    """A plain function, traced once for all copies; a stochastic method with its own key."""
    traced = []

    def edges(model, images, targets, *, key=None, scale=1.0):
        traced.append(1)
        return scale * jnp.abs(images[..., 0] - images[:, ::-1, :, 0])

    found = parameter_randomization(edges, model, IMAGES, TARGETS, key=KEY, scale=2.0)
    assert len(traced) == 1
    np.testing.assert_allclose(found.similarities(metrics.spearman), 1, rtol=1e-6)
    found = parameter_randomization(
        explainers.random_map, model, IMAGES, TARGETS, key=KEY, explainer_key=KEY
    )
    np.testing.assert_allclose(found.similarities(metrics.spearman), 1, rtol=1e-6)


def test_layers_that_are_asked_for(model):
    found = dict(randomized_models(model, IMAGES, key=KEY, layers=["zero", "middle"]))
    assert list(found) == ["middle", "zero"]
    layers = layers_of(model, IMAGES)
    assert changed(model, found["middle"]) == set(layers["middle"])
    assert changed(model, found["zero"]) == {*layers["middle"], *layers["zero"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "all"}, "mode: got 'all', takes 'cascading' or 'independent'"),
        ({"initializer": "zeros"}, "initializer: got 'zeros', takes 'permute' or 'gaussian'"),
        ({"layers": ["middle", "dense"]}, "layers: got 'dense', takes of all, middle, zero"),
        ({"layers": "zero"}, "layers: got 'zero', takes a list of names, at least one, or None"),
        ({"layers": []}, r"layers: got \[\], takes a list of names, at least one, or None"),
        ({"key": 3}, "key: got 3, takes one jax.random.key"),
    ],
)
def test_refuses_bad_input(untyped, model, options, message):
    with pytest.raises(ValueError, match=message):
        parameter_randomization(
            explainers.sensitivity, model, IMAGES, TARGETS, **({"key": KEY} | options)
        )


def test_a_model_without_weights_is_refused():
    with pytest.raises(ValueError, match="model: got one without layers"):
        layers_of(lambda images: images.mean((1, 2)), IMAGES)


def test_a_twin_of_permuted_labels():
    """Training is least squares on one pixel: the twin's map loses it."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 400)
    images = random.random((400, 4, 4, 1)).astype("f4")
    images[:, 1, 2, 0] += labels

    def train(images, labels, key):
        flat = jnp.asarray(images).reshape(len(images), -1) - 0.5
        slope = jnp.linalg.lstsq(flat, 2.0 * labels - 1)[0]
        weights = jnp.stack([-slope, slope], axis=1)
        return functools.partial(lambda w, x: x.reshape(len(x), -1) @ w, weights)

    found = metrics.label_permutation(
        explainers.sensitivity, train, images, labels, IMAGES, TARGETS % 2, key=KEY
    )
    assert np.array_equal(np.sort(found.labels), np.sort(labels))
    assert not np.array_equal(found.labels, labels)
    assert (np.asarray(found.maps).reshape(3, -1).argmax(1) == 1 * 4 + 2).all()
    assert (found.twin_maps[:, 1, 2] < 0.3 * found.maps[:, 1, 2]).all()
    given = metrics.label_permutation(
        explainers.sensitivity,
        train,
        images,
        labels,
        IMAGES,
        TARGETS % 2,
        key=KEY,
        model=found.model,
    )
    np.testing.assert_allclose(given.maps, found.maps)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train_labels": np.ones(3)}, "train_labels: got float64"),
        ({"train": 3}, "train: got 3, takes a function that trains"),
        ({"key": None}, "key: got None, takes one jax.random.key"),
    ],
)
def test_a_twin_of_bad_input_is_refused(untyped, given, message):
    options = {"train": print, "train_labels": np.ones(3, int), "key": KEY} | given
    with pytest.raises(ValueError, match=message):
        metrics.label_permutation(
            explainers.sensitivity, train_images=IMAGES, images=IMAGES, targets=TARGETS, **options
        )

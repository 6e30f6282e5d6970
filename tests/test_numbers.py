"""Small inputs that once came out wrong, each with its right value worked by hand."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i import explainers, metrics

KEY = jax.random.key(0)


def half_that_counts(images):
    """The mean of the right half of the pixels, and its complement."""
    score = images[:, :, images.shape[2] // 2 :, 0].mean((1, 2))
    return jnp.stack([score, 1 - score], axis=1)


def test_maps_as_bytes_rank_as_their_floats():
    """The zero pixels of a heat map in bytes are its least important ones."""
    maps = np.zeros((1, 8, 8), np.uint8)
    maps[0, :, 4:] = 100 + np.arange(32).reshape(8, 4)
    images, targets = np.ones((1, 8, 8, 1), np.float32), np.array([0])
    right = np.maximum(1 - np.arange(1, 9) / 4, 0)  # 8 of the 32 counting pixels a step
    for given in (maps, maps.astype(np.float32), maps.astype(np.int64), maps.astype(np.float16)):
        options = {"steps": 8, "baseline": 0.0}
        curve = metrics.deletion_curve(half_that_counts, images, targets, given, **options)
        np.testing.assert_allclose(curve[0], right, atol=1e-6)
        curve = metrics.insertion_curve(half_that_counts, images, targets, given, **options)
        np.testing.assert_allclose(curve[0], 1 - right, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_sums_do_not_stall_in_half_precision(dtype):
    random = np.random.default_rng(0)
    weights = random.standard_normal((8, 8, 3)).astype(np.float32)

    def model(images):
        score = (images.astype(jnp.float32) * weights).sum((1, 2, 3))
        return jnp.stack([score, 0 * score], axis=1)

    images, targets = jnp.asarray(random.random((1, 8, 8, 3)), dtype), np.array([0])
    maps = explainers.integrated_gradients(
        model, images, targets, steps=1000, references="black", channels="sum"
    )
    np.testing.assert_allclose(maps.sum(), np.sum(np.float32(images) * weights), rtol=1e-4)
    maps = explainers.smoothgrad(model, images, targets, samples=3000, channels=None, key=KEY)
    np.testing.assert_allclose(maps[0], weights, rtol=1e-4, atol=1e-5)
    large = jnp.asarray(random.uniform(0.5, 1, (1, 32, 32, 1)), dtype)
    estimate = metrics.lipschitz(
        lambda model, images, targets, *, key=None: 3 * images[..., 0],
        half_that_counts,
        large,
        targets,
        key=KEY,
        neighbours=5,
        normalize=False,
    )
    np.testing.assert_allclose(estimate, 3, rtol=1e-5)


def test_one_number_a_channel_is_one_reference():
    """F(x) - F(colour) by completeness, whether the colour is a tuple or an array."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((4, 4, 3)).astype(np.float32)
    images, colour = random.random((1, 4, 4, 3)).astype(np.float32), (0.485, 0.456, 0.406)

    def model(images):
        score = (images * images * weights).sum((1, 2, 3))
        return jnp.stack([score, 0 * score], axis=1)

    right = ((images**2 - np.square(colour)) * weights).sum()
    for references in (colour, np.float32(colour), (np.float32(colour),)):
        maps = explainers.integrated_gradients(
            model,
            images,
            np.array([0]),
            references=references,
            method="gauss_legendre",
            channels="sum",
        )
        np.testing.assert_allclose(maps.sum(), right, rtol=1e-4)


def test_references_are_not_taken_for_one_an_image():
    """As many references as images: each image still has all of them."""
    images = np.random.default_rng(0).random((2, 4, 4, 3)).astype(np.float32)

    def model(images):
        score = (images**2).sum((1, 2, 3))
        return jnp.stack([score, 0 * score], axis=1)

    explain = functools.partial(explainers.integrated_gradients, model, steps=3)
    both = explain(images, np.zeros(2, int), batch_size=1)
    alone = [explain(images[i : i + 1], np.zeros(1, int))[0] for i in range(2)]
    np.testing.assert_allclose(both, alone, rtol=1e-6)


@pytest.mark.parametrize("codes", [(0, 1), (0, 63), (0, 64), (3, 1_000_000), (-7, 2_000_000)])
def test_segments_may_be_called_anything(codes):
    """Two halves: the first goes at 25 %, the second at 75 %."""
    segments = np.full((1, 8, 8), codes[0], np.int32)
    segments[:, :, 4:] = codes[1]

    def model(images):
        return jnp.stack([images.mean((1, 2, 3)), 1 - images.mean((1, 2, 3))], axis=1)

    curve = metrics.random_deletion_curve(
        model,
        np.ones((1, 8, 8, 1), np.float32),
        np.array([0]),
        key=KEY,
        segments=segments,
        orders=6,
        steps=8,
        baseline=0.0,
    )
    np.testing.assert_allclose(curve[0], [1, 1, 0.5, 0.5, 0.5, 0.5, 0, 0], atol=1e-6)


def test_a_curve_is_not_divided_by_a_score_that_is_not_positive():
    def model(images):
        score = half_that_counts(images)[:, 0] - jnp.asarray([2.0, 0.5])[: len(images)]
        return jnp.stack([score, -score], axis=1)

    images, maps = np.ones((2, 8, 8, 1), np.float32), np.random.default_rng(0).random((2, 8, 8))
    curve = metrics.deletion_curve(model, images, np.zeros(2, int), maps, steps=4)
    assert np.isnan(curve[0]).all() and np.isfinite(curve[1]).all()
    raw = metrics.deletion_curve(model, images, np.zeros(2, int), maps, steps=4, normalize=False)
    assert np.isfinite(raw).all()


def test_one_logit_is_refused_or_wrapped():
    weights = np.random.default_rng(0).standard_normal((8, 8, 1)).astype(np.float32)
    images, targets = jax.random.uniform(KEY, (2, 8, 8, 1)), np.ones(2, int)

    def network(images):
        return (images * weights).sum((1, 2, 3))[:, None]

    with pytest.raises(ValueError, match=r"^model: got .*takes two classes.*jc2i.two_classes"):
        jc2i.probabilities(network)(images)
    with pytest.raises(ValueError, match=r"^model: got .*takes two classes.*jc2i.two_classes"):
        explainers.sensitivity(network, images, targets)
    score = jc2i.probabilities(jc2i.two_classes(network))
    sigmoid = 1 / (1 + np.exp(-np.asarray(network(images), float)[:, 0]))
    np.testing.assert_allclose(score(images)[:, 1], sigmoid, rtol=1e-5)
    maps = explainers.sensitivity(score, images, targets)
    slope = (sigmoid * (1 - sigmoid))[:, None, None]
    np.testing.assert_allclose(maps, slope * np.abs(weights[..., 0]), rtol=1e-4)


def test_log_odds_do_not_saturate():
    logits = jnp.float32([[80.0, 1.0, -3.0], [0.5, 0.2, 0.1]])
    odds = jc2i.log_odds(lambda images: logits)(jnp.zeros((2, 1)))
    z = np.asarray(logits, float)
    for c in range(3):
        others = np.log(np.exp(np.delete(z, c, axis=1)).sum(1))
        np.testing.assert_allclose(odds[:, c], z[:, c] - others, rtol=1e-5)


class Scorer:
    """An object that JAX does not know, with a number and an array of its own."""

    def __init__(self, weights):
        self.gain, self.weights = 1.0, weights

    def __call__(self, images):
        score = self.gain * (images * self.weights).sum((1, 2, 3))
        return jnp.stack([score, -score], axis=1)

    def doubled(self, images):
        return 2 * self(images)


def apply(variables, images):
    score = (images * variables["weights"]).sum((1, 2, 3))
    return jnp.stack([score, -score], axis=1)


IMAGES, TARGETS = np.ones((2, 4, 4, 1), np.float32), np.zeros(2, int)


def total(model):
    return float(explainers.sensitivity(model, IMAGES, TARGETS).sum())


def test_an_objects_attributes_and_bound_methods_are_seen():
    scorer = Scorer(np.ones((4, 4, 1), np.float32))
    before, doubled = total(scorer), total(scorer.doubled)
    compiled = jc2i.query._compiled._cache_size()
    scorer.gain = 5.0
    assert total(scorer) == pytest.approx(5 * before)
    scorer.weights = 3 * scorer.weights
    assert total(scorer) == pytest.approx(15 * before)
    assert total(scorer.doubled) == pytest.approx(15 * doubled)
    assert jc2i.query._compiled._cache_size() == compiled


def test_a_partials_arguments_are_seen_and_compile_once():
    weights = np.ones((4, 4, 1), np.float32)
    before = total(functools.partial(apply, {"weights": weights}))
    compiled = jc2i.query._compiled._cache_size()
    assert total(functools.partial(apply, {"weights": 2 * weights})) == pytest.approx(2 * before)
    assert jc2i.query._compiled._cache_size() == compiled


def test_linen_and_equinox_models():
    """Each framework's own way to hand over a model; the Linen user's new variables are seen."""
    import equinox as eqx
    from flax import linen

    class Net(linen.Module):
        @linen.compact
        def __call__(self, images):
            return linen.Dense(3)(images.reshape(len(images), -1))

    net, images = Net(), jnp.float32(IMAGES)
    variables = net.init(KEY, images)
    before = total(functools.partial(net.apply, variables))
    compiled = jc2i.query._compiled._cache_size()
    doubled = jax.tree.map(lambda leaf: 2 * leaf, variables)
    assert total(functools.partial(net.apply, doubled)) == pytest.approx(2 * before, rel=1e-5)
    assert jc2i.query._compiled._cache_size() == compiled

    class Equinox(eqx.Module):
        dense: eqx.nn.Linear
        dropout: eqx.nn.Dropout
        activation: object

        def __call__(self, images):
            flat = self.activation(images.reshape(len(images), -1))
            return jax.vmap(lambda x: self.dropout(self.dense(x)))(flat)

    network = Equinox(eqx.nn.Linear(16, 3, key=KEY), eqx.nn.Dropout(0.5), jax.nn.relu)
    network = eqx.nn.inference_mode(network)
    right = np.abs(np.asarray(network.dense.weight)[0]).sum() * len(IMAGES)
    assert total(network) == pytest.approx(right, rel=1e-5)
    assert total(eqx.filter_jit(network)) == pytest.approx(right, rel=1e-5)

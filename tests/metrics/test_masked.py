"""Average drop, increase, gain and ADCC: the papers' formulas, worked by hand and in float64."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jc2i
from jc2i import explainers, metrics

SHAPE = (4, 3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """Logits that are weighted sums of the pixels."""

    weight: jax.Array

    def __call__(self, images):
        return jnp.einsum("bhwk,hwkc->bc", images, self.weight, precision="highest")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MeanOf:
    """Probabilities of two classes: the mean of the pixels, and the rest."""

    def __call__(self, images):
        mean = images.mean(axis=(1, 2, 3))
        return jnp.stack([mean, 1 - mean], axis=1)


def constant(*values):
    return np.stack([np.full((*SHAPE, 1), value, np.float32) for value in values])


HALF = np.zeros((1, *SHAPE), np.float32)
HALF[:, :2] = 1


def test_worked_by_hand():
    """p = 0.8 and half the image: o = 0.4 over black, 0.9 over white; class 1 has the rest."""
    images, maps = constant(0.8, 0.8), np.concatenate([HALF, 7 * HALF - 3])
    targets = np.array([0, 1])
    for baseline, o in ((0.0, 0.4), (1.0, 0.9)):
        scores = metrics.masked_scores(MeanOf(), images, targets, maps, baseline=baseline)
        np.testing.assert_allclose(scores, [[0.8, o], [0.2, 1 - o]], rtol=1e-5)
    together = metrics.drop_increase_gain(MeanOf(), images, targets, maps)
    np.testing.assert_allclose(together, [[50, 0, 0], [0, 100, 50]], rtol=1e-5, atol=1e-5)
    measured = (metrics.average_drop, metrics.average_increase, metrics.average_gain)
    for column, measure in enumerate(measured):
        np.testing.assert_allclose(
            measure(MeanOf(), images, targets, maps), together[:, column], rtol=1e-6
        )


def test_a_mask_as_it_comes():
    """A box of ones is the same normalised; a map of 0.5 is a mask of 0.5, or else of zeros."""
    images, targets = constant(0.8), np.array([0])
    half = np.full((1, *SHAPE), 0.5, np.float32)
    for maps, normalize, o in ((HALF, False, 0.4), (half, False, 0.4), (half, True, 0.0)):
        scores = metrics.masked_scores(MeanOf(), images, targets, maps, normalize=normalize)
        np.testing.assert_allclose(scores, [[0.8, o]], rtol=1e-5)


def in_float64(logits, masked, target):
    def log_others(z):
        others = np.delete(z.astype(np.float64), target)
        return np.logaddexp.reduce(others) - np.logaddexp.reduce(z.astype(np.float64))

    p, o = (np.exp(z[target] - np.logaddexp.reduce(z)) for z in (logits, masked))
    rest, masked_rest = np.exp(log_others(logits)), np.exp(log_others(masked))
    rise = o - p if p + o < 1 else rest - masked_rest
    return 100 * np.array([max(-rise, 0) / p, float(rise > 0), max(rise, 0) / rest])


@pytest.mark.parametrize(("scale", "classes"), [(1, 3), (5, 1000), (15, 3)])
def test_saturated_probabilities_gain_as_in_float64(scale, classes):
    """1 - p down to 1e-12, 1 - o to 1e-29: with `1 - p` in float32 a gain would be 0/0."""
    random = np.random.default_rng(scale)
    weight = random.normal(size=(*SHAPE, 1, classes)).astype("f4") * 0.3
    weight[:2, ..., 0] += scale
    weight[2:, ..., 0] -= 0.6 * scale
    images = random.uniform(0.5, 1, (6, *SHAPE, 1)).astype("f4")
    maps = np.repeat(HALF, 6, 0) + random.uniform(0, 0.3, (6, *SHAPE)).astype("f4")
    targets = np.array([0, 0, 0, 1, 2, 0])
    mask = np.asarray(jc2i.normalize(maps))[..., None]
    logits, masked = (np.asarray(Linear(weight)(x), np.float64) for x in (images, images * mask))
    right = [in_float64(*row) for row in zip(logits, masked, targets, strict=True)]
    right = np.array(right)
    assert (right[targets == 0, 2] > 50).all() and (right[3:5, 0] > 0).all()
    for score in (jc2i.probabilities(Linear(weight)), lambda x: jax.nn.softmax(Linear(weight)(x))):
        got = metrics.drop_increase_gain(score, images, targets, maps)
        # Logits of 70 have an error of 1e-5 in float32, which is that of the ratio.
        np.testing.assert_allclose(got, right, rtol=5e-4, atol=1e-4)


def test_scores_that_do_not_sum_to_one_are_subtracted():
    """Two labels of their own, each with a sigmoid: 1 - p is not the other's probability."""

    def model(images):
        mean = images.mean(axis=(1, 2, 3))
        return jnp.stack([mean, 0.5 * mean], axis=1)

    gain = metrics.average_gain(model, constant(0.8), np.array([0]), HALF, baseline=1.0)
    np.testing.assert_allclose(gain, 50, rtol=1e-5)


def test_what_is_nothing_by_nothing_is_nan_for_that_image_alone():
    images, targets, maps = constant(1.0, 0.0, 0.6), np.zeros(3, int), np.repeat(HALF, 3, 0)
    got = np.asarray(metrics.drop_increase_gain(MeanOf(), images, targets, maps))
    np.testing.assert_allclose(got, [[50, 0, np.nan], [np.nan, 0, 0], [50, 0, 0]], rtol=1e-5)
    maps[0, 0, 0] = np.nan
    scores = metrics.masked_scores(MeanOf(), images, targets, maps)
    assert np.isnan(scores[0]).all() and np.isfinite(scores[1:]).all()
    got = np.asarray(metrics.drop_increase_gain(MeanOf(), images, targets, maps))
    assert np.isnan(got[0]).all() and np.isfinite(got[2]).all()


def test_the_weights_of_the_evidence_gain_and_the_rest_drops():
    """On one logit's pixels for and pixels against: a map of the first gains, of the others not."""
    weight = np.full((*SHAPE, 1, 2), 0.0, np.float32)
    weight[:2, ..., 0], weight[2:, ..., 0] = 1, -1
    score, images, targets = jc2i.probabilities(Linear(weight)), constant(1.0), np.array([0])
    best = metrics.drop_increase_gain(score, images, targets, HALF)[0]
    worst = metrics.drop_increase_gain(score, images, targets, 1 - HALF)[0]
    p, o = 1 / (1 + np.exp(-np.array([0.0, 6.0])))
    np.testing.assert_allclose(best, [0, 100, 100 * (o - p) / (1 - p)], rtol=1e-5)
    np.testing.assert_allclose(worst, [100 * (p - (1 - o)) / p, 0, 0], rtol=1e-5)


def squares(model, images, targets, *, key=None, power=2.0):
    return (images[..., 0] ** power) * jnp.arange(1, 5.0)[None, :, None]


def test_adcc_is_its_formula():
    random = np.random.default_rng(0)
    weight = random.normal(size=(*SHAPE, 1, 3)).astype("f4")
    score, images = jc2i.probabilities(Linear(weight)), random.random((5, *SHAPE, 1), np.float32)
    targets = np.arange(5) % 3
    got = np.asarray(metrics.adcc(squares, score, images, targets, power=3.0))
    assert metrics.ADCC_PARTS == ("adcc", "coherency", "complexity", "average_drop")
    for i, row in enumerate(got):
        image, target = images[i : i + 1], targets[i]
        first = np.asarray(squares(None, image, None, power=3.0))
        mask = (first - first.min()) / (first.max() - first.min())
        masked = image * mask[..., None]
        second = np.asarray(squares(None, masked, None, power=3.0))
        coherency = (stats.pearsonr(first.ravel(), second.ravel()).statistic + 1) / 2
        p, o = (float(score(x)[0, target]) for x in (image, masked))
        drop, complexity = max(p - o, 0) / p, mask.mean()
        adcc = 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))
        right = 100 * np.array([adcc, coherency, complexity, drop])
        np.testing.assert_allclose(row, right, rtol=1e-4, atol=1e-4)


def test_adcc_at_its_ends():
    """A perfect explainer: one pixel that is the whole score. A constant map shows nothing."""

    def model(images):
        score = images[:, 0, 0, 0]
        return jnp.stack([score, 1 - score], axis=1)

    def perfect(model, images, targets, *, key=None):
        return jnp.zeros(images.shape[:3]).at[:, 0, 0].set(1)

    def nothing(model, images, targets, *, key=None):
        return jnp.zeros(images.shape[:3])

    images, targets = constant(0.7), np.array([0])
    complexity = 1 / 12
    right = [100 * 3 / (2 + 1 / (1 - complexity)), 100, 100 * complexity, 0]
    got = metrics.adcc(perfect, model, images, targets)
    np.testing.assert_allclose(got[0], right, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(metrics.adcc(nothing, model, images, targets)[0], [0, 50, 0, 100])


def test_adcc_of_a_stochastic_explainer_needs_its_key():
    images, targets = constant(0.7, 0.3), np.array([0, 1])
    with pytest.raises(ValueError, match="key: got None, takes a jax.random.key"):
        metrics.adcc(explainers.random_map, MeanOf(), images, targets)
    key = jax.random.key(3)
    both = metrics.adcc(explainers.random_map, MeanOf(), images, targets, key=key)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(2))
    alone = metrics.adcc(explainers.random_map, MeanOf(), images[1:], targets[1:], key=keys[1:])
    np.testing.assert_allclose(alone[0], both[1], rtol=1e-5)
    assert abs(both[0, 1] - 50) > 1  # the two maps were drawn anew, and are not equal
    assert both[0, 1] < 99


def test_adcc_refuses_maps_of_another_size():
    with pytest.raises(ValueError, match=r"explainer: got one that returns \[1, 2, 2\], takes"):
        metrics.adcc(
            lambda model, images, targets, *, key=None: jnp.zeros((1, 2, 2)),
            MeanOf(),
            constant(0.7),
            np.array([0]),
        )

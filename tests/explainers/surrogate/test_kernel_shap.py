from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i.explainers import kernel_shap
from jc2i.query import method_of

from .conftest import by_region, variants

KEY = jax.random.key(5)
TARGETS = np.array([0, 2, 1])


def shapley(model, image, target, segments, baseline):
    """Shapley's values by their definition: the mean gain of a region over all orders."""
    codes = np.unique(segments)
    shown = np.array(list(itertools.product([False, True], repeat=len(codes))))
    hidden = np.full_like(image, baseline)
    scores = np.asarray(model(variants(image, segments, shown, hidden)), float)[:, target]
    value = dict(zip(map(tuple, shown.tolist()), scores, strict=True))
    found = np.zeros(len(codes))
    for r in range(len(codes)):
        for row in shown[~shown[:, r]]:
            joined = row.copy()
            joined[r] = True
            size = row.sum()
            orders = math.factorial(size) * math.factorial(len(codes) - size - 1)
            gain = value[tuple(joined.tolist())] - value[tuple(row.tolist())]
            found[r] += orders / math.factorial(len(codes)) * gain
    return found


def curved(images):
    """Scores with interactions of pixels far apart."""
    total = images.sum(axis=(1, 2, 3))
    left, right = images[:, :, :5].mean(axis=(1, 2, 3)), images[:, :, 5:].mean(axis=(1, 2, 3))
    return jnp.stack([jnp.sin(total / 20), left * right, jnp.exp(left) - right**2], axis=1)


@pytest.fixture(scope="module")
def models(convnet):
    return {"curved": curved, "convnet": convnet("softplus")}


@pytest.fixture(scope="module")
def exact(models, images, segments):
    """Shapley's values of the eight regions under each model."""
    return {
        name: np.array(
            [shapley(model, *each, 0.3) for each in zip(images, TARGETS, segments, strict=True)]
        )
        for name, model in models.items()
    }


def error(values, expected):
    return np.linalg.norm(values - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("name, regions", [("convnet", 8), ("curved", 11)])
def test_enumerated_they_are_shapleys_values(models, images, segments, exact, name, regions):
    """Exact also where there is room for more regions than the images have."""
    options = {"key": KEY, "segments": segments, "baseline": 0.3, "regions": regions}
    maps = kernel_shap(models[name], images, TARGETS, samples=254, **options)
    assert error(by_region(maps, segments), exact[name]) < 1e-4


def test_drawn_they_come_near_shapleys_values(images):
    """One coalition less than all: they are drawn, some of them twice."""
    regions = np.arange(72).reshape(1, 8, 9) % 11
    expected = shapley(curved, images[0], 2, regions[0], 0.0)
    options = {"key": KEY, "segments": regions, "regions": 12, "batch_size": 512}
    maps = kernel_shap(curved, images[:1], np.array([2]), samples=2045, **options)
    found = by_region(maps, regions)[0]
    assert 1e-4 < error(found, expected) < 0.02
    np.testing.assert_allclose(found.sum(), expected.sum(), rtol=1e-4)


def test_they_sum_to_what_the_image_adds(images, segments):
    """However little one coalition says of each region."""
    options = {"segments": segments, "samples": 1, "regions": 8}
    maps = kernel_shap(curved, images, TARGETS, key=KEY, **options)
    whole, none = (curved(x)[np.arange(3), TARGETS] for x in (images, 0 * images))
    total = by_region(maps, segments).sum(axis=1)
    np.testing.assert_allclose(total, whole - none, rtol=1e-5, atol=1e-6)


def test_recovers_a_linear_model_of_the_regions(linear, images, segments):
    model = linear((8, 9, 3))
    options = {"segments": segments, "samples": 40, "regions": 8}
    maps = kernel_shap(model, images, TARGETS, key=KEY, **options)
    pixels = images * np.moveaxis(model.weights, -1, 0)[TARGETS]
    expected = [
        [pixel[region == code].sum() for code in np.unique(region)]
        for pixel, region in zip(pixels, segments, strict=True)
    ]
    np.testing.assert_allclose(by_region(maps, segments), expected, rtol=1e-4, atol=1e-4)


def test_dummies_get_nothing_and_equals_get_the_same():
    """Cells 0 and 1 of nine count through their product alone, cell 8 not at all."""
    images = np.ones((1, 6, 6, 1), np.float32)

    def model(images):
        cells = images[:, ::2, ::2, 0].reshape(-1, 9)
        score = cells[:, 0] * cells[:, 1] + jnp.sin(cells[:, 2:8].sum(axis=1))
        return jnp.stack([score, -score], axis=1)

    maps = kernel_shap(model, images, np.array([0]), key=KEY, samples=510, grid=3, batch_size=99)
    values = np.asarray(maps)[0, ::2, ::2].reshape(9)
    assert maps.shape == (1, 6, 6) and len(np.unique(maps)) <= 9
    np.testing.assert_allclose(values[8], 0, atol=1e-5)
    np.testing.assert_allclose(values[:2], 0.5, atol=1e-5)
    np.testing.assert_allclose(values[2:8], np.sin(6) / 6, atol=1e-5)


def test_a_single_region_has_it_all(images):
    whole = np.zeros((3, 8, 9), int)
    expected = curved(images)[np.arange(3), TARGETS] - curved(0 * images)[np.arange(3), TARGETS]
    for options in ({"grid": 1}, {"segments": whole, "regions": 3}):
        maps = kernel_shap(curved, images, TARGETS, key=KEY, samples=5, **options)
        np.testing.assert_allclose(maps[:, 3, 3], expected, rtol=1e-5)
        np.testing.assert_array_equal(maps, np.broadcast_to(maps[:, :1, :1], maps.shape))


def test_agrees_with_captum(explained, captum, published):
    """Captum's mean over 8 runs of 1000 samples; all 1022 coalitions of ten regions."""
    network, images, targets, _ = explained("softplus")
    regions = np.repeat(published["segments"][None], 3, axis=0)
    maps = kernel_shap(
        network,
        images,
        targets,
        key=KEY,
        segments=regions,
        samples=1022,
        regions=10,
        baseline=captum["reference"],
    )
    mean, deviation = published["kernel_shap/mean"], published["kernel_shap/deviation"]
    difference = np.abs(by_region(maps, regions) - mean)
    assert (difference < 5 * deviation.mean(axis=1, keepdims=True) / np.sqrt(8)).all()


def test_says_its_cost():
    cost = method_of(kernel_shap).cost
    assert cost((1, 8, 8, 3)).forward == 2050
    assert cost((1, 8, 8, 3), grid=3).forward == 512
    assert cost((1, 8, 8, 3), grid=1).forward == 2
    assert cost((1, 8, 8, 3), regions=8).forward == 256

from __future__ import annotations

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import pairwise_distances

from jc2i.explainers import lime
from jc2i.query import image_keys

from .conftest import by_region, variants

KEY = jax.random.key(4)
TARGETS = np.array([0, 2, 1])


def test_recovers_a_linear_model_of_the_regions(linear, images, segments):
    model = linear((8, 9, 3))
    options = {"samples": 300, "ridge": 1e-4, "regions": 8, "baseline": 0.25}
    maps = lime(model, images, TARGETS, key=KEY, segments=segments, **options)
    pixels = (images - 0.25) * np.moveaxis(model.weights, -1, 0)[TARGETS]
    expected = [
        [pixel[region == code].sum() for code in np.unique(region)]
        for pixel, region in zip(pixels, segments, strict=True)
    ]
    np.testing.assert_allclose(by_region(maps, segments), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "keep, kernel_width, ridge, baseline", [(0.5, 0.25, 1.0, "mean"), (0.7, 0.1, 0.01, 0.2)]
)
def test_is_scikit_learns_ridge_on_the_same_samples(
    convnet, images, segments, keep, kernel_width, ridge, baseline
):
    """With the room for regions that there is by default, of which these images fill a part."""
    network, samples = convnet("softplus"), 60
    options = {"keep": keep, "kernel_width": kernel_width, "ridge": ridge, "baseline": baseline}
    maps = lime(network, images, TARGETS, key=KEY, segments=segments, samples=samples, **options)
    keys = image_keys(KEY, 3)
    for i, image in enumerate(images):
        drawn = [
            jax.random.uniform(jax.random.fold_in(keys[i], j), (128,))[:8] for j in range(samples)
        ]
        shown = np.array(drawn) < keep
        shown[0] = True
        hidden = np.full_like(image, 0.2)
        if baseline == "mean":
            for code in np.unique(segments[i]):
                hidden[segments[i] == code] = image[segments[i] == code].mean(axis=0)
        scores = network(variants(image, segments[i], shown, hidden))[:, TARGETS[i]]
        distance = pairwise_distances(shown.astype(float), shown[:1].astype(float), "cosine")[:, 0]
        weights = np.sqrt(np.exp(-(distance**2) / kernel_width**2))
        peer = Ridge(alpha=ridge).fit(shown.astype(float), np.float64(scores), weights)
        coefficients = by_region(maps[i : i + 1], segments[i : i + 1])[0]
        scale = np.abs(peer.coef_).max()
        np.testing.assert_allclose(coefficients, peer.coef_, atol=1e-4 * scale)


def test_agrees_with_the_published_code(explained, published):
    """Its mean coefficients over 8 runs of 1000 samples, each with its own random masks."""
    network, images, targets, _ = explained("softplus")
    regions = np.repeat(published["segments"][None], 3, axis=0)
    mean, deviation = published["lime/mean"], published["lime/deviation"]
    maps = lime(network, images, targets, key=KEY, segments=regions, samples=1000, regions=10)
    difference = by_region(maps, regions) - mean
    assert np.linalg.norm(difference) < 0.02 * np.linalg.norm(mean)
    assert (np.abs(difference) < 5 * deviation.mean(axis=1, keepdims=True)).all()


def test_without_segments_the_regions_are_the_cells_of_a_grid(convnet, images):
    cells = (np.arange(8) * 3 // 8)[:, None] * 3 + np.arange(9) * 3 // 9
    cells = np.broadcast_to(cells, (3, 8, 9))
    maps, same = (
        lime(convnet(), images, TARGETS, key=KEY, samples=20, **options)
        for options in ({"grid": 3}, {"segments": cells, "regions": 9})
    )
    np.testing.assert_array_equal(maps, same)
    assert len(np.unique(maps[0])) == 9


def test_an_image_of_more_regions_than_fit_has_no_map(convnet, images, segments):
    fewer = segments.copy()
    fewer[1][fewer[1] == 64] = 63
    maps = lime(convnet(), images, TARGETS, key=KEY, segments=fewer, samples=20, regions=7)
    assert np.isnan(maps[0]).all() and np.isfinite(maps[1]).all() and np.isnan(maps[2]).all()


def test_few_samples_and_no_penalty_leave_the_rest_at_zero(linear, images):
    """One sample, the whole image, says nothing of any region."""
    maps = lime(linear((8, 9, 3)), images, TARGETS, key=KEY, samples=1, ridge=0.0, grid=3)
    np.testing.assert_array_equal(maps, 0)


def test_refuses_by_name(convnet, images, segments, untyped):
    def refused(argument, **options):
        with pytest.raises(ValueError, match=f"^{argument}: got "):
            lime(convnet(), images, TARGETS, key=KEY, samples=4, **options)

    refused("segments", segments=segments[:, :4])
    refused("segments", segments=segments[:2])
    refused("segments", segments=segments.astype(np.float32))
    refused("segments", segments="slic")
    refused("grid", grid=9)
    refused("regions", grid=3, regions=8)
    refused("baseline", baseline="median")
    refused("kernel_width", kernel_width=0.0)

"""AOPC against Quantus' RegionPerturbation and a plain loop."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import metrics

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics_quantus.npz"


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


def softmax_of(weights):
    return lambda images: jax.nn.softmax(
        jnp.einsum("bhwk,hwkc->bc", images, weights, precision="highest")
    )


@pytest.mark.parametrize("regions", [6, 100])
def test_equals_quantus(golden, regions):
    """Sides that patches do not divide; 100 regions of an image that has 12."""
    arguments = (golden["images"], golden["targets"], golden["maps"])
    model, options = softmax_of(golden["weights"]), {"patch_size": 4, "regions": regions}
    right = golden[f"regions_{regions}"]
    assert right.shape == (4, min(regions, 12))
    got = metrics.aopc(model, *arguments, rule="quantus", **options)
    np.testing.assert_allclose(got, right.mean(axis=1), rtol=1e-4)
    got = metrics.aopc(model, *arguments, **options)
    np.testing.assert_allclose(got, right.sum(axis=1) / (right.shape[1] + 1), rtol=1e-4)
    chunked = metrics.aopc(model, *arguments, batch_size=8, **options)
    np.testing.assert_allclose(chunked, got, rtol=1e-5)


@pytest.mark.parametrize("patch_size", [1, 2, 3])
def test_equals_a_loop(patch_size):
    """A sum of pixels: what goes at each step is the sum of the patch. Ties in the map too."""
    random = np.random.default_rng(patch_size)
    images = random.uniform(0.2, 1, (3, 6, 5, 1)).astype("f4")
    maps = random.integers(0, 3, (3, 6, 5)).astype("f4")
    maps += np.arange(30, dtype="f4").reshape(6, 5) / 64  # no patches of one sum

    def model(images):
        total = images.sum(axis=(1, 2, 3))
        return jnp.stack([total, -total], axis=1)

    more = [-side % patch_size for side in (6, 5)]
    pads = [(0, 0), *((m // 2, m - m // 2) for m in more)]
    for i, got in enumerate(
        metrics.aopc(model, images, np.zeros(3, int), maps, patch_size=patch_size, regions=7)
    ):
        sums = []
        image, saliency = (np.pad(a[i : i + 1], pads)[0] for a in (images[..., 0], maps))
        for row in range(0, image.shape[0], patch_size):
            for column in range(0, image.shape[1], patch_size):
                part = np.s_[row : row + patch_size, column : column + patch_size]
                sums.append((-saliency[part].sum(), image[part].sum()))
        falls = np.cumsum([0, *(lost for _, lost in sorted(sums)[:7])])
        np.testing.assert_allclose(got, falls.mean(), rtol=1e-5)


def test_a_perfect_map_is_above_any_other(golden):
    images, weights = golden["images"], golden["weights"][..., :2]

    def model(images):
        return jnp.einsum("bhwk,hwkc->bc", images, weights, precision="highest")

    def measured(maps):
        return metrics.aopc(model, images, np.zeros(4, int), maps, patch_size=3, regions=5)

    perfect = (images * weights[..., 0]).sum(axis=3)
    assert (measured(perfect) > measured(golden["maps"])).all()
    assert (measured(-perfect) < measured(golden["maps"])).all()


def test_refuses_a_patch_larger_than_the_image(golden):
    arguments = (golden["images"], golden["targets"], golden["maps"])
    with pytest.raises(ValueError, match="patch_size: got 14, takes at most .* 11 pixels"):
        metrics.aopc(softmax_of(golden["weights"]), *arguments)


def test_a_map_that_is_not_finite_is_nan_alone(golden):
    maps = golden["maps"].copy()
    maps[1, 0, 0] = np.inf
    arguments = (golden["images"], golden["targets"], maps)
    got = metrics.aopc(softmax_of(golden["weights"]), *arguments, patch_size=4)
    np.testing.assert_array_equal(np.isnan(got), [False, True, False, False])

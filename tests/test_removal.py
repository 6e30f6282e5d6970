from __future__ import annotations

import jax
import numpy as np
import pytest
import scipy.ndimage

from jc2i import removal

IMAGES = np.random.default_rng(0).uniform(size=(2, 14, 17, 3)).astype(np.float32)


@pytest.mark.parametrize(("size", "sigma"), [(11, 10.0), (5, 1.0), (1, 2.0)])
def test_blur_equals_scipys(size, sigma):
    blurred = removal.gaussian_blur(jax.numpy.asarray(IMAGES), size, sigma)
    options = {"mode": "mirror", "axes": (1, 2), "radius": size // 2}
    expected = scipy.ndimage.gaussian_filter(IMAGES.astype(float), sigma, **options)
    np.testing.assert_allclose(blurred, expected, atol=2e-6)


def test_blur_of_an_image_smaller_than_the_kernel_is_a_mean_of_its_values():
    small = jax.numpy.asarray(IMAGES[:, :3, :4])
    blurred = removal.gaussian_blur(small)
    low, high = small.min((1, 2), keepdims=True), small.max((1, 2), keepdims=True)
    assert ((blurred >= low - 1e-6) & (blurred <= high + 1e-6)).all()
    flat = removal.gaussian_blur(jax.numpy.full((1, 2, 1, 1), 0.3))
    np.testing.assert_allclose(flat, 0.3, rtol=1e-6)


def test_forms_of_a_baseline():
    images = jax.numpy.asarray(IMAGES)
    image = np.asarray(removal.gaussian_blur(images))
    forms = [
        (0.25, np.full_like(IMAGES, 0.25)),
        ((0.1, 0.2, 0.3), np.broadcast_to(np.float32([0.1, 0.2, 0.3]), IMAGES.shape)),
        (IMAGES[1], np.broadcast_to(IMAGES[1], IMAGES.shape)),
        (IMAGES[:, :, :, :1], np.broadcast_to(IMAGES[:, :, :, :1], IMAGES.shape)),
        ("blur", image),
    ]
    for baseline, expected in forms:
        filled = removal.fill(images, baseline)
        assert filled.ndim == 4 and filled.dtype == images.dtype
        np.testing.assert_allclose(np.broadcast_to(filled, IMAGES.shape), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("black", "baseline: got 'black', takes 'blur'"),
        (np.zeros(4), "baseline: got float64[4], takes a finite number, one a channel, an image"),
        (np.zeros((14, 17)), "baseline: got float64[14, 17], takes"),
        (np.zeros((3, 14, 17, 3)), 'that fits [2, 14, 17, 3], or "blur"'),
    ],
)
def test_refusals_of_a_baseline(baseline, message):
    with pytest.raises(ValueError) as refusal:
        removal.fill(jax.numpy.asarray(IMAGES), baseline)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("size", "sigma", "message"),
    [(4, 1.0, "size: got 4, takes an odd"), (5, 0.0, "sigma: got 0.0, takes a number above 0")],
)
def test_refusals_of_a_blur(size, sigma, message):
    with pytest.raises(ValueError, match=message):
        removal.gaussian_blur(jax.numpy.asarray(IMAGES), size, sigma)

from __future__ import annotations

from typing import Any, cast

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jc2i import data


def test_published_order_in_the_unit_range():
    published = cast(Any, load_digits())
    digits = data.load("digits", "all")
    images = np.asarray(digits.images)
    np.testing.assert_array_equal(digits.labels, published.target)
    upsampled = jax.image.resize(published.images / 16, (1797, 16, 16), "cubic")
    np.testing.assert_allclose(images[..., 0], np.clip(upsampled, 0, 1), atol=2e-6, rtol=0)
    assert digits.images.shape == (1797, 16, 16, 1)
    assert digits.images.dtype == np.float32
    assert 0 <= images.min() and images.max() <= 1
    assert digits.classes == tuple("0123456789")


def test_stored_size_is_the_published_pixels():
    eight = data.load("digits", "train", size=(8, 8))
    published = cast(Any, load_digits()).images
    np.testing.assert_array_equal(np.asarray(eight.images)[..., 0], published[:300] / 16)


def test_splits():
    everything = data.load("digits", "all")
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (len(train), len(test)) == (300, 1497)
    np.testing.assert_array_equal(np.concatenate([train.images, test.images]), everything.images)
    calibration, evaluation = data.load("digits", "calibration"), data.load("digits", "evaluation")
    assert (len(calibration), len(evaluation)) == (748, 749)
    halves = np.concatenate([calibration[:][0], evaluation[:][0]]).reshape(1497, -1)
    held_out = test[:][0].reshape(1497, -1)
    order = np.lexsort(halves.T), np.lexsort(held_out.T)
    np.testing.assert_array_equal(halves[order[0]], held_out[order[1]])


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("validation", {}, "split: got 'validation', takes 'train', 'test', 'all', 'calibration'"),
        ("holdout", {}, "split: got 'holdout', takes 'train' or 'validation' or 'test'"),
        ("train", {"channels": 2}, "channels: got 2, takes 1 or 3 for digits"),
        ("train", {"classes": ["a"]}, r"classes: got \['a'\], takes None for digits"),
        ("train", {"size": (0, 1)}, r"size: got \(0, 1\), takes \(height, width\)"),
    ],
)
def test_refusals(split, options, message):
    with pytest.raises(ValueError, match=message):
        data.load("digits", split, **options)

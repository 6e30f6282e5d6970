from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity as reference

from jc2i.metrics import structural_similarity


def pairs(shape, count=6, seed=0):
    """Maps in [0, 1] and their noisy copies, from hardly to wholly changed."""
    random = np.random.default_rng(seed)
    first = random.random((count, *shape)).cumsum(1).cumsum(2)
    first /= first.max(axis=(1, 2), keepdims=True)
    share = np.linspace(0, 1, count)[:, None, None]
    second = (1 - share) * first + share * random.random(first.shape)
    return first.astype("f4"), second.astype("f4")


@pytest.mark.parametrize("shape", [(32, 32), (16, 16), (11, 40)])
def test_equals_scikit_image(shape):
    first, second = pairs(shape)
    got = structural_similarity(first, second)
    expected = [
        reference(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.ptp(expected) > 0.3


def test_equals_scikit_image_for_another_range():
    first, second = pairs((20, 20))
    kind = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [reference(a, b, data_range=7.0, **kind) for a, b in zip(first, second, strict=True)]
    got = structural_similarity(first, second, data_range=7.0)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_is_symmetric_and_one_for_equal_maps():
    first, second = pairs((16, 16))
    there, back = structural_similarity(first, second), structural_similarity(second, first)
    np.testing.assert_allclose(there, back, atol=1e-6)
    np.testing.assert_allclose(structural_similarity(first, first), 1, atol=1e-6)
    zeros = np.zeros((2, 16, 16), "f4")  # what a constant map becomes when it is normalised
    np.testing.assert_allclose(structural_similarity(zeros, zeros), 1, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_nan_alone(value):
    first, second = pairs((16, 16))
    whole = np.asarray(structural_similarity(first, second))
    first[2, 3, 4], second[4, 0, 0] = value, value
    got = np.asarray(structural_similarity(first, second))
    assert np.isnan(got[[2, 4]]).all()
    np.testing.assert_array_equal(got[[0, 1, 3, 5]], whole[[0, 1, 3, 5]])


def test_does_not_depend_on_the_batch():
    first, second = pairs((16, 16))
    one_by_one = [structural_similarity(first[i : i + 1], second[i : i + 1])[0] for i in range(6)]
    np.testing.assert_allclose(structural_similarity(first, second), one_by_one, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros((2, 16, 16, 1), "f4"),) * 2, {}, "first: got float32"),
        ((np.zeros((2, 16, 16), "f4"), np.zeros((3, 16, 16), "f4")), {}, "second: got float32"),
        ((np.zeros((2, 8, 16), "f4"),) * 2, {}, "window: got 11, takes an odd side of at most 8"),
        ((np.zeros((2, 16, 16), "f4"),) * 2, {"window": 4}, "window: got 4, takes an odd side"),
        ((np.zeros((2, 16, 16), "f4"),) * 2, {"sigma": 0.0}, "sigma: got 0.0, takes a number"),
        ((np.zeros((2, 16, 16), "f4"),) * 2, {"data_range": -1.0}, "data_range: got -1.0"),
    ],
)
def test_refuses_bad_input(untyped, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        structural_similarity(*arguments, **options)

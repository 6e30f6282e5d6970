from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.signal import convolve2d
from scipy.spatial import distance as scipys
from skimage.feature import hog
from skimage.metrics import structural_similarity as reference

from jc2i import normalize
from jc2i.metrics import (
    DISTANCES,
    dice,
    hog_similarity,
    l1_distance,
    l2_distance,
    pearson,
    spearman,
    structural_similarity,
    wasserstein,
)
from jc2i.metrics.similarity.structural import _structural_similarity


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
    got = structural_similarity(first, second, data_range=1.0)
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


def in_float64(first, second, data_range):
    """Wang et al. 2004, in double precision."""
    weights = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    kernel = np.outer(weights, weights) / weights.sum() ** 2

    def mean(values):
        return convolve2d(values, kernel, "valid")

    a, b = first.astype(np.float64), second.astype(np.float64)
    m_a, m_b = mean(a), mean(b)
    s_a, s_b, s_ab = mean(a * a) - m_a**2, mean(b * b) - m_b**2, mean(a * b) - m_a * m_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    numerator = (2 * m_a * m_b + c1) * (2 * s_ab + c2)
    return (numerator / ((m_a**2 + m_b**2 + c1) * (s_a + s_b + c2))).mean()


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4, 1e-30, 1e30, 255.0])
def test_the_range_of_raw_maps_is_their_own(scale):
    """Two unrelated maps: under a range of 1 those of range 1e-4 were .999998 alike."""
    first, second = np.random.default_rng(0).random((2, 1, 32, 32)).astype("f4")
    a, b = first * np.float32(scale), second * np.float32(scale)
    got = structural_similarity(a, b, data_range=scale)
    np.testing.assert_allclose(got, -0.051125, atol=1e-5)
    both = np.stack([first, second])
    np.testing.assert_allclose(
        structural_similarity(a, b), in_float64(first[0], second[0], np.ptp(both)), atol=1e-5
    )


def test_each_pair_has_its_own_range():
    first, second = pairs((16, 16))
    scales = np.array([1, 10, 1e-3, 5, 1e4, 1e-6], "f4")[:, None, None]
    np.testing.assert_allclose(
        structural_similarity(first * scales, second * scales),
        structural_similarity(first, second),
        atol=1e-5,
    )


@pytest.mark.parametrize("offset", [0, 10, 1000, -1e4])
def test_moments_of_a_far_off_map_do_not_cancel(offset):
    random = np.random.default_rng(1)
    first, second = (
        np.kron(random.random((4, 4)), np.ones((8, 8))).astype("f4") + np.float32(offset)
        for _ in range(2)
    )
    for data_range in (1.0, None):
        largest = np.ptp([first, second]) if data_range is None else data_range
        got = structural_similarity(first[None], second[None], data_range=data_range)
        np.testing.assert_allclose(got, in_float64(first, second, largest), atol=2e-5)


def test_normalised_maps_have_a_range_of_one():
    first, second = pairs((16, 16))
    first, second = np.asarray(normalize(first)), np.asarray(normalize(second))
    np.testing.assert_allclose(
        structural_similarity(first, second),
        structural_similarity(first, second, data_range=1.0),
        atol=1e-6,
    )


def test_constant_maps():
    ones = np.ones((4, 12, 12), "f4")
    levels = np.array([0, 1, -2, 3e38], "f4")[:, None, None]
    np.testing.assert_allclose(structural_similarity(ones * levels, ones * levels), 1, rtol=1e-6)
    # (2 a b + c1) / (a^2 + b^2 + c1) with c1 = (.01 |a - b|)^2.
    got = structural_similarity(ones[:3] * levels[:3], np.full((3, 12, 12), 2.0, "f4"))
    by_hand = [4e-4 / (4 + 4e-4), (4 + 1e-4) / (5 + 1e-4), (-8 + 16e-4) / (8 + 16e-4)]
    np.testing.assert_allclose(got, by_hand, atol=1e-6)


def test_a_sweep_of_ranges_and_sigmas_compiles_once(untyped):
    first, second = pairs((13, 17))
    structural_similarity(first, second, data_range=1.0, sigma=1.0)
    before = _structural_similarity._cache_size()
    for value in (0.5, np.float32(2), np.array(3), jnp.float32(4)):
        structural_similarity(first, second, data_range=value, sigma=value)
    assert _structural_similarity._cache_size() == before


def test_spearman_equals_scipys_ties_and_all():
    random = np.random.default_rng(0)
    first = random.normal(size=(5, 9, 7)).astype("f4")
    first[1:3] = np.round(first[1:3])  # many ties
    second = first + random.normal(size=first.shape).astype("f4")
    second[2] = np.round(second[2])
    second[3], second[4] = -np.exp(first[3]), first[4]
    expected = [
        stats.spearmanr(a.ravel(), b.ravel())[0] for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(spearman(first, second), expected, atol=1e-6)
    assert expected[3] == pytest.approx(-1) and expected[4] == pytest.approx(1)
    expected = [
        stats.spearmanr(np.abs(a).ravel(), np.abs(b).ravel())[0]
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(spearman(first, second, absolute=True), expected, atol=1e-6)


def test_spearman_worked_by_hand():
    """Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15) = .6; opposite maps of one sign."""
    first = np.array([[[1, 2], [3, 4]], [[1, 2], [3, 4]]], np.uint8)
    second = np.array([[[20, 10], [40, 30]], [[-1, -2], [-3, -4]]], np.int16)
    np.testing.assert_allclose(spearman(first, second), [0.6, -1], rtol=1e-6)
    np.testing.assert_allclose(spearman(first, second, absolute=True), [0.6, 1], rtol=1e-6)


def test_spearman_of_a_constant_map_is_zero():
    ramp, flat = np.arange(16.0, dtype="f4").reshape(1, 4, 4), np.full((1, 4, 4), 0.3, "f4")
    assert spearman(ramp, flat)[0] == spearman(flat, ramp)[0] == spearman(flat, flat)[0] == 0
    signs = np.where(ramp % 2 == 0, 1, -1).astype("f4")
    assert spearman(signs, signs, absolute=True)[0] == 0 and spearman(signs, signs)[0] == 1


def test_spearman_of_a_large_map():
    first, second = np.random.default_rng(0).normal(size=(2, 1, 224, 224)).astype("f4")
    second = np.round(first + 2 * second, 1)
    expected = stats.spearmanr(first.ravel(), second.ravel())[0]
    np.testing.assert_allclose(spearman(first, second), expected, atol=1e-5)


@pytest.mark.parametrize("absolute", ["yes", None, 1, np.nan])
def test_spearman_refuses_bad_input(untyped, absolute):
    maps = np.zeros((1, 4, 4), "f4")
    with pytest.raises(ValueError, match="absolute: got .*, takes True or False"):
        spearman(maps, maps, absolute=absolute)
    with pytest.raises(ValueError, match=r"second: got float32\[1, 4, 3\], takes .*\[1, 4, 4\]"):
        spearman(maps, maps[..., :3])


@pytest.mark.parametrize("value", ["wide", 2.5j, True, np.nan, np.inf, -1, [1.0], np.ones(1)])
@pytest.mark.parametrize("option", ["data_range", "window", "sigma"])
def test_refuses_options_of_a_wrong_type(untyped, option, value):
    maps = np.zeros((1, 12, 12), "f4")
    with pytest.raises(ValueError, match=f"^{option}: got .*, takes "):
        structural_similarity(maps, maps, **{option: value})


def test_numpy_scalars_and_arrays_of_rank_0_are_numbers(untyped):
    first, second = pairs((16, 16))
    expected = structural_similarity(first, second, window=7, sigma=2.0, data_range=2.0)
    for kind in (np.array, jnp.asarray, np.float32):
        options = {"window": np.array(7), "sigma": kind(2.0), "data_range": kind(2.0)}
        np.testing.assert_array_equal(structural_similarity(first, second, **options), expected)


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


def test_pearson_equals_scipys():
    first, second = pairs((9, 7))
    second[2] = -1e6 * second[2] + 3e6
    expected = [
        stats.pearsonr(a.ravel(), b.ravel()).statistic
        for a, b in zip(first.astype(float), second.astype(float), strict=True)
    ]
    np.testing.assert_allclose(pearson(first, second), expected, atol=1e-5)
    np.testing.assert_allclose(pearson(first * 1e-30, second), expected, atol=1e-5)


def test_pearson_of_constant_and_broken_maps():
    first, second = (part[:3].copy() for part in pairs((9, 7)))
    first[0], second[1, 2, 2] = 5, np.inf
    np.testing.assert_array_equal(pearson(first, second)[:2], [0, np.nan])
    assert np.isfinite(pearson(first, second)[2])


@pytest.mark.parametrize(
    ("shape", "options"),
    [((48, 64), {}), ((33, 40), {"orientations": 6, "cell": 5, "block": 2})],
)
def test_hog_similarity_is_that_of_scikit_images_histograms(shape, options):
    first, second = pairs(shape)
    kind = {
        "orientations": options.get("orientations", 9),
        "pixels_per_cell": (options.get("cell", 16),) * 2,
        "cells_per_block": (options.get("block", 3),) * 2,
    }

    def histogram(values):
        values = values.astype(float)
        return hog((values - values.min()) / np.ptp(values), **kind)

    expected = [
        stats.pearsonr(histogram(a), histogram(b)).statistic
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(hog_similarity(first, second, **options), expected, atol=1e-3)
    assert np.ptp(expected) > 0.3 and max(expected) > 0.999
    scaled = hog_similarity(1e5 * first, second, **options)
    np.testing.assert_allclose(scaled, hog_similarity(first, second, **options), atol=1e-4)


def test_hog_similarity_of_constant_and_broken_maps():
    first, second = (part[:3].copy() for part in pairs((48, 48)))
    first[0], second[1, 2, 2] = 5, np.nan
    got = hog_similarity(first, second)
    np.testing.assert_array_equal(got[:2], [0, np.nan])
    assert np.isfinite(got[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": 17}, r"first: got float32\[6, 48, 48\], takes maps.*at least 51 x 51 pixels"),
        ({"block": 0}, "block: got 0, takes a whole number above 0"),
        ({"orientations": 2.5}, "orientations: got 2.5, takes a whole number"),
    ],
)
def test_hog_similarity_refuses_bad_input(untyped, options, message):
    first, second = pairs((48, 48))
    with pytest.raises(ValueError, match=message):
        hog_similarity(first, second, **options)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_dice_is_that_of_the_most_important_pixels(share):
    first, second = pairs((10, 13))
    count = round(share * 130)

    def important(values):
        return values.ravel() > np.sort(values, axis=None)[-count - 1]

    expected = [
        1 - scipys.dice(important(a), important(b)) for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(dice(first, second, share=share), expected, rtol=1e-6)
    assert expected[0] == 1 and min(expected) < 0.5


def test_dice_worked_by_hand():
    """Two of eight pixels: one in common. Tied values are important together or not at all."""
    first = np.float32([[[8, 7, 0, 0], [1, 2, 3, 4]]])
    second = np.float32([[[0, 9, 9, 1], [0, 0, 0, 0]]])
    assert dice(first, second, share=0.25)[0] == pytest.approx(0.5)
    # Three values share ranks 6 to 8, whose mean is 7: among the two highest, so that all are.
    tied = np.float32([[[5, 5, 5, 1], [0, 2, 3, 4]]])
    assert dice(first, tied, share=0.25)[0] == pytest.approx(4 / 5)
    point = np.float32([[[0, 0, 0, 0], [0, 0, 0, 1]]])
    assert dice(point, point[..., ::-1], share=0.25)[0] == 0 and dice(point, point)[0] == 1


def test_l1_and_l2_distances_are_norms_a_pixel_of_normalised_maps():
    first, second = pairs((9, 7))
    second[1] = -1e6 * second[1] + 3e6
    a, b = (np.asarray(normalize(maps), float) for maps in (first, second))
    expected = np.linalg.norm((a - b).reshape(6, -1), 1, axis=1) / 63
    np.testing.assert_allclose(l1_distance(first, second), expected, atol=1e-6)
    expected = np.linalg.norm((a - b).reshape(6, -1), 2, axis=1) / 63**0.5
    np.testing.assert_allclose(l2_distance(first, second), expected, atol=1e-6)
    opposite = np.float32([[[0, 1], [1, 0]], [[5, 2], [2, 5]]])  # as far as maps can be
    for distance in (l1_distance, l2_distance):
        np.testing.assert_allclose(distance(opposite, opposite[::-1]), 1)


@pytest.fixture(scope="module")
def transport():
    return pytest.importorskip("ot")


@pytest.mark.parametrize("shape", [(9, 7), (4, 16)])
def test_wasserstein_equals_pots_of_the_whole_maps(transport, shape):
    """POT is given all mass, also what both maps hold at a pixel, and the plane in pixels."""
    first, second = pairs(shape)
    second[3] = -second[3]
    second[4, 2:], second[5] = 0, np.eye(*shape)
    places = np.stack(np.indices(shape), axis=-1).reshape(-1, 2).astype(float)
    lengths = transport.dist(places, places, "euclidean")

    def mass(values):
        values = values.ravel().astype(float)
        values = values - values.min()
        return values / values.sum()

    expected = [
        transport.emd2(mass(a), mass(b), lengths) / lengths.max()
        for a, b in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(wasserstein(first, second), expected, atol=1e-6)
    np.testing.assert_allclose(wasserstein(second, first * 1e-30), expected, atol=1e-6)
    assert expected[0] == pytest.approx(0) and max(expected) > 0.05


def test_wasserstein_of_points_is_how_far_they_are_apart(transport):
    points = np.zeros((3, 4, 5), "f4")
    points[0, 0, 0] = points[1, 3, 4] = points[2, 3, 0] = 1
    got = wasserstein(points[[0, 0, 0]], points)
    np.testing.assert_allclose(got, [0, 1, 3 / 5], rtol=1e-6)


def test_wasserstein_of_constant_and_broken_maps(transport):
    """A constant map's mass is everywhere: a point's is carried to all pixels alike."""
    first, second = np.zeros((4, 3, 3), "f4"), np.full((4, 3, 3), 0.3, "f4")
    first[0, 1, 1], first[1], first[2, 0, 0] = 7, 5, np.inf
    got = np.asarray(wasserstein(first, second))
    mean = (4 * 1 + 4 * 2**0.5) / 9 / 8**0.5
    np.testing.assert_allclose(got, [mean, 0, np.nan, 0], rtol=1e-6)


def test_wasserstein_says_what_it_needs(untyped, monkeypatch):
    maps = np.random.default_rng(0).random((1, 3, 3)).astype("f4")
    with pytest.raises(ValueError, match="first: got a traced array, takes arrays .* host"):
        jax.jit(wasserstein)(maps, maps)
    with pytest.raises(ValueError, match=r"first: got float32\[1, 1, 1\], takes .* two pixels"):
        wasserstein(maps[:, :1, :1], maps[:, :1, :1])
    with pytest.raises(ValueError, match=r"second: got float32\[1, 3, 2\]"):
        wasserstein(maps, maps[..., :2])
    monkeypatch.setitem(sys.modules, "ot", None)
    monkeypatch.setitem(sys.modules, "ot.lp", None)
    with pytest.raises(ImportError, match=r'POT .*: pip install "jc2i\[transport\]"'):
        wasserstein(maps, maps)


ONE_MINUS = {
    "spearman": lambda a, b: 1 - abs(stats.spearmanr(a.ravel(), b.ravel())[0]),
    "spearman_root": lambda a, b: (1 - abs(stats.spearmanr(a.ravel(), b.ravel())[0])) ** 0.5,
    "dice": lambda a, b: 1 - dice(a[None], b[None])[0],
    "ssim": lambda a, b: 1 - structural_similarity(normalize(a[None]), normalize(b[None]))[0],
    "l1": lambda a, b: l1_distance(a[None], b[None])[0],
    "l2": lambda a, b: l2_distance(a[None], b[None])[0],
    "wasserstein": lambda a, b: wasserstein(a[None], b[None])[0],
}


@pytest.mark.parametrize("name", DISTANCES)
def test_each_named_distance(name):
    if name == "wasserstein":
        pytest.importorskip("ot")
    first, second = pairs((12, 11))
    second[2] = -second[2]  # as far as it was to a distance that takes |rho|
    first, second = 5 * first - 2, 1e-3 * second
    expected = [ONE_MINUS[name](a, b) for a, b in zip(first, second, strict=True)]
    got = DISTANCES[name](first, second)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(DISTANCES[name](second, first), got, atol=1e-5)
    assert got[0] < 1e-6 < 0.01 < got[-1]
    broken = first.copy()
    broken[1, 0, 0] = np.nan
    np.testing.assert_array_equal(np.isnan(DISTANCES[name](broken, second)), np.arange(6) == 1)


def test_ranks_that_are_equal_are_at_no_distance_at_all():
    """Of maps whose order is the same, and of opposite ones: rounding has no part in it."""
    first = np.random.default_rng(0).normal(size=(50, 28, 28)).astype("f4")
    for second in (np.exp(first), -first):
        for name in ("spearman", "spearman_root"):
            np.testing.assert_array_equal(DISTANCES[name](first, second), 0)


@pytest.mark.parametrize("share", [0, 1, "some", np.nan])
def test_dice_refuses_bad_input(untyped, share):
    maps = np.zeros((1, 4, 4), "f4")
    with pytest.raises(ValueError, match=r"share: got .*, takes a number in \(0, 1\)"):
        dice(maps, maps, share=share)
    for distance in (dice, l1_distance, l2_distance):
        with pytest.raises(ValueError, match=r"second: got float32\[1, 4, 3\], takes .*\[1, 4, 4"):
            distance(maps, maps[..., :3])

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu

from jc2i import normalize
from jc2i.metrics import entropy, otsu_foreground, otsu_total_variation, sparseness


def maps(kind: str, count: int = 60, side: int = 16) -> np.ndarray:
    random = np.random.default_rng(3)
    values = {
        "uniform": lambda: random.random((count, side, side)),
        "smooth": lambda: gaussian_filter(random.normal(size=(count, side, side)), (0, 2, 2)),
        "heavy tailed": lambda: random.standard_cauchy((count, side, side)),
        # As Meaningful Perturbation's: most pixels exactly 0.
        "sparse": lambda: np.maximum(random.normal(size=(count, side, side)) - 0.5, 0),
        "three values": lambda: random.choice([-1.0, 0.25, 3.0], (count, side, side)),
    }[kind]()
    return values.astype("f4")


@pytest.mark.parametrize("kind", ["uniform", "smooth", "heavy tailed", "sparse", "three values"])
def test_foreground_equals_scikit_image(kind):
    values = maps(kind)
    scaled = np.asarray(normalize(values))
    expected = np.stack([one > threshold_otsu(one) for one in scaled])
    np.testing.assert_array_equal(otsu_foreground(values), expected)
    assert 0 < expected.mean() < 1


def test_foreground_has_scikit_images_threshold():
    """Maps with a value in every bin, so that a threshold one bin off moves a pixel."""
    ramp = np.linspace(0, 1, 1024) ** np.array([[0.5], [1], [2], [3]])
    values = ramp.reshape(4, 32, 32).astype("f4")
    for one, foreground in zip(values, np.asarray(otsu_foreground(values)), strict=True):
        lowest, threshold = one[foreground].min(), threshold_otsu(one)
        assert one[~foreground].max() <= threshold < lowest


def test_foreground_does_not_depend_on_scale_or_offset():
    values = maps("smooth")
    np.testing.assert_array_equal(otsu_foreground(values), otsu_foreground(values * 4 - 2))


def test_half_floats_have_the_foreground_of_the_same_values():
    half = np.random.default_rng(0).normal(size=(2, 224, 224)).astype("f2")
    foreground = np.asarray(otsu_foreground(half))
    np.testing.assert_array_equal(foreground, otsu_foreground(half.astype("f4")))
    expected = [one > threshold_otsu(one) for one in np.asarray(normalize(half))]
    np.testing.assert_array_equal(foreground, expected)


def test_total_variation_worked_by_hand():
    """A 2 x 2 block in 4 x 4: 4 of 12 steps change along each axis; a half-plane: 4 of 12 once."""
    block, half, board = np.zeros((3, 4, 4), "f4")
    block[1:3, 1:3] = 5
    half[:, 2:] = -7
    board[::2, ::2] = board[1::2, 1::2] = 0.1
    got = otsu_total_variation(np.stack([block, half, board]))
    np.testing.assert_allclose(got, [4 / 12 + 4 / 12, 4 / 12, 2], rtol=1e-6)


def test_total_variation_of_a_rectangle_uses_each_axis_own_mean():
    values = np.zeros((1, 2, 5), "f4")
    values[0, 0, 1] = 1  # 1 of 5 vertical steps, 2 of 8 horizontal ones
    np.testing.assert_allclose(otsu_total_variation(values), [1 / 5 + 2 / 8], rtol=1e-6)


def test_constant_and_non_finite_maps():
    values = maps("smooth", count=5)
    whole = np.asarray(otsu_total_variation(values))
    values[1] = 0.3
    values[2, 0, 0], values[3, 4, 5] = np.nan, -np.inf
    foreground = np.asarray(otsu_foreground(values))
    assert not foreground[1:4].any()
    got = np.asarray(otsu_total_variation(values))
    assert got[1] == 0 and np.isnan(got[2:4]).all()
    np.testing.assert_array_equal(got[[0, 4]], whole[[0, 4]])


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 4, 1)])
def test_total_variation_refuses_a_single_row_or_column(untyped, shape):
    with pytest.raises(ValueError, match=r"maps: got float32.*, takes .* at least 2 x 2 pixels"):
        otsu_total_variation(np.zeros(shape, "f4"))


def test_sparseness_and_entropy_worked_by_hand():
    """Values 0, 1, 2, 5: Gini (-3*0 - 1*1 + 1*2 + 3*5) / (4*8) = 1/2; one pixel alone; equal."""
    values = np.array([[[1, -5], [0, 2]], [[0, 0], [9, 0]], [[3, -3], [3, 3]], [[0, 0], [0, 0]]])
    np.testing.assert_allclose(sparseness(values), [1 / 2, 3 / 4, 0, 0], atol=1e-7)
    fractions = np.array([1, 5, 2]) / 8
    by_hand = [-(fractions * np.log(fractions)).sum(), 0, np.log(4), np.log(4)]
    np.testing.assert_allclose(entropy(values), by_hand, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("side", [16, 224])
def test_sparseness_and_entropy_equal_quantuss(side):
    count = side * side
    weights = 2 * np.arange(1, count + 1) - count - 1
    for kind, offset in (("uniform", 1e-7), ("heavy tailed", 0)):
        values = maps(kind, count=2, side=side)
        flat = np.abs(values.astype(np.float64)).reshape(2, -1)
        # Quantus adds 1e-7, which tells where nearly all values are as small.
        ascending = np.sort(flat / flat.max(1, keepdims=True) + offset, axis=1)
        gini = (weights * ascending).sum(1) / (count * ascending.sum(1))
        np.testing.assert_allclose(sparseness(values), gini, rtol=2e-6)
        expected = [stats.entropy(one / one.sum()) for one in flat]
        np.testing.assert_allclose(entropy(values), expected, rtol=1e-5)

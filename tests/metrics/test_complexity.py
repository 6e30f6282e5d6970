from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu

from jc2i import normalize
from jc2i.metrics import otsu_foreground, otsu_total_variation


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

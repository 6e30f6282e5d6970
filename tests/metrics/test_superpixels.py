from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from skimage.segmentation import slic

from jc2i import metrics


def images(channels: int, dtype: str = "f4") -> np.ndarray:
    """Two smooth pictures in [0, 1]."""
    return np.random.default_rng(0).random((2, 24, 20, channels)).astype(dtype).cumsum(1) / 24


def test_superpixels_are_scikit_images():
    colour = images(3)
    got = metrics.superpixels(colour, 20)
    expected = [slic(one.astype(float), n_segments=20, start_label=0) for one in colour]
    np.testing.assert_array_equal(got, expected)
    assert got.min() == 0 and got.max() > 5


def test_a_grey_image_has_the_superpixels_of_the_colours_it_shows():
    """On [0, 1] SLIC's compactness of 10, meant for Lab, gave plain squares."""
    y, x = np.mgrid[:64, :64]
    disk = (x - 32) ** 2 + (y - 32) ** 2 < 400
    noise = np.random.default_rng(0).normal(0, 0.02, disk.shape)
    grey = np.clip(np.where(disk, 0.8, 0.2) + noise, 0, 1).astype("f4")[None, ..., None]
    got = metrics.superpixels(grey)
    np.testing.assert_array_equal(got, metrics.superpixels(np.repeat(grey, 3, -1)))
    across = [min(disk[got[0] == k].sum(), (~disk[got[0] == k]).sum()) for k in np.unique(got)]
    assert sum(across) == 0
    # Two channels are no colours, but are told apart as well (181 pixels before).
    two = metrics.superpixels(np.repeat(grey, 2, -1))[0]
    assert sum(min(disk[two == k].sum(), (~disk[two == k]).sum()) for k in np.unique(two)) < 20


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_and_other_floats_are_the_same_picture(untyped, channels):
    stored = np.round(images(channels) * 255).astype("u1")
    floats = (stored / np.float32(255)).astype("f4")
    expected = metrics.superpixels(floats, np.int64(20))
    for same in (stored, jnp.asarray(stored), floats.astype("f8"), floats.astype(">f4")):
        np.testing.assert_array_equal(metrics.superpixels(same, np.array(20)), expected)
    half = jnp.asarray(floats).astype(jnp.float16)
    rounded = np.asarray(half.astype(jnp.float32))
    np.testing.assert_array_equal(metrics.superpixels(half, 20), metrics.superpixels(rounded, 20))


def test_images_of_another_range_have_the_same_superpixels():
    colour = images(3)
    expected = metrics.superpixels(colour, 20)
    np.testing.assert_array_equal(metrics.superpixels(colour * 256, 20), expected)
    np.testing.assert_array_equal(metrics.superpixels(colour * 4 - 2, 20), expected)
    assert (metrics.superpixels(np.full((1, 8, 8, 1), 300.0, "f4"), 4) >= 0).all()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (np.zeros((8, 8, 3), "f4"), r"images: got float32\[8, 8, 3\], takes floats\[batch"),
        (np.zeros((0, 8, 8, 3), "f4"), "images: got an empty batch"),
        (np.zeros((1, 8, 8, 3), "i4"), r"images: got int32\[1, 8, 8, 3\], takes floats"),
        (np.zeros((1, 8, 8, 3), object), r"images: got object"),
        (np.full((1, 8, 8, 3), "a"), r"images: got <U1"),
        ("cat.jpg", "images: got 'cat.jpg'"),
        (np.full((1, 8, 8, 3), np.nan, "f4"), "images: got NaN or infinity"),
    ],
)
def test_refuses_bad_images(untyped, argument, message):
    with pytest.raises(ValueError, match=message):
        metrics.superpixels(argument)


@pytest.mark.parametrize("count", [0, 2.5, "ten", None, True, np.nan])
def test_refuses_a_bad_count(untyped, count):
    with pytest.raises(ValueError, match="count: got .*, takes a whole number above 0"):
        metrics.superpixels(images(3), count)

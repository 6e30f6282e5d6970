from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from jc2i import data
from jc2i.data.image_files import decode
from jc2i.data.pixels import Resizing, check_size


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_as_float_divides_integers_and_casts_floats():
    floats = data.as_float(np.array([0, 51, 255], np.uint8))
    assert floats.dtype == np.float32
    np.testing.assert_allclose(floats, [0, 0.2, 1], rtol=1e-7)
    assert data.as_float(np.array([0.25])).dtype == np.float32


def test_as_float_refuses_other_integers():
    with pytest.raises(Exception, match="images"):
        data.as_float(np.array([3]))


OUTSIDE = [
    (np.float32([0.0, 254.3]), "0.0 to 254.3"),
    (np.float32([0.5, 1.002]), "0.5 to 1.00"),
    (np.float32([-0.002, 0.5]), "-0.00"),
    (np.array([0.5, np.nan]), "nan to nan"),
    (np.array([0.5, np.inf], np.float16), "0.5 to inf"),
]


@pytest.mark.parametrize(("values", "got"), OUTSIDE)
@pytest.mark.parametrize("reader", ["as_float", "resize", "load"])
def test_floats_outside_the_range_are_refused_alike(values, got, reader, tmp_path):
    images = np.broadcast_to(values[:, None, None, None], (2, 4, 4, 3))
    np.savez(tmp_path / "x.npz", images=images, labels=np.array([0, 1]))
    read = {
        "as_float": data.as_float,
        "resize": lambda images: data.resize(images, (2, 2)),
        "load": lambda _: data.load(tmp_path / "x.npz", "all"),
    }
    with pytest.raises(ValueError, match=f"images: got values from {got}.*, takes float values"):
        read[reader](images)


def test_floats_that_rounding_left_outside_the_range_are_clipped():
    np.testing.assert_array_equal(data.as_float(np.array([-9e-4, 0.5, 1.0009])), [0, 0.5, 1])


def test_as_float_takes_bfloat16():
    np.testing.assert_array_equal(data.as_float(np.array([0, 0.5, 1], jnp.bfloat16)), [0, 0.5, 1])


@pytest.mark.parametrize("images", [np.zeros((1, 4, 4, 3), int), np.zeros((4, 4, 3))])
def test_resize_refuses_what_is_no_batch_of_images(images):
    with pytest.raises(Exception, match="images"):
        data.resize(images, (2, 2))


@pytest.mark.parametrize("size", [(16, 16), (24, 12), (8, 8)])
def test_resize_equals_jax_cubic(size):
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    expected = jax.image.resize(images, (2, *size, 3), "cubic")
    np.testing.assert_allclose(
        data.resize(images, size), np.clip(expected, 0, 1), atol=2e-6, rtol=0
    )


def test_resize_of_bytes_equals_that_of_the_image():
    images = noise(2, 9, 7, 3)
    resized = data.resize(images, (5, 11))
    assert resized.dtype == np.uint8
    for image, small in zip(images, resized, strict=True):
        np.testing.assert_array_equal(small, decode(encoded(image), "x", 3, Resizing((5, 11))))


@pytest.mark.parametrize("size", [(0, 4), (4,), 4, (4.5, 4), "ab"])
def test_resize_refuses_a_size_that_is_none(size):
    with pytest.raises(ValueError, match=r"size: got .*, takes \(height, width\) in pixels"):
        check_size(size)


def ramp(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows / height, columns / width, (rows + columns) / (height + width)], -1)


@pytest.mark.parametrize("stored", [(60, 80), (80, 60), (64, 64), (20, 30)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crop_keeps_the_aspect_and_the_centre(stored, interpolation):
    images = np.float32(ramp(*stored))[None]
    cropped = data.resize(images, (28, 28), crop_fraction=0.875, interpolation=interpolation)
    # Pillow's own: the centre cut out first, then resized; the same but for whole pixels.
    planes = [
        ImageOps.fit(Image.fromarray(images[0, ..., channel]), (28, 28), bleed=0.0625)
        for channel in range(3)
    ]
    assert cropped.shape == (1, 28, 28, 3)
    np.testing.assert_allclose(cropped[0], np.stack(planes, -1), atol=1.5 / min(stored))


def test_crop_is_torchvisions():
    # 500x375 -> shorter side 256: 256 and int(256 * 500 / 375) = 341 -> 224 from the middle, at
    # round(16.0) and round(58.5) = 58.
    image = Image.fromarray(noise(375, 500, 3))
    expected = image.resize((341, 256), Image.Resampling.BILINEAR).crop((58, 16, 282, 240))
    resizing = Resizing((224, 224), 0.875, "bilinear")
    np.testing.assert_array_equal(
        decode(encoded(np.asarray(image)), "x", 3, resizing), np.asarray(expected)
    )
    assert resizing.boxes(np.float32([[0, 0, 1, 1]]), (375, 500)).tolist() == [[0, 0, 1, 1]]


def test_interpolation_is_the_one_asked_for():
    images = np.random.default_rng(0).random((1, 8, 8, 1), np.float32)
    np.testing.assert_allclose(
        data.resize(images, (16, 12), interpolation="bilinear"),
        jax.image.resize(images, (1, 16, 12, 1), "linear"),
        atol=2e-6,
        rtol=0,
    )


@given(
    st.tuples(st.integers(20, 60), st.integers(20, 60)),
    st.sampled_from([(40, 40), (30, 50)]),
    st.sampled_from([None, 0.7, 1.0]),
    st.tuples(*[st.integers(0, 9)] * 2, *[st.integers(10, 20)] * 2),
)
def test_boxes_lie_where_the_pixels_went(stored, size, crop_fraction, box):
    top, left, bottom, right = box
    image = np.zeros((1, *stored, 1), np.float32)
    image[:, top:bottom, left:right] = 1
    resized = data.resize(image, size, crop_fraction=crop_fraction, interpolation="bilinear")
    seen = resized[0, ..., 0]
    placed = Resizing(size, crop_fraction).boxes(
        np.float32([box]) / np.tile(np.float32(stored), 2), stored
    )
    assert placed.dtype == np.float32
    if not len(placed):
        assert (seen < 0.5).mean() > 0.99
        return
    rows, columns = np.nonzero(seen >= 0.5)
    if len(rows):
        edges = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
        np.testing.assert_allclose(placed[0] * np.tile(size, 2), edges, atol=1.51)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_fraction": 0.0}, r"crop_fraction: got 0.0, takes None, or a number in \(0, 1\]"),
        ({"crop_fraction": 1.2}, r"crop_fraction: got 1.2, takes None, or a number in \(0, 1\]"),
        ({"crop_fraction": 0.5, "size": None}, r"size: got None, takes \(height, width\), with a"),
        ({"interpolation": "cubic"}, "interpolation: got 'cubic', takes 'bicubic' or 'bilinear'"),
    ],
)
def test_resizing_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        data.load("digits", "train", **{"size": (8, 8), **options})


def test_a_strip_is_not_blown_up(tmp_path):
    strip = np.zeros((60_000, 8, 3), np.uint8)
    takes = r"60000x8 pixels, 540000x72 before the centre is cut out, takes at most 65536 a side"
    given = {"size": (64, 64), "crop_fraction": 0.875}
    with pytest.raises(ValueError, match=f"^images: got {takes.replace('540000x72', '547500x73')}"):
        data.resize(strip[None], **given)
    Image.fromarray(strip).save(tmp_path / "strip.png")
    with pytest.raises(ValueError, match="strip.png: got 60000x8 pixels, 547500x73 before"):
        data.read_image(tmp_path / "strip.png", **given)
    assert data.read_image(tmp_path / "strip.png", size=(8, 8)).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="^crop_fraction: got 1e-05, takes at least 0.00012"):
        data.resize(strip[None, :8], (8, 8), crop_fraction=1e-5)

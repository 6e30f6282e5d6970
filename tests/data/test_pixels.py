from __future__ import annotations

import io

import jax
import numpy as np
import pytest
from PIL import Image

from jc2i import data
from jc2i.data.pixels import check_size, decode, stored_size


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
        np.testing.assert_array_equal(small, decode(encoded(image), "x", 3, (5, 11)))


@pytest.mark.parametrize("size", [(0, 4), (4,), 4, (4.5, 4), "ab"])
def test_resize_refuses_a_size_that_is_none(size):
    with pytest.raises(ValueError, match=r"size: got .*, takes \(height, width\) in pixels"):
        check_size(size)


def test_decode_gives_the_pixels_and_the_channels_asked_for():
    colour, grey = noise(4, 5, 3), noise(4, 5)
    np.testing.assert_array_equal(decode(encoded(colour), "x", 3), colour)
    np.testing.assert_array_equal(decode(encoded(grey), "x", 1), grey[..., None])
    np.testing.assert_array_equal(decode(encoded(grey), "x", 3), np.repeat(grey[..., None], 3, 2))
    assert decode(encoded(colour), "x", 1).shape == (4, 5, 1)
    assert stored_size(encoded(colour), "x") == (4, 5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_truncated_image_is_refused(kind):
    contents = encoded(noise(32, 32, 3), kind)
    with pytest.raises(ValueError, match=r"cat\.jpg: got a damaged image .*, takes a whole image"):
        decode(contents[: len(contents) // 2], "cat.jpg", 3)


@pytest.mark.parametrize("read", [stored_size, lambda contents, name: decode(contents, name, 3)])
@pytest.mark.parametrize("contents", [b"", b"not an image at all"])
def test_file_that_is_no_image_is_refused(read, contents):
    with pytest.raises(ValueError) as refusal:
        read(contents, "cat.jpg")
    assert str(refusal.value) == "cat.jpg: got a file that is not an image, takes an image file"


def test_image_of_sixteen_bits_is_refused_and_not_clipped():
    contents = encoded(np.full((4, 4), 4000, np.uint16))
    with pytest.raises(ValueError, match="deep.png: got pixels of mode 'I;16', takes 8 bits"):
        decode(contents, "deep.png", 1)

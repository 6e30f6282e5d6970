from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from jc2i import data
from jc2i.data.encoded import encoded_images
from jc2i.data.pixels import Resizing

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1], np.int32)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def as_files(size: tuple[int, int] | None = None) -> data.EncodedImages:
    files = [png(image) for image in PIXELS]
    return encoded_images(
        [f"{i}.png" for i in range(5)], files, bytes, resizing=Resizing(size), channels=None
    )


def dataset(images) -> data.Dataset:
    return data.Dataset(images, LABELS, ("a", "b", "c"), "tiny")


@pytest.mark.parametrize("images", [PIXELS, as_files()], ids=["array", "files"])
@pytest.mark.parametrize(
    "index", [0, -1, np.int64(2), slice(1, 4), slice(None), [3, 0], np.array([4, 4]), slice(0, 0)]
)
def test_indexing(images, index):
    chosen, labels = dataset(images)[index]
    np.testing.assert_array_equal(chosen, PIXELS[index])
    np.testing.assert_array_equal(labels, LABELS[index])
    assert chosen.dtype == np.uint8


@pytest.mark.parametrize("images", [PIXELS, as_files()], ids=["array", "files"])
def test_subset_and_iteration(images):
    subset = dataset(images).subset([3, 1])
    assert len(subset) == 2
    np.testing.assert_array_equal(subset[:][0], PIXELS[[3, 1]])
    assert [int(label) for _, label in subset] == [0, 1]
    with pytest.raises(IndexError):
        dataset(images).subset([5])
    with pytest.raises(IndexError):
        dataset(images)[5]


def test_boxes_follow_their_images():
    boxes = tuple(np.full((i, 4), i / 5, np.float32) for i in range(5))
    subset = dataclasses.replace(dataset(PIXELS), boxes=boxes).subset([3, 0, 1])
    assert subset.boxes is not None
    assert [len(each) for each in subset.boxes] == [3, 0, 1]
    np.testing.assert_array_equal(subset.boxes[2], boxes[1])
    assert dataset(PIXELS).subset([0]).boxes is None


@pytest.mark.parametrize(
    "box", [(0, 0, 1.1, 1), (-0.1, 0, 1, 1), (0.5, 0, 0.4, 1), (0, 0, np.nan, 1)]
)
def test_boxes_outside_their_images_are_refused(box):
    boxes = (np.array([box], np.float32), *[np.zeros((0, 4), np.float32)] * 4)
    with pytest.raises(ValueError, match=r"boxes: got one outside its image, takes \(top, left,"):
        dataclasses.replace(dataset(PIXELS), boxes=boxes)
    with pytest.raises(ValueError, match="boxes: got those of 4 images, takes those of 5 images"):
        dataclasses.replace(dataset(PIXELS), boxes=boxes[1:])


def test_files_look_like_the_array_they_decode_to():
    files = as_files()
    assert (files.shape, files.dtype, len(files)) == (PIXELS.shape, PIXELS.dtype, 5)
    np.testing.assert_array_equal(np.asarray(files), PIXELS)
    assert np.asarray(files, np.float32).dtype == np.float32
    assert as_files((2, 6))[1].shape == (2, 6, 3)


def test_only_what_is_indexed_is_decoded():
    read = []
    images = encoded_images(
        ["0", "1", "2"],
        [0, 1, 2],
        lambda i: read.append(i) or png(PIXELS[i]),
        resizing=Resizing((4, 3)),
        channels=3,
    )
    images.take(np.array([2, 1]))[0]
    assert read == [2]


def test_images_of_different_sizes_need_a_size():
    files = [png(PIXELS[0]), png(PIXELS[1][:2])]
    with pytest.raises(ValueError) as refusal:
        encoded_images(["a.png", "b.png"], files, bytes, resizing=Resizing(), channels=None)
    assert str(refusal.value) == (
        "size: got None, and images of different sizes (a.png is 4x3, b.png is 2x3), "
        "takes (height, width) in pixels to resize all images to"
    )
    resized = encoded_images(["a", "b"], files, bytes, resizing=Resizing((3, 3)), channels=1)
    assert resized.shape == (2, 3, 3, 1)


def test_channels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"channels: got 4, takes 1 \(grey\) or 3 \(RGB\)"):
        encoded_images(["a"], [png(PIXELS[0])], bytes, resizing=Resizing(), channels=4)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (PIXELS, LABELS[:3], "labels: got 3 labels, takes one for each of 5 images"),
        (PIXELS[:0], LABELS[:0], r"images: got an empty data set \(tiny\), takes at least one"),
        (PIXELS, LABELS + 1, r"labels: got labels from 1 to 3, takes 0 to 2 \(classes\)"),
        (PIXELS, LABELS - 1, r"labels: got labels from -1 to 1, takes 0 to 2 \(classes\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        # Files, so that the refusal is the data set's own and not that of the shape checker.
        names, resizing = ["x"] * len(images), Resizing((4, 3))
        files = encoded_images(names, list(images), png, resizing=resizing, channels=None)
        data.Dataset(files, labels, ("a", "b", "c"), "tiny")

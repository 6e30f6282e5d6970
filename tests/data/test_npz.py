from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jc2i import data

RNG = np.random.default_rng(0)
TRAIN, TEST = RNG.integers(0, 256, (6, 4, 4), np.uint8), RNG.integers(0, 256, (4, 4, 4), np.uint8)


@pytest.mark.parametrize(
    "keys",
    [
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("x_train", "y_train", "x_test", "y_test"),
    ],
)
def test_keys(tmp_path, keys):
    arrays = (TRAIN, np.arange(6)[:, None] % 3, TEST, np.array([0, 1, 1, 0], np.uint8))
    named: dict[str, Any] = dict(zip(keys, arrays, strict=True))
    np.savez(tmp_path / "tiny.npz", **named)
    train = data.load(tmp_path / "tiny.npz", "train")
    np.testing.assert_array_equal(train.images, TRAIN[..., None])
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    test = data.load(tmp_path / "tiny.npz", "test")
    assert test.classes == ("0", "1", "2")  # though no test image is a 2
    assert (test.labels.dtype, test.name) == (np.int32, "tiny")
    np.testing.assert_array_equal(
        data.load(tmp_path / "tiny.npz", "all")[:][0][..., 0], np.concatenate([TRAIN, TEST])
    )
    assert data.load(tmp_path / "tiny.npz", "calibration", size=(8, 6)).images.shape == (2, 8, 6, 1)


def test_validation_and_no_split(tmp_path):
    np.savez(tmp_path / "med.npz", val_images=TEST, val_labels=np.zeros(4, int))
    assert len(data.load(tmp_path / "med.npz", "validation")) == 4
    floats = RNG.random((3, 4, 4, 3))
    np.savez(tmp_path / "flat.npz", images=floats, labels=[0, 1, 1], classes=["cat", "dog"])
    flat = data.load(tmp_path / "flat.npz", "all")
    np.testing.assert_array_equal(flat.images, floats)
    assert flat.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": TRAIN, "b": TRAIN}, r"name_or_path: got .*x\.npz with keys a, b, takes keys"),
        ({"images": TRAIN[0], "labels": [0]}, r"images: got shape \(4, 4\), takes \[n, h, w\] or"),
        ({"images": TRAIN.astype(int), "labels": [0] * 6}, "images: got dtype int64, takes uint8"),
        ({"images": TRAIN / 1.0, "labels": [0] * 6}, "images: got values from .*, takes float val"),
        ({"images": TRAIN * np.nan, "labels": [0] * 6}, "images: got values from nan to nan"),
        ({"images": TRAIN, "labels": [0.0] * 6}, r"labels: got shape \(6,\), dtype float64, takes"),
        ({"images": TRAIN, "labels": np.eye(6, dtype=int)}, r"labels: got shape \(6, 6\), dtype"),
        ({"images": TRAIN[:0], "labels": np.zeros(0, int)}, "images: got an empty data set"),
    ],
)  # fmt: skip
def test_contents_that_are_not_images_and_labels(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path / "x.npz", "all")


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.array([{}, {}], object), labels=[0, 1])
    with pytest.raises(ValueError, match=r"x\.npz\['images'\]: got no plain array .*pickle"):
        data.load(tmp_path / "x.npz", "all")


@pytest.mark.parametrize("keep", [0, 100, -40])
def test_damaged_file_is_refused(tmp_path, keep):
    np.savez(tmp_path / "x.npz", images=TRAIN, labels=[0] * 6)
    contents = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(contents[:keep])
    with pytest.raises(ValueError, match=r"name_or_path: got .*x\.npz, not a whole file"):
        data.load(tmp_path / "x.npz", "all")


def test_grey_images_for_a_network_that_takes_rgb(tmp_path):
    np.savez(tmp_path / "x.npz", images=TRAIN, labels=[0] * 6)
    images = data.load(tmp_path / "x.npz", "all", channels=3)[:][0]
    np.testing.assert_array_equal(images, np.repeat(TRAIN[..., None], 3, 3))
    colour = np.repeat(TRAIN[..., None], 3, 3)
    np.savez(tmp_path / "rgb.npz", images=colour, labels=[0] * 6)
    assert data.load(tmp_path / "rgb.npz", "all", channels=3).images.shape == colour.shape
    with pytest.raises(ValueError, match="channels: got 1, takes 3 for rgb"):
        data.load(tmp_path / "rgb.npz", "all", channels=1)


def test_options_of_image_files_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=TRAIN, labels=[0] * 6)
    with pytest.raises(ValueError, match=r"classes: got \['a'\], takes None for a \.npz file"):
        data.load(tmp_path / "x.npz", "all", classes=["a"])

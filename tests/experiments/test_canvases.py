"""Items on cluttered canvases: what lies in the box, what depends on what, the file."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.opti.canvases import Canvases, canvases, write
from jc2i import data

RANDOM = np.random.default_rng(0)
ITEMS = RANDOM.integers(0, 256, (5, 12, 12, 1), np.uint8)
ITEMS[:, :2] = ITEMS[:, :, 9:] = 0
ITEMS[:, 2, 0] = ITEMS[:, 11, 8] = 255  # corners of the box
LABELS = np.array([0, 1, 2, 1, 0])


def test_a_box_is_that_of_the_items_own_pixels():
    drawn, labels, boxes = canvases(ITEMS, LABELS, size=30, seed=3)
    assert (drawn.shape, drawn.dtype) == ((5, 30, 30, 1), np.uint8)
    np.testing.assert_array_equal(labels, LABELS)
    places = set()
    for canvas, item, box in zip(drawn[..., 0], ITEMS[..., 0], boxes, strict=True):
        top, left, bottom, right = np.round(box * 30).astype(int)
        assert (bottom - top, right - left) == (10, 9)
        tight = item[2:, :9]
        inside = canvas[top:bottom, left:right]
        np.testing.assert_array_equal(inside[tight > 0], tight[tight > 0])
        outside = canvas.copy()
        outside[top:bottom, left:right] = 0
        assert (outside > 0).sum() > 50  # clutter
        places.add((top, left))
    assert len(places) == 5


def test_a_canvas_depends_on_the_items_the_seed_and_its_index_alone():
    drawn, _, boxes = canvases(ITEMS, LABELS, size=30, seed=3)
    again, _, same = canvases(ITEMS, LABELS[::-1], size=30, seed=3)
    np.testing.assert_array_equal(drawn, again)
    np.testing.assert_array_equal(boxes, same)
    other, _, _ = canvases(ITEMS, LABELS, size=30, seed=4)
    assert not np.array_equal(drawn, other)


def test_refuses_a_small_canvas_and_an_empty_item():
    with pytest.raises(ValueError, match=r"^size: got 11, takes at least 12"):
        canvases(ITEMS, LABELS, size=11, seed=0)
    with pytest.raises(ValueError, match=r"^images: got one without a pixel above 0"):
        canvases(ITEMS * np.uint8(0), LABELS, seed=0)


def test_the_file_is_read_with_its_boxes(tmp_path):
    items = {"train_images": ITEMS[..., 0], "train_labels": LABELS}
    items |= {"test_images": ITEMS[:4, ..., 0], "test_labels": LABELS[:4]}
    np.savez(tmp_path / "fashion_mnist.npz", **items)
    out = tmp_path / "canvases.npz"
    chosen = Canvases(out, str(tmp_path / "fashion_mnist.npz"), size=20, train=3)
    assert write(chosen) == {"train": 3, "test": 4}
    train = data.load(out, "train")
    assert train.images.shape == (3, 20, 20, 1) and train.classes[9] == "ankle boot"
    assert train.boxes is not None and [box.shape for box in train.boxes] == [(1, 4)] * 3
    halves = [data.load(out, split) for split in ("calibration", "evaluation")]
    assert [len(half) for half in halves] == [2, 2]
    larger = data.load(out, "test", size=(40, 40))
    whole = data.load(out, "test")
    assert larger.boxes is not None and whole.boxes is not None
    np.testing.assert_allclose(np.concatenate(larger.boxes), np.concatenate(whole.boxes))
    # The clutter of the two splits is not the same.
    assert not np.array_equal(whole.images[:3], train.images)

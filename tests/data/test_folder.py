from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from jc2i import data


def values(dataset: data.Dataset) -> list[int]:
    return dataset[:][0][:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("split", "images", "labels"),
    [
        ("train", [0, 1, 2], [0, 1, 2]),
        ("validation", [4, 3], [0, 2]),
        ("all", [0, 1, 2, 4, 3], [0, 1, 2, 0, 2]),
    ],
)
def test_split_folders(image_folder, split, images, labels):
    dataset = data.load(image_folder, split)
    assert values(dataset) == images
    assert dataset.labels.tolist() == labels
    assert dataset.classes == ("cat", "cow", "dog")  # also where the split lacks one
    assert dataset.name == "animals"
    assert dataset.images.shape[1:] == (4, 4, 3)


def test_halves_come_from_the_held_out_images(image_folder):
    halves = [values(data.load(image_folder, split)) for split in ("calibration", "evaluation")]
    assert sorted(sum(halves, [])) == [3, 4]


def test_class_folders_alone(image_folder):
    dataset = data.load(str(image_folder / "train"), "all")
    assert (values(dataset), dataset.labels.tolist()) == ([0, 1, 2], [0, 1, 2])
    with pytest.raises(ValueError, match="split: got 'train', takes 'all', 'calibration'"):
        data.load(image_folder / "train", "train")


def test_other_files_are_not_images(image_folder):
    (image_folder / "boxes.csv").write_text("0,0")
    (image_folder / "train/cat/notes.txt").write_text("a cat")
    (image_folder / "train/cat/._a.png").write_text("what macOS adds")
    assert values(data.load(image_folder, "train")) == [0, 1, 2]


def test_channels_size_and_classes(image_folder):
    order = ["dog", "cow", "cat", "emu"]
    dataset = data.load(image_folder, "train", channels=1, size=(2, 3), classes=order)
    assert dataset[0][0].shape == (2, 3, 1)
    assert dataset.labels.tolist() == [2, 1, 0]
    assert dataset.classes == tuple(order)


def test_classes_must_hold_every_folder(image_folder):
    with pytest.raises(
        ValueError, match="classes: got no 'cow', takes every class folder of .*ani"
    ):
        data.load(image_folder, "train", classes=["cat", "dog"])


def test_images_of_different_sizes_need_a_size(image_folder):
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(image_folder / "train/dog/z.png")
    with pytest.raises(ValueError, match=r"size: got None, .*a\.png is 4x4, .*z\.png is 5x4"):
        data.load(image_folder, "train")
    assert data.load(image_folder, "train", size=(4, 4))[:][0].shape == (4, 4, 4, 3)


def test_damaged_files_are_named(image_folder):
    file = image_folder / "train/cow/b.png"
    contents = file.read_bytes()
    file.write_bytes(contents[:-30])
    damaged = data.load(image_folder, "train")
    assert damaged[0][0].shape == (4, 4, 3)
    with pytest.raises(ValueError, match=r"b\.png: got a damaged image"):
        damaged[1]
    file.write_text("not an image")
    with pytest.raises(ValueError, match=r"b\.png: got a file that is not an image"):
        data.load(image_folder, "train")


def test_layouts_that_are_none(image_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="name_or_path: got .*empty, which holds no image, takes"):
        data.load(tmp_path / "empty", "all")
    shutil.copytree(image_folder / "train/cat", tmp_path / "one/cat")
    with pytest.raises(
        ValueError, match=r"name_or_path: got .*one with the one class folder 'cat'"
    ):
        data.load(tmp_path / "one", "all")
    shutil.copytree(image_folder / "train/cat", image_folder / "cat")
    with pytest.raises(ValueError, match=r"name_or_path: got .*, where cat/a.png is in no split"):
        data.load(image_folder, "all")

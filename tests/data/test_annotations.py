"""Each published layout as a tiny tree, as a folder and as an archive."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jc2i import data

TINY_IMAGENET = {
    "train/n01/images/n01_0.JPEG": 10,
    "train/n02/images/n02_0.JPEG": 20,
    "train/n01/n01_boxes.txt": "n01_0.JPEG\t0\t16\t63\t31\n",
    "train/n02/n02_boxes.txt": "n02_0.JPEG\t5\t7\t5\t8\n",
    "val/images/val_0.JPEG": 30,
    "val/images/val_1.JPEG": 40,
    "val/val_annotations.txt": "val_0.JPEG\tn02\t0\t32\t31\t63\nval_1.JPEG\tn01\t3\t3\t63\t63\n",
    "test/images/test_0.JPEG": 50,  # published without a label
    "wnids.txt": "n02\nn01\n",
}
CUB = {
    "images/001.Albatross/a.jpg": 10,
    "images/001.Albatross/b.jpg": 20,
    "images/002.Auklet/c.jpg": 30,
    "images.txt": "1 001.Albatross/a.jpg\n2 001.Albatross/b.jpg\n3 002.Auklet/c.jpg\n",
    "image_class_labels.txt": "1 1\n2 1\n3 2\n",
    "classes.txt": "1 001.Albatross\n2 002.Auklet\n",
    "train_test_split.txt": "1 0\n2 1\n3 0\n",
    "bounding_boxes.txt": "1 16.0 0.0 32.0 64.0\n2 0.0 0.0 64.0 64.0\n3 0.0 60.0 8.0 16.0\n",
    "attributes/images.txt": "not CUB's list of images\n",
}
CHEST_XRAY = {
    f"{split}/{label}/{label}-{split}.jpeg": 10 * i
    for i, (split, label) in enumerate(
        (split, label) for split in ("train", "val", "test") for label in ("NORMAL", "PNEUMONIA")
    )
}
KVASIR = {f"{label}/{i}.jpg": 10 * i for i in range(3) for label in ("polyps", "cecum")}
IMAGENETTE = {
    "train/n01440764/n01440764_1.JPEG": 10,
    "train/n03888257/n03888257_1.JPEG": 20,
    "val/n01440764/n01440764_2.JPEG": 30,
    "val/n03888257/n03888257_2.JPEG": 40,
    "noisy_imagenette.csv": "path,noisy_labels_0\n",
    "boxes.csv": (
        "path,wnid,width,height,x0,y0,x1,y1\n"
        "val/n01440764/n01440764_2.JPEG,n01440764,128,128,32,0,64,128\n"
        "val/n01440764/n01440764_2.JPEG,n01440764,128,128,0.0,64.0,128.0,96.0\n"
    ),
}


def write(root: Path, tree: Mapping[str, int | str]) -> Path:
    """A tree of 64x64 images of one grey level each, and of text files."""
    for name, content in tree.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            file.write_text(content)
        else:
            Image.fromarray(np.full((64, 64), content, np.uint8)).save(file)
    return root


@pytest.fixture(params=["folder", "tar", "tar.gz"])
def load(request, tmp_path):
    """Loads a tree stored as a folder, or inside an archive below a folder of its own."""

    def load(tree, split, **options):
        root = write(tmp_path / "tree", tree)
        if request.param == "folder":
            return data.load(root, split, **options)
        path = tmp_path / f"packed.{request.param}"
        with tarfile.open(path, "w:gz" if request.param == "tar.gz" else "w") as file:
            file.add(root, "published")
        return data.load(path, split, **options)

    return load


def content(dataset: data.Dataset) -> list[tuple[int, str]]:
    images, labels = dataset[:]
    names = [dataset.classes[label] for label in labels]
    return list(zip(images[:, 0, 0, 0].tolist(), names, strict=True))


def boxes(dataset: data.Dataset) -> list[list[list[float]]]:
    assert dataset.boxes is not None
    return [(64 * each).tolist() for each in dataset.boxes]


def test_tiny_imagenet(load):
    train, validation = load(TINY_IMAGENET, "train"), load(TINY_IMAGENET, "validation")
    assert content(train) == [(10, "n01"), (20, "n02")]
    assert content(validation) == [(30, "n02"), (40, "n01")]
    assert train.classes == validation.classes == ("n01", "n02")
    # The published corners are of the first and the last pixel.
    assert boxes(train) == [[[16, 0, 32, 64]], [[7, 5, 9, 6]]]
    assert boxes(validation) == [[[32, 0, 64, 32]], [[3, 3, 64, 64]]]
    assert content(load(TINY_IMAGENET, "all")) == [*content(train), *content(validation)]
    ordered = load(TINY_IMAGENET, "validation", classes=TINY_IMAGENET["wnids.txt"].split())
    assert ordered.labels.tolist() == [0, 1]


def test_tiny_imagenet_has_no_labelled_test_images(load):
    with pytest.raises(ValueError, match="split: got 'test', takes 'train', 'validation', 'all'"):
        load(TINY_IMAGENET, "test")


def test_cub(load):
    test = load(CUB, "test")
    assert content(load(CUB, "train")) == [(20, "001.Albatross")]
    assert content(test) == [(10, "001.Albatross"), (30, "002.Auklet")]
    assert boxes(test) == [[[0, 16, 64, 48]], [[60, 0, 64, 8]]]  # cut at the border
    assert len(load(CUB, "calibration")) == len(load(CUB, "evaluation")) == 1


def test_boxes_follow_a_crop(load):
    test = load(CUB, "test", size=(16, 16), crop_fraction=0.5)  # to 32x32, then its middle half
    assert boxes(test) == [[[0, 0, 64, 64]], []]
    assert boxes(load(CUB, "test", size=(16, 32)))[0] == [[0, 16, 64, 48]]


def test_chest_xray(load):
    for i, split in enumerate(("train", "validation", "test")):
        dataset = load(CHEST_XRAY, split, channels=1)
        assert content(dataset) == [(20 * i, "NORMAL"), (20 * i + 10, "PNEUMONIA")]
        assert dataset.boxes is None


def test_kvasir_has_no_splits(load):
    everything = load(KVASIR, "all")
    assert len(everything) == 6 and everything.classes == ("cecum", "polyps")
    train, held_out = data.disjoint_splits(6, (4, 2), seed=0)
    assert len(everything.subset(train)) + len(everything.subset(held_out)) == 6


def test_imagenette_among_other_classes(load):
    wnids = ["n00000001", "n01440764", "n02000000", "n03888257"]
    validation = load(IMAGENETTE, "validation", classes=wnids)
    assert validation.labels.tolist() == [1, 3]
    assert boxes(validation) == [[[0, 16, 64, 32], [32, 0, 48, 64]], []]
    assert load(IMAGENETTE, "train").boxes is None


@pytest.mark.parametrize(
    ("tree", "file", "text"),
    [
        (IMAGENETTE, "boxes.csv", "path,x0,y0\nval/n01440764/n01440764_2.JPEG,1,2\n"),
        (TINY_IMAGENET, "val/val_annotations.txt", "val_0.JPEG\tn02\t0\t32\t31\n"),
        (TINY_IMAGENET, "train/n01/n01_boxes.txt", "n01_0.JPEG\ta\tb\tc\td\n"),
        (CUB, "images.txt", "7 001.Albatross/a.jpg\n"),
    ],
)
def test_damaged_annotations_are_named(load, tree, file, text):
    with pytest.raises(ValueError, match=rf"{file}: got a line that cannot be read \(.*published"):
        load({**tree, file: text}, "all")

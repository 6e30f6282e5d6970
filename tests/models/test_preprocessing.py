from __future__ import annotations

import jax
import numpy as np
from PIL import Image

from experiments.common.subject import Options, Subject
from jc2i import data, models
from jc2i.cli import subject


def test_published_weights_see_images_as_they_were_evaluated(tmp_path):
    """The middle 224 pixels of the image whose shorter side is 256 pixels."""
    assert models.published_resizing("efficientnet-lite0") == {
        "size": (224, 224),
        "crop_fraction": 224 / 256,
        "interpolation": "bicubic",
    }
    asked = models.published_resizing("resnet20-cifar10", 16)
    assert asked == {"size": (16, 16), "crop_fraction": 1.0, "interpolation": "bilinear"}


def test_the_command_line_and_the_experiments_see_one_image(tmp_path):
    """A photograph twice as wide as it is high is cropped by both, and squashed by neither."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 120, 3), np.uint8)
    for name in ("n01440764", "n03888257"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "image.png")
    name = "efficientnet-lite0"
    study = Subject(Options(data=str(tmp_path), model=name))
    studied = data.load(tmp_path, "all", **study.preparation)
    # Of a network that takes any size, as the published one does.
    network = models.create("resnet20_cifar", classes=2, key=jax.random.key(0))
    given = subject.resizing(subject.Subject(model=name), network)
    explained = data.resize(pixels[None], **given)
    np.testing.assert_array_equal(studied.images[:1], explained)
    assert sorted(studied.labels) == [0, 701]


def test_folders_become_the_classes_of_the_weights(tmp_path):
    assert models.published_classes("resnet20-cifar10", "images.npz") == {}
    for path in (tmp_path, "images.tar.xz"):
        classes = models.published_classes("resnet20-cifar10", path)["classes"]
        assert classes == models.class_folders("resnet20-cifar10")


def test_floats_are_the_images_alone():
    images = np.arange(24, dtype=np.uint8).reshape(3, 2, 2, 2)
    floats = models.Floats(data.Dataset(images, np.zeros(3, np.int32), ("a",), "three"))
    (found,) = floats[np.array([2, 0])]
    assert len(floats) == 3 and found.dtype == np.float32
    np.testing.assert_array_equal(found, images[[2, 0]] / np.float32(255))

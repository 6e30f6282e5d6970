from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jc2i import data

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


def png(pixels: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    return file


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set prepared without TensorFlow, in two versions; returns TFDS's folder."""
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)

    class Animals(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        __module__ = "animals"  # TFDS looks for metadata in the package of a module that has one

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["cat", "dog", "emu"]),
                    "mask": tfds.features.Image(shape=(None, None, 1)),
                }
            )
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            return {name: self._generate_examples(n) for name, n in (("train", 5), ("test", 4))}

        def _generate_examples(self, n):
            # The older version has one image more, so that the two can be told apart.
            for value in range(n + (self.version < "10.0.0")):
                yield (
                    value,
                    {
                        "image": png(np.full((4 + (n == 4 and value == 3), 4, 3), value, np.uint8)),
                        "label": value % 2,
                        "mask": io.BytesIO(b"never decoded"),
                    },
                )

    folder = tmp_path_factory.mktemp("tfds")
    for version in ("9.0.0", "10.0.0"):
        Animals.VERSION = tfds.core.Version(version)
        Animals(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


def test_by_name_and_by_folder(prepared):
    named = data.load("animals", "train", data_dir=prepared)
    images, labels = named[:]
    assert images.shape == (5, 4, 4, 3)
    assert sorted(images[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4]  # the newest version
    np.testing.assert_array_equal(labels, images[:, 0, 0, 0] % 2)
    assert named.classes == ("cat", "dog", "emu")
    by_folder = data.load(prepared / "animals/9.0.0", "train")
    assert len(by_folder) == 6


def test_folder_from_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(data.load("animals", "all", size=(4, 4))) == 9


def test_halves_and_sizes(prepared):
    with pytest.raises(ValueError, match=r"size: got None, .*\[\d\] is .*x4.*, takes \(height, w"):
        data.load("animals", "test", data_dir=prepared)
    halves = [
        data.load("animals", split, data_dir=prepared, size=(4, 4))[:][0][:, 0, 0, 0].tolist()
        for split in ("calibration", "evaluation")
    ]
    assert sorted(sum(halves, [])) == [0, 1, 2, 3]


def test_split_and_classes_refused(prepared):
    with pytest.raises(ValueError, match="split: got 'validation', takes 'train', 'test', 'all'"):
        data.load("animals", "validation", data_dir=prepared)
    with pytest.raises(ValueError, match="classes: got .*, takes None for a TFDS data set"):
        data.load("animals", "train", data_dir=prepared, classes=["x", "y", "z"])


def test_not_prepared_says_how_to(tmp_path):
    with pytest.raises(ValueError) as refusal:
        data.load("cifar100", "test", data_dir=tmp_path)
    assert str(refusal.value) == (
        f"name_or_path: got 'cifar100', which is not there and not prepared in {tmp_path}, "
        "takes 'digits', an image folder, a .tar(.gz, .xz), an .npz, or the name of a TFDS data "
        f"set prepared with: tfds build cifar100 --file_format=array_record --data_dir={tmp_path}"
    )


def test_other_file_format_and_damage_are_refused(prepared, tmp_path):

    copy = tmp_path / "animals/10.0.0"
    shutil.copytree(prepared / "animals/10.0.0", copy)
    info = json.loads((copy / "dataset_info.json").read_text())
    (copy / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(
        ValueError, match="prepared as tfrecord, takes array_record: tfds build ani"
    ):
        data.load(copy, "train")
    (copy / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match="name_or_path: got .*10.0.0, not readable"):
        data.load(copy, "train")


def png_of(value: int, shape=(4, 4, 3)) -> io.BytesIO:
    return png(np.squeeze(np.full(shape, value, np.uint8)))


def features_of(name):
    """The features that TFDS's own builder declares; the class names, where it reads them later."""
    import tensorflow_datasets as tfds

    image, label = tfds.features.Image, tfds.features.ClassLabel
    return {
        "cifar10": {"image": image(shape=(32, 32, 3)), "label": label(num_classes=10)},
        "cifar100": {
            "image": image(shape=(32, 32, 3)),
            "label": label(num_classes=100),
            "coarse_label": label(num_classes=20),
        },
        "fashion_mnist": {"image": image(shape=(28, 28, 1)), "label": label(num_classes=10)},
        "food101": {"image": image(), "label": label(num_classes=101)},
        "eurosat": {
            "image": image(shape=(64, 64, 3)),
            "label": label(num_classes=10),
            "filename": tfds.features.Text(),
        },
        "imagenet2012": {
            "image": image(encoding_format="jpeg"),
            "label": label(num_classes=1000),
            "file_name": tfds.features.Text(),
        },
        "caltech_birds2011": {
            "image": image(),
            "image/filename": tfds.features.Text(),
            "label": label(num_classes=200),
            "label_name": tfds.features.Text(),
            "bbox": tfds.features.BBoxFeature(),
            "segmentation_mask": image(shape=(None, None, 1), use_colormap=True),
        },
        "boxed": {
            "image": image(shape=(4, 4, 3)),
            "label": label(num_classes=2),
            "bbox": tfds.features.Sequence(tfds.features.BBoxFeature()),
        },
    }[name]


def prepare(folder, name, splits, examples, configuration=None):
    """Prepares a data set of the name, features and splits of TFDS's own, with few images."""
    import tensorflow_datasets as tfds

    logging.getLogger("absl").setLevel(logging.ERROR)

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        __module__ = name
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = configuration and [tfds.core.BuilderConfig(name=configuration)]

        def _info(self):
            features = tfds.features.FeaturesDict(features_of(name))
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            return {split: iter(enumerate(examples(split))) for split in splits}

        def _generate_examples(self):
            raise NotImplementedError

    Prepared.name = name
    Prepared(data_dir=folder, file_format="array_record").download_and_prepare()


@pytest.mark.parametrize(
    ("name", "splits", "shape", "classes"),
    [
        ("cifar10", ("train", "test"), (32, 32, 3), 10),
        ("cifar100", ("train", "test"), (32, 32, 3), 100),
        ("fashion_mnist", ("train", "test"), (28, 28, 1), 10),
        ("food101", ("train", "validation"), (5, 6, 3), 101),
        ("eurosat", ("train",), (64, 64, 3), 10),
    ],
)
def test_published_sets_by_name(tmp_path, name, splits, shape, classes):
    others = {"coarse_label": 3} if name == "cifar100" else {}
    others |= {"filename": "x.jpg"} if name == "eurosat" else {}

    def examples(split):
        for value in range(3):
            label = 0 if split == "train" else classes - 1
            yield {"image": png_of(value, shape), "label": label, **others}

    prepare(tmp_path, name, splits, examples, "rgb" if name == "eurosat" else None)
    for split in splits:
        dataset = data.load(name, split, data_dir=tmp_path)
        assert dataset.images.shape == (3, *shape)
        assert sorted(dataset[:][0][:, 0, 0, 0].tolist()) == [0, 1, 2]
        assert set(dataset.labels.tolist()) == {0 if split == "train" else classes - 1}
        assert (len(dataset.classes), dataset.name) == (classes, name)
        assert dataset.boxes is None
    if splits == ("train",):
        with pytest.raises(ValueError, match="split: got 'evaluation', takes 'train', 'all'"):
            data.load(name, "evaluation", data_dir=tmp_path)


def test_configurations_must_be_told_apart(tmp_path):
    for configuration in ("all", "rgb"):
        example = {"image": png_of(0, (64, 64, 3)), "label": 1, "filename": "x"}
        prepare(tmp_path, "eurosat", ["train"], lambda split, e=example: [e], configuration)
    assert len(data.load("eurosat/rgb", "train", data_dir=tmp_path)) == 1
    with pytest.raises(ValueError, match="got 'eurosat', takes 'eurosat/all' or 'eurosat/rgb'"):
        data.load("eurosat", "train", data_dir=tmp_path)


def test_imagenet_is_evaluated_on_its_validation_images(tmp_path):
    def examples(split):
        label = {"train": 0, "validation": 999, "test": -1}[split]  # the test images have no label
        for value in range(4):
            file = io.BytesIO()
            Image.new("RGB", (8, 6), (value, value, value)).save(file, "JPEG")
            file.seek(0)
            yield {"image": file, "label": label, "file_name": f"{value}.JPEG"}

    prepare(tmp_path, "imagenet2012", ["train", "validation", "test"], examples)
    halves = [
        data.load("imagenet2012", split, data_dir=tmp_path, size=(4, 4), crop_fraction=0.875)
        for split in ("calibration", "evaluation")
    ]
    assert [half.labels.tolist() for half in halves] == [[999, 999], [999, 999]]
    assert halves[0].images.shape == (2, 4, 4, 3)
    with pytest.raises(ValueError, match="split: got 'test', takes 'train', 'validation', 'all'"):
        data.load("imagenet2012", "test", data_dir=tmp_path)


def test_boxes_of_birds(tmp_path):
    import tensorflow_datasets as tfds

    def examples(split):
        yield {
            "image": png_of(7, (4, 8, 3)),
            "image/filename": "a.jpg",
            "label": 199,
            "label_name": "yellowthroat",
            "bbox": tfds.features.BBox(ymin=0.25, xmin=0.5, ymax=1.0, xmax=0.75),
            "segmentation_mask": png_of(0, (4, 8, 1)),
        }

    prepare(tmp_path, "caltech_birds2011", ["train", "test"], examples)
    test = data.load("caltech_birds2011", "test", data_dir=tmp_path, size=(4, 4))
    assert test.boxes is not None
    np.testing.assert_array_equal(test.boxes[0], [[0.25, 0.5, 1, 0.75]])
    # The middle 4x4 of 4x8: columns 2 to 5.
    square = data.load(
        "caltech_birds2011", "test", data_dir=tmp_path, size=(4, 4), crop_fraction=1.0
    )
    assert square.boxes is not None
    np.testing.assert_array_equal(square.boxes[0], [[0.25, 0.5, 1, 1]])


def test_several_boxes_or_none(tmp_path):
    import tensorflow_datasets as tfds

    def examples(split):
        box = tfds.features.BBox(ymin=0.0, xmin=0.25, ymax=0.5, xmax=1.0)
        for value in range(3):
            yield {"image": png_of(value), "label": 0, "bbox": [box] * value}

    prepare(tmp_path, "boxed", ["test"], examples)
    test = data.load("boxed", "test", data_dir=tmp_path)
    assert test.boxes is not None
    values = test[:][0][:, 0, 0, 0].tolist()
    assert [len(boxes) for boxes in test.boxes] == values
    np.testing.assert_array_equal(test.boxes[values.index(2)], [[0, 0.25, 0.5, 1]] * 2)


def test_tensorflow_is_not_imported(prepared):
    program = (
        "import sys, jc2i.data\n"
        f"jc2i.data.load('animals', 'train', data_dir={str(prepared)!r})[0]\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture
def copied(prepared, tmp_path):
    return shutil.copytree(prepared / "animals/10.0.0", tmp_path / "animals")


def test_a_feature_of_another_module_is_not_imported(copied, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    features = copied / "features.json"
    named = features.read_text().replace(
        "tensorflow_datasets.core.features.image_feature.Image", "stranger.Image", 1
    )
    features.write_text(named)
    with pytest.raises(
        ValueError, match=r"animals, not readable .a feature of the class 'stranger"
    ):
        data.load(copied, "train")
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("kind", ["device", "pipe", "large", "nested"])
def test_a_description_that_is_none_is_refused(copied, kind):
    features = copied / "features.json"
    features.unlink()
    if kind == "device":
        features.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(features)
    else:
        features.write_text("[" * 10**5 if kind == "nested" else " " * (2**24 + 1))
    with pytest.raises(ValueError, match="name_or_path: got .*animals"):
        data.load(copied, "train")


@pytest.mark.parametrize("part", range(8))
def test_damaged_records_are_as_they_were_or_refused(copied, part):
    whole = data.load(copied, "train")[:]
    record = next(copied.glob("*train*array_record*"))
    content = bytearray(record.read_bytes())
    content[part * len(content) // 8 + 5] ^= 1
    record.write_bytes(content)
    try:
        images, labels = data.load(copied, "train")[:]
    except ValueError as error:
        assert "animals" in str(error) and "\n" not in str(error)
    else:
        np.testing.assert_array_equal(images, whole[0])
        np.testing.assert_array_equal(labels, whole[1])

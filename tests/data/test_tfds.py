from __future__ import annotations

import io
import json
import logging
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


def test_tensorflow_is_not_imported(prepared):
    program = (
        "import sys, jc2i.data\n"
        f"jc2i.data.load('animals', 'train', data_dir={str(prepared)!r})[0]\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

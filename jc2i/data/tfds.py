"""Data sets prepared by TensorFlow Datasets (TFDS), read without TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jc2i import checks, files
from jc2i.checks import invalid
from jc2i.data.boxes import DrawnBoxes, placed
from jc2i.data.dataset import Dataset
from jc2i.data.encoded import encoded_images
from jc2i.data.image_files import UPRIGHT, Decoding
from jc2i.data.pixels import Resizing
from jc2i.data.splits import split_of, stored_splits

_DESCRIPTION = "dataset_info.json"
_OWN = "tensorflow_datasets."
_LONGEST_DESCRIPTION = 2**24
"""Bytes of one of the texts that describe a data set: 16 MiB."""


def data_directory(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Where TFDS keeps prepared data sets.

    Args:
      data_dir: the folder, or None for `$TFDS_DATA_DIR`, or else `~/tensorflow_datasets`.

    Returns:
      The folder, which need not exist.
    """
    if data_dir is not None:
        data_dir = checks.path("data_dir", data_dir)
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def is_prepared(directory: Path) -> bool:
    """Whether a folder is one version of a prepared data set."""
    return (directory / _DESCRIPTION).is_file()


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """The newest prepared version of a data set.

    Args:
      name: the data set's TFDS name, with its configuration after a slash (`"eurosat/rgb"`) where
        several are prepared.
      data_dir: the folder that holds `<name>/<version>` or `<name>/<configuration>/<version>`.

    Returns:
      The version's folder, or None if there is none.

    Raises:
      ValueError: several configurations are prepared, and `name` does not say which.
    """
    versions = [found for found in (data_dir / name).glob("*") if is_prepared(found)]
    if not versions:
        versions = [found for found in (data_dir / name).glob("*/*") if is_prepared(found)]
        configurations = sorted({f"{name}/{found.parent.name}" for found in versions})
        if len(configurations) > 1:
            raise invalid("name_or_path", repr(name), " or ".join(map(repr, configurations)))
    return max(versions, key=_version, default=None)


def how_to_prepare(name: str, data_dir: str | Path) -> str:
    """The command that prepares a data set once, for a message."""
    return f"tfds build {name} --file_format=array_record --data_dir={data_dir}"


def load_prepared(
    directory: Path,
    split: str,
    *,
    resizing: Resizing,
    decoding: Decoding = UPRIGHT,
    channels: int | None = None,
) -> Dataset:
    """A prepared image-classification data set, decoded when indexed.

    Labels and boxes are read now, in one pass over the split's records. A split without labels,
    such as ImageNet's test images (which TFDS labels -1), is left out.

    Args:
      directory: the folder of one version, as array_record files.
      split: one of `SPLITS`.
      resizing: how each image gets its size.
      decoding: whether images are turned upright, and how large a file's may be.
      channels: 1 for grey, 3 for RGB, or None for what the data set declares.

    Returns:
      The data set.

    Raises:
      ImportError: tensorflow-datasets is not installed.
      ValueError: the folder is damaged, holds other files than array_record, features that are not
        TFDS's own, or no images with class labels; there is no such split; see `encoded_images`.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(f"{directory} needs tensorflow-datasets: jc2i[datasets]") from error
    builder = _builder(directory)
    with files.refusing("name_or_path", str(directory), "damaged", "a whole TFDS folder"):
        return _load(tfds, builder, directory, split, resizing, decoding, channels)


def _load(
    tfds: Any,
    builder: Any,
    directory: Path,
    split: str,
    resizing: Resizing,
    decoding: Decoding,
    channels: int | None,
) -> Dataset:
    features: dict[str, Any] = dict(builder.info.features.items())
    kind = builder.info.file_format
    if kind is not tfds.core.FileFormat.ARRAY_RECORD:
        raise invalid(
            "name_or_path",
            f"{directory} prepared as {kind.value}",
            f"array_record: {how_to_prepare(builder.name, '<folder>')}",
        )
    image_key, label_key = (builder.info.supervised_keys or ("image", "label"))[:2]
    image: Any = features.get(image_key)
    label: Any = features.get(label_key)
    if not (isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)):
        raise invalid(
            "name_or_path",
            f"{directory} with {image_key}: {image}, {label_key}: {label}",
            "an Image and a ClassLabel",
        )

    # Every image stays encoded, also those not asked for, such as a mask.
    decoders = {
        key: tfds.decode.SkipDecoding()
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image)
    }
    available = {
        split_of(name): name
        for name, info in builder.info.splits.items()
        if split_of(name)
        and info.num_examples
        and builder.as_data_source(name, decoders=decoders)[0][label_key] >= 0
    }
    chosen = "+".join(available[name] for name in stored_splits(split, available, str(directory)))
    source = builder.as_data_source(chosen, decoders=decoders)
    height, width, declared_channels = image.shape
    declared_size = (height, width) if height and width else None

    def read(index: int) -> bytes:
        with files.refusing("name_or_path", str(directory), "damaged", "a whole TFDS folder"):
            contents = source[index][image_key]
            files.require_size(len(contents), decoding.max_bytes, "max_pixels", "bytes of an image")
        return contents

    images = encoded_images(
        [f"{directory}:{chosen}[{index}]" for index in range(len(source))],
        range(len(source)),
        read,
        resizing=dataclasses.replace(resizing, size=resizing.size or declared_size),
        channels=channels or declared_channels,
        decoding=decoding,
    )
    # One box an image, or a sequence of them.
    box_key = next(
        (
            key
            for key, feature in features.items()
            if isinstance(getattr(feature, "feature", feature), tfds.features.BBoxFeature)
        ),
        None,
    )
    labels, boxes = [], []
    for record in source:
        labels.append(record[label_key])
        if box_key:
            boxes.append(DrawnBoxes(np.reshape(record[box_key], (-1, 4)).tolist(), (1.0, 1.0)))
    classes = tuple(features[label_key].names)
    return Dataset(images, np.array(labels, np.int32), classes, builder.name, placed(boxes, images))


def _builder(directory: Path) -> Any:
    import tensorflow_datasets as tfds

    with files.refusing("name_or_path", str(directory), "not readable", "a prepared TFDS folder"):
        _require_own_features(directory)
        return tfds.builder_from_directory(str(directory))


def _require_own_features(directory: Path) -> None:
    """Refuses a folder whose features name other modules than TFDS's, which imports them."""
    for path in (path for path in directory.iterdir() if not path.is_dir()):
        files.require_regular(path, path.stat().st_mode, "name_or_path")
        if path.suffix not in (".json", ".txt"):
            continue
        text = files.read(path, "name_or_path", _LONGEST_DESCRIPTION, "")
        parts = [json.loads(text)] if path.name == "features.json" else []
        while parts:
            part = parts.pop()
            if isinstance(part, list):
                parts += part
            elif isinstance(part, dict):
                parts += part.values()
                for kind in (part.get("pythonClassName"), part.get("type")):
                    if isinstance(kind, str) and "." in kind and not kind.startswith(_OWN):
                        raise ValueError(f"a feature of the class {kind!r}")


def _version(directory: Path) -> list[int]:
    return [int(part) for part in directory.name.split(".")]

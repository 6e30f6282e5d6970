"""What every paper's script is given: a model, the images and how they get their size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import jc2i
from experiments.common.store import Store
from jc2i import calibrators, checks, models, parallel
from jc2i.tracing import prepared

SMALL = 64
"""Pixels on a side up to which `SMALL_BATCH` images go through a model at a time."""

SMALL_BATCH = 256


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of every run, whatever its models are."""

    data: str = "digits"
    """Data set: a name, or the path of a folder, archive or npz file (`jc2i.data.load`)."""
    size: int | None = None
    """Height and width that images are resized to; None: what published weights want, else as
    they are."""
    crop_fraction: float | None = None
    """Share of the shorter side that is kept, the centre; None: that of published weights, else
    the image is squashed to the size."""
    name: str = ""
    """Name of the results' folder; empty: from the model and data."""
    out: Path = Path("results")
    """Where results go: <out>/<name>/."""
    cache: Path | None = None
    """Where finished batches are kept; None: <out>/cache. Any runs can share it."""
    images: int = 2500
    """Images explained."""
    calibration_images: int | None = None
    """Images that calibrators are fitted on; None: the whole calibration split."""
    batch_size: int = 32
    """Images explained at a time, on each device."""
    seed: int = 0
    """Seed of every random choice."""
    progress: bool = True
    """Whether to show progress bars."""
    distributed: bool = False
    """Compute with the other processes of a cluster, each of which runs this command."""

    def __post_init__(self) -> None:
        self.refuse_below_one("images", "calibration_images", "batch_size")

    def refuse_below_one(self, *names: str) -> None:
        """Refuses the options of these names that are given and not above zero."""
        for name in names:
            if getattr(self, name) is not None:
                checks.positive(**{name: getattr(self, name)})

    @property
    def kept(self) -> Path:
        """Where finished batches are."""
        return self.cache or self.out / "cache"

    @property
    def title(self) -> str:
        """The name of the run's folder."""
        return self.name or self.data_title

    @property
    def data_title(self) -> str:
        """What to call the data."""
        return Path(self.data).parent.name or self.data

    @property
    def folder(self) -> Path:
        """Where the run's tables and figures go."""
        return self.out / self.title


@dataclasses.dataclass(frozen=True)
class Options(RunOptions):
    """Options of a run of one trained model."""

    model: str = "small"
    """Architecture of the weights, name of published ones (`jc2i.models.pretrained_names()`), or
    the folder of a model saved by `experiments/train.py`."""
    weights: Path | None = None
    """PyTorch or safetensors file with the architecture's weights."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Channel means that the weights of a file were trained with."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Channel standard deviations that the weights of a file were trained with."""

    @property
    def title(self) -> str:
        """The name of the run's folder."""
        return self.name or f"{Path(self.model).name}-{self.data_title}"


class Subject:
    """The model, images and calibrators that a run's options name, loaded when first needed.

    Args:
      options: the run's options.
      normalize: False leaves out the model's normalisation of its images.
    """

    def __init__(self, options: Options, *, normalize: bool = True):
        self.options = options
        self.normalize = normalize
        self.store = Store(options.kept, options.progress)

    @cached_property
    def calibration_data(self) -> Any:
        """Images and labels that calibrators are fitted on."""
        dataset = jc2i.data.load(self.options.data, "calibration", **self.preparation)
        return first(dataset, self.options.calibration_images, "calibration_images")

    @cached_property
    def evaluation_data(self) -> Any:
        """Images and labels of the whole evaluation split."""
        return jc2i.data.load(self.options.data, "evaluation", **self.preparation)

    @property
    def preparation(self) -> dict[str, Any]:
        """How images become what the model takes, and their folders its classes."""
        options, found = self.options, {}
        if self._published:
            found |= models.published_resizing(options.model, options.size)
            found |= models.published_classes(options.model, options.data)
        elif options.size is not None:
            found["size"] = (options.size, options.size)
        if options.crop_fraction is not None:
            found["crop_fraction"] = options.crop_fraction
        return found

    @property
    def _published(self) -> bool:
        """Whether the model has published weights, and so classes with names."""
        return self.options.weights is None and self.options.model in models.PRETRAINED

    @property
    def class_names(self) -> Sequence[str]:
        """What to call each class."""
        if self._published:
            return models.class_names(self.options.model)
        return [str(name) for name in self.evaluation_data.classes]

    @cached_property
    def model(self) -> Any:
        """The model, images -> logits."""
        options = self.options
        if options.weights is None:
            return models.load(options.model, normalize=None if self.normalize else False)
        return models.from_torch(
            options.model,
            options.weights,
            classes=len(self.evaluation_data.classes),
            mean=options.mean,
            std=options.std,
            normalize=self.normalize,
        )

    @cached_property
    def images(self) -> np.ndarray:
        """The images explained, float32 in [0, 1]."""
        chosen = first(self.evaluation_data, self.options.images, "images")
        return jc2i.data.as_float(chosen[np.arange(len(chosen))][0])

    @cached_property
    def calibration_logits(self) -> np.ndarray:
        """Logits of the images that calibrators are fitted on."""
        return self._logits(self.calibration_data, "calibration")

    @cached_property
    def evaluation_logits(self) -> np.ndarray:
        """Logits of the whole evaluation split."""
        return self._logits(self.evaluation_data, "evaluation")

    def _logits(self, dataset: Any, split: str) -> np.ndarray:
        small = max(dataset.images.shape[1:3]) <= SMALL
        return self.store.map(
            f"logits-{split}",
            parallel.on_each_device(forward),
            models.Floats(dataset),
            SMALL_BATCH if small else self.options.batch_size,
            model=self.model,
        )

    def fitted(self, name: str) -> Any:
        """The calibrator `fit_<name>` fitted on the calibration images."""
        fit = getattr(calibrators, f"fit_{name}")
        return fit(self.calibration_logits, self.calibration_data.labels)


def forward(model: Any, images: Any) -> Any:
    """A model's scores, as a function of a module that a store can tell."""
    return prepared(model)(images)


def first(dataset: Any, count: int | None, option: str) -> Any:
    """The first images of a data set; all for None, and no more than there are."""
    if count is None:
        return dataset
    checks.require(count <= len(dataset), option, count, f"at most the {len(dataset)} there are")
    return dataset.subset(np.arange(count))

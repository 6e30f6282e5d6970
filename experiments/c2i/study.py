"""What is studied: options of a run, and the model, images and calibrators that they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import jc2i
from jc2i import calibrators, checks, models
from jc2i.parallel import digest, map_batches

Method = Literal[
    "sensitivity",
    "gradient_x_input",
    "integrated_gradients",
    "smoothgrad",
    "occlusion",
    "rise",
    "meaningful_perturbation",
    "grad_cam",
    "hires_cam",
    "random_map",
]
Calibration = Literal["temperature", "vector_scaling", "matrix_scaling", "dirichlet", "isotonic"]
BASE = "base"
FORWARD_ONLY = ("occlusion", "rise")
"""Methods whose queries do not depend on the scores, so one run serves every calibration."""


_POSITIVE = (
    "images",
    "calibration_images",
    "rise_masks",
    "mp_steps",
    "sweep_images",
    "lipschitz_points",
    "neighbours",
    "radius",
    "batch_size",
)


@dataclasses.dataclass(frozen=True)
class Study:
    """Options of a run; the defaults are the paper's, but for the number of images."""

    data: str = "digits"
    """Data set: a name, or the path of a folder, archive or npz file (`jc2i.data.load`)."""
    model: str = "small"
    """Architecture of the weights, name of published ones (`jc2i.models.pretrained_names()`), or
    the folder of a model saved by `experiments/train.py`."""
    weights: Path | None = None
    """PyTorch or safetensors file with the architecture's weights."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Channel means that the weights of a file were trained with."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Channel standard deviations that the weights of a file were trained with."""
    size: int | None = None
    """Height and width that images are resized to; None: what published weights want, else as
    they are."""
    crop_fraction: float | None = None
    """Share of the shorter side that is kept, the centre; None squashes the image to the size."""
    name: str = ""
    """Name of the results' folder; empty: from the model and data."""
    out: Path = Path("results")
    """Where results go: <out>/<name>/."""
    cache: Path | None = None
    """Where finished batches are kept; None: <out>/cache. Runs with other pairings share it."""
    images: int = 2500
    """Images explained."""
    calibration_images: int | None = None
    """Images that calibrators are fitted on; None: the whole calibration split."""
    methods: tuple[Method, ...] = (
        "sensitivity",
        "integrated_gradients",
        "rise",
        "meaningful_perturbation",
    )
    """Explanation methods."""
    calibrations: tuple[Calibration, ...] = ("temperature", "dirichlet")
    """Calibrations compared with the base model."""
    scores: Literal["controlled", "released"] = "controlled"
    """Score explained: probabilities on both sides, or, as the paper's released code, the logits
    of the base model against the probabilities of the calibrated one."""
    targets: Literal["own", "base"] = "own"
    """Class explained: each model's own prediction (the paper), or the base model's for all."""
    softmax: Literal["exact", "plain"] = "exact"
    """Whether the gradient of a saturated probability is exact or float32's."""
    rise_masks: int = 4000
    """Masks of RISE."""
    mp_steps: int = 600
    """Steps of Meaningful Perturbation."""
    mp_area_subgradient: float = 1.0
    """Slope of Meaningful Perturbation's area at an untouched pixel: 0 is the released code's."""
    temperatures: tuple[float, ...] = (0.25, 0.5, 1.4142, 2.0, 4.0)
    """Temperatures of figure 8, as multiples of the fitted one; that and the base's 1 are added."""
    sweep_images: int = 2500
    """Images of figure 8: the first of those explained."""
    lipschitz_points: int = 150
    """Images of figure 9: the first of those explained."""
    neighbours: int = 40
    """Neighbours of each image of figure 9."""
    radius: float = 0.05
    """Radius of the neighbourhood of figure 9."""
    batch_size: int = 32
    """Images explained at a time."""
    seed: int = 0
    """Seed of every random choice."""
    progress: bool = True
    """Whether to show progress bars."""

    def __post_init__(self) -> None:
        for option in _POSITIVE:
            if getattr(self, option) is not None:
                checks.positive(**{option: getattr(self, option)})
        for option in ("methods", "calibrations"):
            checks.require(bool(getattr(self, option)), option, "none", "at least one")
        for multiple in self.temperatures:
            takes = "multiples of the fitted temperature, above 0 and not 1 (which is there anyway)"
            checks.require(multiple > 0 and multiple != 1, "temperatures", multiple, takes)

    @property
    def title(self) -> str:
        """The name of the run's folder."""
        return self.name or f"{Path(self.model).name}-{Path(self.data).parent.name or self.data}"

    @property
    def folder(self) -> Path:
        """Where the run's tables and figures go."""
        return self.out / self.title

    @property
    def versions(self) -> tuple[str, ...]:
        """The base model and its calibrations."""
        return (BASE, *self.calibrations)


class Subject:
    """The model, images and calibrators that a study names, loaded when first needed."""

    def __init__(self, study: Study):
        self.study = study

    @cached_property
    def calibration_data(self) -> Any:
        dataset = jc2i.data.load(self.study.data, "calibration", **self.preparation)
        return _first(dataset, self.study.calibration_images, "calibration_images")

    @cached_property
    def evaluation_data(self) -> Any:
        return jc2i.data.load(self.study.data, "evaluation", **self.preparation)

    @property
    def preparation(self) -> dict[str, Any]:
        """How images become what the model takes, and their folders its classes."""
        study, options, published = self.study, {}, self._published
        if published and Path(study.data).is_dir():
            options["classes"] = models.class_folders(study.model)
        side = study.size or (models.PRETRAINED[study.model].size if published else None)
        if side is not None:
            options["size"] = (side, side)
        if study.crop_fraction is not None:
            options["crop_fraction"] = study.crop_fraction
        return options

    @property
    def _published(self) -> bool:
        """Whether the model has published weights, and so classes with names."""
        return self.study.weights is None and self.study.model in models.PRETRAINED

    @property
    def class_names(self) -> Sequence[str]:
        """What to call each class."""
        if self._published:
            return models.class_names(self.study.model)
        return [str(name) for name in self.evaluation_data.classes]

    @cached_property
    def model(self) -> Any:
        study = self.study
        if study.weights is None:
            return models.load(study.model)
        return models.from_torch(
            study.model,
            study.weights,
            classes=len(self.evaluation_data.classes),
            mean=study.mean,
            std=study.std,
        )

    @cached_property
    def model_digest(self) -> str:
        return digest(self.study.model, self.model)

    @cached_property
    def images(self) -> np.ndarray:
        """The images explained, float32 in [0, 1]."""
        chosen = _first(self.evaluation_data, self.study.images, "images")
        return jc2i.data.as_float(chosen[np.arange(len(chosen))][0])

    @cached_property
    def calibration_logits(self) -> np.ndarray:
        return self._logits(self.calibration_data, "calibration")

    @cached_property
    def evaluation_logits(self) -> np.ndarray:
        """Logits of the whole evaluation split."""
        return self._logits(self.evaluation_data, "evaluation")

    def _logits(self, dataset: Any, split: str) -> np.ndarray:
        run = jax.jit(lambda model, images: model(images))
        tag = digest("logits", self.model_digest, self.study.data, split, len(dataset))
        small = max(dataset.images.shape[1:3]) <= 64
        return map_batches(
            lambda images, labels: run(self.model, jc2i.data.as_float(images)),
            dataset,
            256 if small else self.study.batch_size,
            progress=self.study.progress and f"logits, {split}",
            resume=self.cache / f"logits-{split}-{tag}",
            tag=tag,
        )

    @cached_property
    def calibrators(self) -> dict[str, Any]:
        """The fitted calibrators by name; for the base model one that changes nothing.

        Temperature 1 is the identity to the bit, and shares the other temperatures' compilations.
        """
        fitted: dict[str, Any] = {BASE: calibrators.Temperature(jnp.float32(1))}
        for name in self.study.calibrations:
            fit = getattr(calibrators, f"fit_{name}")
            fitted[name] = fit(self.calibration_logits, self.calibration_data.labels)
        return fitted

    @cached_property
    def predictions(self) -> dict[str, np.ndarray]:
        """Each version's predicted class of the images explained."""
        logits = self.evaluation_logits[: len(self.images)]
        return {
            version: np.asarray(calibrator(logits)).argmax(1).astype(np.int32)
            for version, calibrator in self.calibrators.items()
        }

    def targets(self, version: str) -> np.ndarray:
        """The class explained, for each image."""
        return self.predictions[version if self.study.targets == "own" else BASE]

    def probabilities(self, version: str) -> Any:
        """The version's probabilities, which every curve follows."""
        return jc2i.probabilities(self.model, self.calibrators[version])

    def explains_logits(self, version: str) -> bool:
        """Whether the version's maps are made of its logits: the released code's pairing."""
        return version == BASE and self.study.scores == "released"

    def explained_score(self, version: str) -> Any:
        """The version's score that maps are made of."""
        if self.explains_logits(version):
            return jc2i.logits(self.model)
        calibrator = self.calibrators[version]
        return jc2i.probabilities(self.model, calibrator, softmax=self.study.softmax)

    @property
    def cache(self) -> Path:
        return self.study.cache or self.study.out / "cache"


def _first(dataset: Any, count: int | None, option: str) -> Any:
    if count is None:
        return dataset
    checks.require(count <= len(dataset), option, count, f"at most the {len(dataset)} there are")
    return dataset.subset(np.arange(count))

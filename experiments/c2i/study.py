"""What is studied: options of a run, and the calibrated versions of the model that they name."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import jax.numpy as jnp
import numpy as np

import jc2i
from experiments.common.subject import Options
from experiments.common.subject import Subject as CommonSubject
from jc2i import calibrators, checks, explainers, query

if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[tuple(query.methods(explainers))]
Calibration = Literal["temperature", "vector_scaling", "matrix_scaling", "dirichlet", "isotonic"]
BASE = "base"


def serves_all(method: str) -> bool:
    """Whether one run of a method serves every calibration.

    It does where the method only asks for scores, of images that do not depend on them.
    """
    known = query.method_of(getattr(explainers, method))
    cost = known.cost((1, 32, 32, 3))
    return not known.depends_on_scores and cost.gradient == 0 and max(cost) > 0


@dataclasses.dataclass(frozen=True)
class Study(Options):
    """Options of a run; the defaults are the paper's, but for the number of images."""

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
    mp_area_subgradient: float = 0.0
    """Slope of Meaningful Perturbation's area at an untouched pixel: the released code's, 0, lets
    pixels stay untouched; 1 is the slope of the paper's formula beside them."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_below_one("rise_masks", "mp_steps", "sweep_images", "lipschitz_points")
        self.refuse_below_one("neighbours", "radius")
        for option in ("methods", "calibrations"):
            checks.require(bool(getattr(self, option)), option, "none", "at least one")
        for multiple in self.temperatures:
            takes = "multiples of the fitted temperature, above 0 and not 1 (which is there anyway)"
            checks.require(multiple > 0 and multiple != 1, "temperatures", multiple, takes)

    @property
    def versions(self) -> tuple[str, ...]:
        """The base model and its calibrations."""
        return (BASE, *self.calibrations)


class Subject(CommonSubject):
    """The model of a study before and after each calibration."""

    def __init__(self, study: Study):
        super().__init__(study)
        self.study = study

    @cached_property
    def calibrators(self) -> dict[str, Any]:
        """The fitted calibrators by name; for the base model one that changes nothing.

        Temperature 1 is the identity to the bit, and shares the other temperatures' compilations.
        """
        fitted: dict[str, Any] = {BASE: calibrators.Temperature(jnp.float32(1))}
        return fitted | {name: self.fitted(name) for name in self.study.calibrations}

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

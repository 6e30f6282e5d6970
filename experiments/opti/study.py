"""What is studied: options of a run, and which methods a model can be explained by."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import jc2i
from experiments.common.subject import Options
from experiments.common.subject import Subject as CommonSubject
from jc2i import checks, explainers, query, taps
from jc2i.explainers.attention.maps import is_named, square_maps
from jc2i.explainers.cam.layers import up_to_default

if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[tuple(query.methods(explainers))]

OPTI = "opti_cam"
FAKE = "fake_cam"
CONVOLUTIONAL: tuple[Method, ...] = (
    FAKE,
    "grad_cam",
    "grad_cam_plus_plus",
    "score_cam",
    "ablation_cam",
    "xgrad_cam",
    "layer_cam",
    "extremal_perturbation",
    "hires_cam",
    "lime",
    "gradient_shap",
    OPTI,
)
"""The methods of table 1."""
ATTENTION: tuple[Method, ...] = ("raw_attention", "attention_rollout", "tibav")
"""Those that table 2 has beside them, on a transformer."""
COSTLY = ("score_cam", "ablation_cam", "extremal_perturbation", "lime")
"""Methods of many evaluations, run on `costly_images`."""


@dataclasses.dataclass(frozen=True)
class Study(Options):
    """Options of a run; the defaults are the paper's, but for the numbers of images."""

    methods: tuple[Method, ...] = ()
    """Explanation methods; none given: the paper's for such a model."""
    scores: Literal["logits", "probabilities", "log_odds"] = "logits"
    """Score explained (the paper: logits). Metrics are always of probabilities."""
    layer: str | None = None
    """Layer of the CAM methods (`jc2i.taps.names`); None: each method's own choice."""
    baseline: Literal["mean", "zero", "blur"] = "mean"
    """What a masked pixel becomes, in methods and in AD, AG and AI: the model's mean (the paper,
    which multiplies normalised images), zero, or the blurred image."""
    images: int = 100
    """Images explained; table 1 and what follows from the same maps."""
    costly_images: int = 30
    """Images of the methods of many evaluations, the first of those explained."""
    curve_images: int = 50
    """Images of insertion, deletion and AOPC."""
    ablation_images: int = 50
    """Images of the ablations: tables 6, A.12 and A.13, figures A4 and A5."""
    adcc_images: int = 30
    """Images of ADCC; 0 leaves it out of table 4."""
    sensitivity_images: int = 10
    """Images of max-sensitivity, whose cost is a map a draw; 0 leaves it out of table 4."""
    sensitivity_radius: float = 0.2
    """Largest absolute noise of max-sensitivity on each pixel, of images in [0, 1]."""
    sensitivity_samples: int = 10
    """Draws of that noise for each image."""
    randomized_images: int = 10
    """Images of the parameter randomization, figures A6 and A7, and of permuted labels."""
    twin: str | None = None
    """Folder of a model that was trained on permuted labels (`experiments/train.py
    --permute-labels`), whose maps are compared with the model's."""
    steps: int = 100
    """Steps of Opti-CAM."""
    learning_rates: tuple[float, ...] = (0.01, 0.05, 0.1, 0.5, 1.0)
    """Learning rates of figure A5."""
    iterations: tuple[int, ...] = (10, 25, 50, 100)
    """Numbers of steps of figure A5."""
    exponents: tuple[float, ...] = (0.01, 0.05, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
    """Exponents of figure A4."""
    layers: tuple[str, ...] = ()
    """Layers of table A.13; none given: five from the first to the last on a grid."""
    extremal_steps: int = 800
    """Steps of extremal perturbation."""
    lime_samples: int = 1000
    """Samples of LIME."""
    shap_samples: int = 25
    """Samples of GradientSHAP."""
    insertion_steps: int = 224
    """Steps of insertion and deletion."""
    evaluations: int | None = None
    """Model evaluations in flight within a method; None: each method's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in dataclasses.fields(self):
            if option.name in ("adcc_images", "sensitivity_images"):
                count, takes = getattr(self, option.name), "a whole number of at least 0"
                checks.require(count >= 0, option.name, count, takes)
            elif option.name.endswith(("_images", "_steps", "_samples")) or option.name == "steps":
                self.refuse_below_one(option.name)
        for option in ("learning_rates", "iterations", "exponents"):
            values = getattr(self, option)
            takes = "numbers above 0, one at least"
            checks.require(bool(values) and min(values) > 0, option, values, takes)
        radius, takes = self.sensitivity_radius, "a number above 0"
        checks.require(0 < radius < math.inf, "sensitivity_radius", radius, takes)


class Subject(CommonSubject):
    """The model of a study, and what is asked of it."""

    def __init__(self, study: Study, *, normalize: bool = True):
        super().__init__(study, normalize=normalize)
        self.study = study

    @cached_property
    def labels(self) -> np.ndarray:
        """The ground-truth classes of the images explained."""
        return np.asarray(self.evaluation_data.labels)[: len(self.images)].astype(np.int32)

    @cached_property
    def boxes(self) -> list[np.ndarray] | None:
        """The bounding boxes of the images explained, as fractions of them, if there are some."""
        found = self.evaluation_data.boxes
        return None if found is None else list(found[: len(self.images)])

    @cached_property
    def ranked(self) -> np.ndarray:
        """The classes of each image explained, the most probable first."""
        logits = self.evaluation_logits[: len(self.images)]
        return np.argsort(-logits, axis=1, kind="stable").astype(np.int32)

    @cached_property
    def score(self) -> Any:
        """The score that is explained."""
        return self.score_of(self.model)

    def score_of(self, model: Any) -> Any:
        """The same score of another model."""
        return getattr(jc2i, self.study.scores)(model)

    @cached_property
    def probabilities(self) -> Any:
        """The probabilities, which every metric is of."""
        return jc2i.probabilities(self.model)

    @cached_property
    def baseline(self) -> Any:
        """What a masked pixel becomes."""
        if self.study.baseline == "mean":
            mean = getattr(self.model, "mean", ())
            takes = "zero or blur, for a model without a mean"
            checks.require(bool(mean), "baseline", "mean", takes)
            return np.asarray(mean if self.normalize else [0.0] * len(mean), np.float32)
        return 0.0 if self.study.baseline == "zero" else "blur"

    @property
    def one(self) -> np.ndarray:
        """An image of the shape of those explained."""
        return np.zeros((1, *self.images.shape[1:]), np.float32)

    @cached_property
    def has_attention(self) -> bool:
        """Whether the model names attention maps, [batch, heads, tokens, tokens]."""
        return any(map(is_named, square_maps(taps.names(self.model, self.one), self.one)))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of the study: those asked for, or the paper's for such a model."""
        if self.study.methods:
            return self.study.methods
        if not self.has_attention:
            return CONVOLUTIONAL
        # On transformers the paper leaves Ablation-CAM out: its ablated activation has no zero.
        rest = tuple(method for method in CONVOLUTIONAL[:-1] if method != "ablation_cam")
        return (*rest, *ATTENTION, OPTI)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The layers of table A.13, the first nearest to the image."""
        if self.study.layers:
            return self.study.layers
        grids = up_to_default(self.model, self.one)
        chosen = np.linspace(0, len(grids) - 1, min(5, len(grids))).round().astype(int)
        return tuple(grids[i] for i in dict.fromkeys(chosen))

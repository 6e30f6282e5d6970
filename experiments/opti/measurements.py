"""Maps and metrics of a study, each computed once and kept, batch by batch, on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.common.methods import explain
from experiments.common.provenance import devices
from experiments.common.report import write_json
from experiments.opti.study import COSTLY, OPTI, Study, Subject
from jc2i import explainers, metrics, models, parallel, query
from jc2i.metrics.randomization import layers_of

TRUTH, MOST, SECOND, LEAST = "truth", "most probable", "second", "least probable"
"""Which class a map explains."""
LOCALIZATION = ("OM", "LE", "F1", "SP", "EP")
"""What the columns of one array are: B.1 to B.4 and B.6 of the paper."""
RANDOMIZED = 5
"""Layers that are randomised, spread from the last to the first."""
TIMED = 8
"""Images of the batch whose time is taken, as in the paper's column T."""
PATIENCE = 60.0
"""Seconds beyond which a first call is not made again to be timed without its compilation."""


class Measurements:
    """What a study measures; every number comes from here, each computed at most once."""

    def __init__(self, study: Study, *, normalize: bool = True):
        self.study = study
        self.subject = Subject(study, normalize=normalize)
        self.key = jax.random.key(study.seed)

    @cached_property
    def unnormalized(self) -> Measurements:
        """The same study of a model that does not normalise its images."""
        return Measurements(self.study, normalize=False)

    def count(self, method: str, most: int | None = None) -> int:
        """The number of images that a method explains, no more than `most`."""
        counts = [len(self.subject.images)]
        counts += [self.study.costly_images] if method in COSTLY else []
        counts += [most] if most is not None else []
        return min(counts)

    def options(self, method: str, **changed: Any) -> dict[str, Any]:
        """Where the study departs from a method's defaults."""
        study, known = self.study, query.method_of(getattr(explainers, method))
        options: dict[str, Any] = {}
        if "layer" in known.kinds and study.layer and method not in ("raw_attention",):
            options["layer"] = study.layer
        if method in ("score_cam", "lime", OPTI):
            options["baseline"] = self.subject.baseline
        if study.evaluations and known.takes_batch_size:
            options["batch_size"] = study.evaluations
        options |= {
            OPTI: {"steps": study.steps},
            "extremal_perturbation": {"steps": study.extremal_steps},
            "lime": {"samples": study.lime_samples},
            "gradient_shap": {"samples": study.shap_samples},
        }.get(method, {})
        return options | changed

    def targets(self, kind: str, count: int) -> np.ndarray:
        """The class explained of each of the first images."""
        ranked = self.subject.ranked
        chosen = {
            TRUTH: self.subject.labels,
            MOST: ranked[:, 0],
            SECOND: ranked[:, 1],
            LEAST: ranked[:, -1],
        }[kind]
        return chosen[:count]

    def maps(
        self,
        method: str,
        target: str = TRUTH,
        *,
        most: int | None = None,
        score: Any = None,
        **changed: Any,
    ) -> np.ndarray:
        """Raw saliency maps of the first images, [images, height, width].

        Args:
          method: an explainer.
          target: which class is explained.
          most: most images.
          score: the score explained; None for the study's.
          **changed: options other than the study's.
        """
        count = self.count(method, most)
        return self._run(
            f"maps-{method}",
            partial(explain, getattr(explainers, method), self.options(method, **changed)),
            (self.subject.images[:count], self.targets(target, count)),
            score=self.subject.score if score is None else score,
        )

    def masked(self, maps: np.ndarray, *, normalize: bool = True) -> np.ndarray:
        """Drop, increase and gain of each image masked with a map, in per cent, [images, 3].

        Of the ground-truth class, whatever class the maps explain (Opti-CAM section 4).
        """
        count = len(maps)
        function = partial(_masked, {"baseline": self.subject.baseline, "normalize": normalize})
        arrays = (self.subject.images[:count], self.targets(TRUTH, count), maps)
        # A folder for each set of maps: processes that compute several tables at a time do not wait
        # for each other.
        return self._run(f"masked/{parallel.digest(maps, normalize)}", function, arrays)

    def insertion(self, method: str) -> np.ndarray:
        """The area of each image's insertion curve, from a blurred image."""
        function = partial(_area, metrics.insertion_curve, "blur", self.study.insertion_steps)
        return self._curves(f"insertion-{method}", function, method)

    def deletion(self, method: str) -> np.ndarray:
        """The area of each image's deletion curve, to zero (black pixels)."""
        function = partial(_area, metrics.deletion_curve, 0.0, self.study.insertion_steps)
        return self._curves(f"deletion-{method}", function, method)

    def aopc(self, method: str) -> np.ndarray:
        """Area over the perturbation curve of each image, as Quantus gives it."""
        return self._curves(f"aopc-{method}", _aopc, method)

    def _curves(self, name: str, function: Callable[..., Any], method: str) -> np.ndarray:
        # Of the predicted class, whose probability insertion and deletion follow (section 5.3.2).
        maps = self.maps(method)[: self.study.curve_images]
        arrays = (self.subject.images[: len(maps)], self.targets(MOST, len(maps)), maps)
        return self._run(name, function, arrays)

    def adcc(self, method: str) -> np.ndarray:
        """ADCC and its parts of each image (`jc2i.metrics.fidelity.masked.ADCC_PARTS`)."""
        return self._of_explainer(
            "adcc", metrics.adcc, method, self.study.adcc_images, baseline=self.subject.baseline
        )

    def max_sensitivity(self, method: str) -> np.ndarray:
        """The largest relative change of each image's map under noise."""
        study = self.study
        return self._of_explainer(
            "max-sensitivity",
            metrics.max_sensitivity,
            method,
            study.sensitivity_images,
            radius=study.sensitivity_radius,
            samples=study.sensitivity_samples,
        )

    def _of_explainer(
        self, name: str, metric: Callable[..., Any], method: str, most: int, **options: Any
    ) -> np.ndarray:
        count = self.count(method, most)
        # Metrics are of probabilities, maps of the study's score: it is bound to the method, and so
        # are the method's options, as a metric may have one of the same name.
        bound = partial(getattr(explainers, method), **self.options(method))
        explain = partial(_of_score, bound, self.subject.score)
        function = partial(_of_explainer, metric, explain, options)
        arrays = (self.subject.images[:count], self.targets(TRUTH, count))
        return self._run(f"{name}-{method}", function, arrays)

    def saliency_metric(self, method: str) -> np.ndarray:
        """The saliency metric of each image's map."""
        maps = self.maps(method)
        arrays = (self.subject.images[: len(maps)], self.targets(TRUTH, len(maps)), maps)
        return self._run(f"saliency-metric-{method}", _saliency_metric, arrays)

    def localization(self, method: str) -> dict[str, np.ndarray]:
        """The localization metrics of each image's map: one value an image, but for `"BA"`."""
        maps, boxes = self.maps(method), self.subject.boxes
        assert boxes is not None  # the caller asks for boxes first
        padded = metrics.pad_boxes(boxes)[: len(maps)]
        correct = self.targets(MOST, len(maps)) == self.targets(TRUTH, len(maps))
        values = self._run(f"localization-{method}", _localization, (maps, padded, correct))
        accuracies = self._run(f"box-accuracy-{method}", _box_accuracy, (maps, padded))
        columns = dict(zip(LOCALIZATION, values.T, strict=True))
        return columns | {"BA": accuracies, "SM": self.saliency_metric(method)}

    def randomized(self, method: str) -> tuple[np.ndarray, list[str]]:
        """Maps as layers turn random, from the top: [images, layers, height, width], and names."""
        subject, maps, names = self.subject, [], []
        images = subject.images[: min(self.study.randomized_images, self.count(method))]
        every = list(layers_of(subject.model, images[:1]))
        places = np.linspace(0, len(every) - 1, min(RANDOMIZED, len(every))).round().astype(int)
        chosen = [every[i] for i in dict.fromkeys(places)]
        copies = metrics.randomized_models(
            subject.model, images[:1], key=jax.random.fold_in(self.key, 1), layers=chosen
        )
        for name, model in copies:
            maps.append(self.maps(method, most=len(images), score=subject.score_of(model)))
            names.append(name)
        return np.stack(maps, axis=1), names

    def of_twin(self, method: str) -> np.ndarray:
        """Maps of the model that was trained on permuted labels, of the first images."""
        assert self.study.twin is not None  # the caller asks for it first
        score = self.subject.score_of(models.load(self.study.twin))
        return self.maps(method, most=self.study.randomized_images, score=score)

    def seconds(self, method: str) -> float:
        """Seconds that a method takes for a batch of 8 images, compiled; kept for each device."""
        images = self.subject.images[:TIMED]
        explain, options = getattr(explainers, method), self.options(method)
        depends = (explain, options, self.subject.score, images.shape, devices(), jax.__version__)
        path = self.subject.store.folder / "seconds" / f"{method}-{parallel.digest(*depends)}.json"
        content = b""
        if parallel.is_first():
            if not path.exists():
                write_json(path, {"method": method, "seconds": self._timed(method)})
            content = path.read_bytes()
        return json.loads(parallel.of_first(content))["seconds"]

    def _timed(self, method: str) -> float:
        images = self.subject.images[:TIMED]
        targets = self.targets(TRUTH, len(images))
        explain = getattr(explainers, method)
        for _ in range(2):
            start = time.perf_counter()
            jax.block_until_ready(
                explain(self.subject.score, images, targets, key=self.key, **self.options(method))
            )
            taken = time.perf_counter() - start
            if taken > PATIENCE:
                break
        return float(taken)

    def _run(
        self,
        name: str,
        function: Callable[..., Any],
        arrays: tuple[np.ndarray, ...],
        score: Any = None,
    ) -> np.ndarray:
        """`function(score, *arrays, keys)` over all images, kept; of probabilities by default."""
        score = self.subject.probabilities if score is None else score
        size = self.study.batch_size
        return self.subject.store.map(name, function, arrays, size, model=score, key=self.key)


# What a study runs, as functions of a module: with what `partial` binds, they are told by it.


def _of_score(
    explain: Callable[..., Any],
    score: Any,
    model: Any,
    images: Array,
    targets: Array,
    key: Array | None = None,
) -> Array:
    """A method that explains one score, whatever model a metric follows."""
    return explain(score, images, targets, key=key)


def _of_explainer(
    metric: Callable[..., Any],
    explain: Callable[..., Any],
    options: dict[str, Any],
    score: Any,
    images: Array,
    targets: Array,
    keys: Array,
) -> Array:
    return metric(explain, score, images, targets, key=keys, **options)


def _masked(
    options: dict[str, Any], score: Any, images: Array, targets: Array, maps: Array, keys: Array
) -> Array:
    return metrics.drop_increase_gain(score, images, targets, maps, **options)


def _area(
    curve: Callable[..., Any],
    baseline: Any,
    steps: int,
    score: Any,
    images: Array,
    targets: Array,
    maps: Array,
    keys: Array,
) -> Array:
    values = curve(score, images, targets, maps, steps=steps, baseline=baseline, normalize=False)
    return metrics.area(values)


def _aopc(score: Any, images: Array, targets: Array, maps: Array, keys: Array) -> Array:
    return metrics.aopc(score, images, targets, maps, rule="quantus")


def _saliency_metric(score: Any, images: Array, targets: Array, maps: Array, keys: Array) -> Array:
    return metrics.saliency_metric(score, images, targets, maps)


def _localization(score: Any, maps: Array, boxes: Array, correct: Array, keys: Array) -> Array:
    values = (
        metrics.official_metric(maps, boxes, correct),
        metrics.localization_error(maps, boxes),
        metrics.pixel_f1(maps, boxes),
        metrics.pointing_game(maps, boxes),
        metrics.energy_pointing_game(maps, boxes),
    )
    return jnp.stack(values, axis=1)


def _box_accuracy(score: Any, maps: Array, boxes: Array, keys: Array) -> Array:
    return metrics.box_accuracy(maps, boxes)

"""Maps, curves and estimates of a study, each computed once and kept, batch by batch, on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.c2i.study import BASE, Study, Subject, serves_all
from experiments.common.methods import explain
from jc2i import calibrators, explainers, metrics, normalize, probabilities

RANDOM = "random"
SWEPT = "meaningful_perturbation"
"""The method that figures 5 and 8 look at (C2I section 4.6)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """The scores of several versions of one model side by side: [batch, versions x classes].

    The model is queried once for all. A method whose queries do not depend on the scores explains
    every version at once, as so many targets: `targets[version] + version x classes`.
    """

    model: Any
    heads: tuple[Any, ...]

    def __call__(self, images: Float[Array, "batch ..."]) -> Float[Array, "batch scores"]:
        logits = self.model(images)
        return jnp.concatenate([head(logits) for head in self.heads], axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Unchanged:
    """The logits themselves, as a head of a panel."""

    def __call__(self, logits: Float[Array, "batch classes"]) -> Float[Array, "batch classes"]:
        return logits


class Measurements:
    """What a study measures; every number comes from here, each computed at most once."""

    def __init__(self, study: Study):
        self.study = study
        self.subject = Subject(study)
        self.key = jax.random.key(study.seed)
        self._maps: dict[str, dict[str, np.ndarray]] = {}
        self._curves: dict[tuple[str, str], np.ndarray] = {}
        self._lipschitz: dict[str, dict[str, np.ndarray]] = {}

    def options(self, method: str) -> dict[str, Any]:
        """Where the study departs from a method's defaults."""
        if method == "rise":
            # No grid finer than the image allows.
            grid = min(8, *self.subject.images.shape[1:3])
            return {"masks": self.study.rise_masks, "grid": grid, "batch_size": None}
        if method == "meaningful_perturbation":
            slope = self.study.mp_area_subgradient
            return {"steps": self.study.mp_steps, "area_subgradient": slope}
        return {}

    def _explain(self, method: str) -> Callable[..., Any]:
        """A method with its options, as a function that can be told by what it holds."""
        return partial(explain, getattr(explainers, method), self.options(method))

    def maps(self, method: str) -> dict[str, np.ndarray]:
        """Raw saliency maps of the images, by version: [images, height, width] each."""
        if method not in self._maps:
            apart = not serves_all(method)
            self._maps[method] = (self._maps_one_by_one if apart else self._maps_at_once)(method)
        return self._maps[method]

    def _maps_one_by_one(self, method: str) -> dict[str, np.ndarray]:
        return {
            version: self._run(
                f"maps-{method}-{version}",
                self._explain(method),
                self.subject.explained_score(version),
                (self.subject.images, self.subject.targets(version)),
            )
            for version in self.study.versions
        }

    def _maps_at_once(self, method: str) -> dict[str, np.ndarray]:
        maps = self._run(
            f"maps-{method}",
            partial(_each_entry, self._explain(method)),
            self._panel,
            (self.subject.images, self._panel_targets),
        )
        return {version: maps[:, self._entry(version)] for version in self.study.versions}

    # Every pairing that a study can choose has an entry in the panel, whichever is chosen: the
    # model evaluations are the same, so a study of another pairing finds them done.

    @cached_property
    def _panel(self) -> Panel:
        fitted = [self.subject.calibrators[version] for version in self.study.versions]
        return Panel(self.subject.model, (Unchanged(), *map(probabilities, fitted + fitted)))

    @cached_property
    def _panel_targets(self) -> np.ndarray:
        """The class each entry explains, counted over the panel's scores: [images, entries]."""
        predictions = self.subject.predictions
        own = [predictions[version] for version in self.study.versions]
        base = [predictions[BASE]] * len(own)
        targets = np.stack([predictions[BASE], *own, *base], axis=1)
        classes = self.subject.evaluation_logits.shape[1]
        return targets + np.arange(targets.shape[1], dtype=np.int32) * classes

    def _entry(self, version: str, explained: bool = True) -> int:
        """Where the panel has what the study explains, or follows, of a version."""
        if explained and self.subject.explains_logits(version):
            return 0
        place = 1 + self.study.versions.index(version)
        return place if self.study.targets == "own" else place + len(self.study.versions)

    def curves(self, method: str, version: str) -> np.ndarray:
        """Normalised deletion curves of a version's probabilities: [images, 100]."""
        if (method, version) not in self._curves:
            if method == RANDOM:
                self._curves.update(self._random_curves())
            else:
                self._curves[method, version] = self._follow(
                    f"{method}-{version}",
                    self.subject.probabilities(version),
                    self.subject.targets(version),
                    self.maps(method)[version],
                )
        return self._curves[method, version]

    def _follow(self, name: str, score: Any, targets: np.ndarray, maps: np.ndarray) -> np.ndarray:
        """Deletion curves of a score: of the first images, as many as there are maps."""
        arrays = (self.subject.images[: len(maps)], targets, maps)
        return self._run(f"curves-{name}", _deletion_curve, score, arrays)

    def _random_curves(self) -> dict[tuple[str, str], np.ndarray]:
        values = self._run(
            "curves-random",
            partial(_each_entry, _random_deletion_curve),
            self._panel,
            (self.subject.images, self._panel_targets, self.superpixels),
        )
        return {
            (RANDOM, version): values[:, self._entry(version, explained=False)]
            for version in self.study.versions
        }

    @cached_property
    def superpixels(self) -> np.ndarray:
        return metrics.superpixels(self.subject.images, 100)

    def areas(self, method: str, version: str) -> np.ndarray:
        """Deletion areas: one an image."""
        return np.asarray(metrics.area(self.curves(method, version)))

    def better_than_random(self, method: str, version: str) -> np.ndarray:
        """1 where the deletion area is below the image's own random area."""
        areas, random_areas = self.areas(method, version), self.areas(RANDOM, version)
        return np.asarray(metrics.better_than_random(areas, random_areas))

    def otsu_total_variation(self, method: str, version: str) -> np.ndarray:
        """Total variation of the binarised maps: one an image."""
        return np.asarray(metrics.otsu_total_variation(self.maps(method)[version]))

    def similarity(self, method: str, version: str) -> np.ndarray:
        """SSIM between the base model's normalised maps and a calibrated model's."""
        base, other = (normalize(self.maps(method)[v]) for v in (BASE, version))
        window = min(11, *(side - (side + 1) % 2 for side in base.shape[1:]))
        return np.asarray(metrics.structural_similarity(base, other, window=window))

    def lipschitz(self, method: str) -> dict[str, np.ndarray]:
        """Local Lipschitz estimates of a method, by version: one a point."""
        if method not in self._lipschitz:
            self._lipschitz[method] = self._estimate_lipschitz(method)
        return self._lipschitz[method]

    def _estimate_lipschitz(self, method: str) -> dict[str, np.ndarray]:
        study, explain = self.study, getattr(explainers, method)
        points = min(study.lipschitz_points, len(self.subject.images))
        images = self.subject.images[:points]
        # As many neighbours of a point at a time as divide their number: no remainder to compile.
        together = max(
            n for n in range(1, study.neighbours + 1)
            if study.neighbours % n == 0 and n <= study.batch_size
        )  # fmt: skip
        batch = max(1, min(points, study.batch_size // together))
        options = {
            **{k: v for k, v in self.options(method).items() if k != "batch_size"},
            "neighbours": study.neighbours,
            "radius": study.radius,
            "batch_size": batch * together,
        }
        estimate = partial(_lipschitz, explain, options)
        if serves_all(method):
            values = self._run(
                f"lipschitz-{method}",
                partial(_each_entry, estimate),
                self._panel,
                (images, self._panel_targets[:points]),
                batch_size=batch,
            )
            return {version: values[:, self._entry(version)] for version in study.versions}
        return {
            version: self._run(
                f"lipschitz-{method}-{version}",
                estimate,
                self.subject.explained_score(version),
                (images, self.subject.targets(version)[:points]),
                batch_size=batch,
            )
            for version in study.versions
        }

    @cached_property
    def sweep_areas(self) -> dict[float, np.ndarray]:
        """Deletion areas of Meaningful Perturbation by temperature: one an image of figure 8.

        At the base model's temperature, 1, and at the fitted one they are known already.
        """
        count = min(self.study.sweep_images, len(self.subject.images))
        versions = {1.0: BASE, self.fitted_temperature: "temperature"}
        known = {t: v for t, v in versions.items() if v in self.study.versions}
        if self.subject.explains_logits(BASE):
            known.pop(1.0)  # the sweep is of probabilities
        wanted = {self.fitted_temperature * multiple for multiple in self.study.temperatures}
        return {
            temperature: self.areas(SWEPT, known[temperature])[:count]
            if temperature in known
            else self._areas_at(temperature, count)
            for temperature in sorted(wanted | set(versions))
        }

    def _areas_at(self, temperature: float, count: int) -> np.ndarray:
        images, targets = self.subject.images[:count], self.subject.predictions[BASE][:count]
        calibrator = calibrators.Temperature(jnp.float32(temperature))
        score = probabilities(self.subject.model, calibrator, softmax=self.study.softmax)
        name = f"{SWEPT}-at-{temperature:.3f}"
        maps = self._run(f"maps-{name}", self._explain(SWEPT), score, (images, targets))
        return np.asarray(metrics.area(self._follow(name, score, targets, maps)))

    @cached_property
    def fitted_temperature(self) -> float:
        """The temperature fitted on the calibration split, whatever calibrations are compared."""
        known = self.subject.calibrators.get("temperature")
        return float((known or self.subject.fitted("temperature")).temperature)

    def _run(
        self,
        name: str,
        function: Callable[..., Any],
        score: Any,
        arrays: tuple[np.ndarray, ...],
        batch_size: int | None = None,
    ) -> np.ndarray:
        """`function(score, *arrays, keys)` over all images, kept."""
        size = batch_size or self.study.batch_size
        return self.subject.store.map(name, function, arrays, size, model=score, key=self.key)


# What a study runs, as functions of a module: with what `partial` binds, they are told by it.


def _lipschitz(
    explain: Callable[..., Any],
    options: dict[str, Any],
    score: Any,
    images: Array,
    targets: Array,
    keys: Array,
) -> Array:
    return metrics.lipschitz(explain, score, images, targets, key=keys, **options)


def _deletion_curve(score: Any, images: Array, targets: Array, maps: Array, keys: Array) -> Array:
    return metrics.deletion_curve(score, images, targets, maps)


def _random_deletion_curve(
    score: Any, images: Array, targets: Array, segments: Array, keys: Array
) -> Array:
    return metrics.random_deletion_curve(score, images, targets, key=keys, segments=segments)


def _each_entry(
    function: Callable[..., Array], panel: Any, images: Array, targets: Array, *rest: Array
) -> Array:
    """A function of the targets of one entry of the panel, for all: [batch, entries, ...]."""

    def of_entry(entry: Array) -> Array:
        return function(panel, images, entry, *rest)

    return jax.vmap(of_entry, 1, 1)(jnp.asarray(targets))

"""Maps, curves and estimates of a study, each computed once and kept, batch by batch, on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.c2i.study import BASE, FORWARD_ONLY, Study, Subject, digest
from jc2i import calibrators, explainers, metrics, normalize, probabilities
from jc2i.parallel import map_batches

RANDOM = "random"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
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
@dataclasses.dataclass(frozen=True)
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
        self._sweep: dict[tuple[float, str], np.ndarray] = {}

    def options(self, method: str) -> dict[str, Any]:
        """The options that the study gives a method."""
        if method == "rise":
            # No grid finer than the image allows.
            grid = min(8, *self.subject.images.shape[1:3])
            return {"masks": self.study.rise_masks, "grid": grid, "batch_size": None}
        if method == "meaningful_perturbation":
            return {"steps": self.study.mp_steps}
        return {}

    def maps(self, method: str) -> dict[str, np.ndarray]:
        """Raw saliency maps of the images, by version: [images, height, width] each."""
        if method not in self._maps:
            everyone = self._maps_at_once if method in FORWARD_ONLY else self._maps_one_by_one
            self._maps[method] = everyone(method)
        return self._maps[method]

    def _maps_one_by_one(self, method: str) -> dict[str, np.ndarray]:
        explain = getattr(explainers, method)
        maps = {}
        for version in self.study.versions:
            score = self.subject.explained_score(version)
            maps[version] = self._run(
                f"maps-{method}-{version}",
                lambda x, t, keys, score=score: explain(
                    score, x, t, key=keys, **self.options(method)
                ),
                (self.subject.images, self.subject.targets(version)),
                depends=(score, self._score_kind(version), self.options(method)),
            )
        return maps

    def _maps_at_once(self, method: str) -> dict[str, np.ndarray]:
        explain = getattr(explainers, method)
        panel, targets = self._panel(explained=True)

        def explain_all(images: Array, targets: Array, keys: Array) -> Array:
            each = jax.vmap(
                lambda t: explain(panel, images, t, key=keys, **self.options(method)), 1, 1
            )
            return each(jnp.asarray(targets))

        maps = self._run(
            f"maps-{method}",
            explain_all,
            (self.subject.images, targets),
            depends=(panel, self._all_kinds(), self.options(method)),
        )
        return {version: maps[:, i] for i, version in enumerate(self.study.versions)}

    def _panel(self, explained: bool) -> tuple[Panel, np.ndarray]:
        """All versions' scores, explained or followed, and their targets [images, versions]."""
        classes = self.subject.evaluation_logits.shape[1]
        heads, targets = [], []
        for i, version in enumerate(self.study.versions):
            released = explained and version == BASE and self.study.scores == "released"
            calibrator = self.subject.calibrators[version]
            heads.append(Unchanged() if released else probabilities(calibrator))
            targets.append(self.subject.targets(version) + i * classes)
        return Panel(self.subject.model, tuple(heads)), np.stack(targets, axis=1)

    def curves(self, method: str, version: str) -> np.ndarray:
        """Normalised deletion curves of a version's probabilities: [images, 100]."""
        if (method, version) not in self._curves:
            if method == RANDOM:
                self._curves.update(self._random_curves())
            else:
                maps = self.maps(method)[version]
                self._curves[method, version] = self._follow(f"{method}-{version}", version, maps)
        return self._curves[method, version]

    def _follow(self, name: str, version: str, maps: np.ndarray) -> np.ndarray:
        score = self.subject.probabilities(version)
        return self._run(
            f"curves-{name}",
            lambda x, t, m, keys: metrics.deletion_curve(score, x, t, m),
            (self.subject.images, self.subject.targets(version), maps),
            depends=(score,),
        )

    def _random_curves(self) -> dict[tuple[str, str], np.ndarray]:
        panel, targets = self._panel(explained=False)

        def curves(images: Array, targets: Array, segments: Array, keys: Array) -> Array:
            def curve(t: Array) -> Array:
                return metrics.random_deletion_curve(panel, images, t, key=keys, segments=segments)

            return jax.vmap(curve, 1, 1)(jnp.asarray(targets))

        values = self._run(
            "curves-random",
            curves,
            (self.subject.images, targets, self.superpixels),
            depends=(panel, self._all_kinds()),
        )
        return {(RANDOM, v): values[:, i] for i, v in enumerate(self.study.versions)}

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

        def estimate(score: Any, x: Array, t: Array, keys: Array) -> Array:
            return metrics.lipschitz(
                explain,
                score,
                x,
                t,
                key=keys,
                neighbours=study.neighbours,
                radius=study.radius,
                batch_size=batch * together,
                **{k: v for k, v in self.options(method).items() if k != "batch_size"},
            )

        depends = (self.options(method), study.neighbours, study.radius)
        if method in FORWARD_ONLY:
            panel, targets = self._panel(explained=True)
            values = self._run(
                f"lipschitz-{method}",
                lambda x, t, keys: jax.vmap(
                    lambda t: estimate(panel, x, t, keys), 1, 1
                )(jnp.asarray(t)),
                (images, targets[:points]),
                depends=(panel, self._all_kinds(), *depends),
                batch_size=batch,
            )
            return {version: values[:, i] for i, version in enumerate(study.versions)}
        estimates = {}
        for version in study.versions:
            score = self.subject.explained_score(version)
            estimates[version] = self._run(
                f"lipschitz-{method}-{version}",
                lambda x, t, keys, score=score: estimate(score, x, t, keys),
                (images, self.subject.targets(version)[:points]),
                depends=(score, self._score_kind(version), *depends),
                batch_size=batch,
            )
        return estimates

    def sweep_areas(self, temperature: float, method: str) -> np.ndarray:
        """Deletion areas of a method with a temperature set by hand: one an image of figure 8."""
        if (temperature, method) not in self._sweep:
            self._sweep[temperature, method] = self._measure_sweep_areas(temperature, method)
        return self._sweep[temperature, method]

    def _measure_sweep_areas(self, temperature: float, method: str) -> np.ndarray:
        count = min(self.study.sweep_images, len(self.subject.images))
        images, targets = self.subject.images[:count], self.subject.predictions[BASE][:count]
        score = probabilities(
            self.subject.model,
            calibrators.Temperature(jnp.float32(temperature)),
            softmax=self.study.softmax,
        )
        name, explain = f"{method}-at-{temperature:.3f}", getattr(explainers, method)
        maps = self._run(
            f"maps-{name}",
            lambda x, t, keys: explain(score, x, t, key=keys, **self.options(method)),
            (images, targets),
            depends=(score, self.study.softmax, self.options(method)),
        )
        curves = self._run(
            f"curves-{name}",
            lambda x, t, m, keys: metrics.deletion_curve(score, x, t, m),
            (images, targets, maps),
            depends=(score,),
        )
        return np.asarray(metrics.area(curves))

    def _score_kind(self, version: str) -> str:
        released = version == BASE and self.study.scores == "released"
        return "logits" if released else f"probabilities, {self.study.softmax}"

    def _all_kinds(self) -> list[str]:
        return [self._score_kind(version) for version in self.study.versions]

    def _run(
        self,
        name: str,
        function: Callable[..., Any],
        arrays: tuple[np.ndarray, ...],
        *,
        depends: tuple[Any, ...],
        batch_size: int | None = None,
    ) -> np.ndarray:
        """`map_batches`, kept in a folder named by everything that the result depends on."""
        # A batch is never larger than the data: nothing is computed only to be dropped.
        size = min(batch_size or self.study.batch_size, len(arrays[0]))
        tag = digest(name.split("-")[0], self.key, size, arrays, depends)
        return map_batches(
            function,
            arrays,
            size,
            key=self.key,
            progress=self.study.progress and name,
            resume=self.subject.cache / f"{name}-{tag}",
            tag=tag,
        )

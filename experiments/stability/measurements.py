"""Maps, distances and fidelity of a study, each computed once and kept, batch by batch, on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import jc2i
from experiments.common.methods import explain
from experiments.common.subject import SMALL, SMALL_BATCH, forward
from experiments.stability.intervals import Select, interval
from experiments.stability.study import (
    CONTROL,
    COSTLY,
    MAGNITUDES,
    MODEL,
    Setting,
    Study,
    Subject,
)
from jc2i import calibrators, checks, explainers, metrics, parallel, query
from jc2i.statistics import Interval

ONE_GRADIENT = 10
"""Model evaluations of one image up to which a method is run on all images."""


class Measurements:
    """What a study measures; every number comes from here, each computed at most once.

    Args:
      study: the options.
      **given: a way to train and data in place of those that the study names (`Subject`).
    """

    def __init__(self, study: Study, **given: Any):
        self.study = study
        self.subject = Subject(study, **given)
        self.key = jax.random.key(study.seed)

    def count(self, method: str, most: int | None = None) -> int:
        """The number of images that a method explains; of a costly one no more than `most`."""
        study, count = self.study, len(self.subject.images)
        method = MAGNITUDES.get(method, method)
        if method == CONTROL:
            return count
        known = query.method_of(getattr(explainers, method))
        shape = (1, *self.subject.images.shape[1:])
        cost = known.cost_of(shape, {**known.parameters, **self.options(method)})
        many = cost.forward_a_feature or cost.behind_a_feature
        if not many and cost.forward + cost.gradient <= ONE_GRADIENT:
            return count
        own = study.costly_images if method in COSTLY else study.masked_images
        return min(count, own, *([] if most is None else [most]))

    def options(self, method: str, network: str = "model") -> dict[str, Any]:
        """Where the paper (appendix B) and the study depart from a method's defaults."""
        study, found = self.study, {}
        if method == CONTROL:
            return found
        known = query.method_of(getattr(explainers, method))
        if method == "integrated_gradients":
            found |= {"steps": 60, "method": "trapezoid", "references": "black"}
        if method == "smoothgrad":
            found |= {"samples": 60, "noise": 0.2}
        if method in COSTLY:
            found["channels"] = "sum"  # signed, as the formulas are printed
        if method == "rise":
            large = min(self.subject.images.shape[1:3]) >= 224
            masks = study.rise_masks or (4000 if large else 1000)
            found |= {"masks": masks, "interpolation": "linear"}
        if "layer" in known.kinds and study.layer and network == MODEL.network:
            found["layer"] = study.layer
        if known.takes_batch_size and study.evaluations:
            found["batch_size"] = study.evaluations
        return found

    def score(self, setting: Setting, fold: int, calibrator: str | None = None) -> Any:
        """The score of a fold's model that is explained; of probabilities where calibrated."""
        model = self.subject.models(setting)[fold]
        if calibrator is None:
            return getattr(jc2i, self.study.scores)(model)
        return jc2i.probabilities(model, self._calibrator(setting, fold, calibrator))

    def _calibrator(self, setting: Setting, fold: int, name: str) -> Any:
        if name == "identity":
            return None
        return getattr(calibrators, f"fit_{name}")(
            self.subject.calibration_logits(setting)[fold], self.subject.calibration_data.labels
        )

    def probabilities(self, setting: Setting, calibrator: str) -> np.ndarray:
        """Probabilities of held-out images, [folds, images, classes]."""
        found = []
        for fold, logits in enumerate(self.subject.test_logits(setting)):
            fitted = self._calibrator(setting, fold, calibrator)
            found.append(jax.nn.softmax(logits if fitted is None else fitted(logits)))
        return np.asarray(found)

    def predicted(
        self, setting: Setting, calibrator: str | None = None, most: int | None = None
    ) -> np.ndarray:
        """The class that each fold's model predicts of the images explained, [folds, images]."""
        images = self.subject.images[:most]
        small = max(images.shape[1:3]) <= SMALL
        found = [
            self.subject.store.map(
                f"predicted-{setting.name}",
                parallel.on_each_device(_predicted),
                images,
                SMALL_BATCH if small else self.study.batch_size,
                model=self.score(setting, fold, calibrator),
            )
            for fold in range(self.study.k)
        ]
        return np.stack(found)

    def targets(self, setting: Setting, calibrator: str | None, count: int) -> np.ndarray:
        """The class explained of the first images with each fold's model, [folds, images]."""
        if self.study.targets == "own":
            return self.predicted(setting, calibrator, count).astype(np.int32)
        return np.broadcast_to(self.subject.labels[:count], (self.study.k, count))

    def maps(
        self,
        setting: Setting,
        method: str,
        *,
        calibrator: str | None = None,
        most: int | None = None,
    ) -> np.ndarray:
        """Raw saliency maps of the first images by each fold's model, [folds, images, h, w]."""
        if method in MAGNITUDES:
            plain = MAGNITUDES[method]
            return np.abs(self.maps(setting, plain, calibrator=calibrator, most=most))
        count = self.count(method, most)
        images = self.subject.images[:count]
        if method == CONTROL:
            function = random_x_input
        else:
            options = self.options(method, setting.network)
            function = partial(explain, getattr(explainers, method), options)
        targets = self.targets(setting, calibrator, count)
        found = [
            self.subject.store.map(
                f"maps-{setting.name}-{method}",
                function,
                (images, targets[fold]),
                self.study.batch_size,
                model=self.score(setting, fold, calibrator),
                # Folds share no draw: random maps of one key would be general and consistent.
                key=jax.random.fold_in(self.key, fold),
            )
            for fold in range(self.study.k)
        ]
        sizes = {one.shape[1:] for one in found}
        takes = f"an explainer whose maps have one size with every fold, {images.shape[1:3]}"
        got = f"{method}: maps {', '.join(map(str, sorted(sizes)))}"
        checks.require(sizes == {images.shape[1:3]}, "methods", got, takes)
        return np.stack(found)

    def correct(
        self, setting: Setting, calibrator: str | None = None, most: int | None = None
    ) -> np.ndarray:
        """Whether each fold's model is right about the images explained, [folds, images]."""
        predicted = self.predicted(setting, calibrator, most)
        return predicted == self.subject.labels[: predicted.shape[1]]

    def compared(self, setting: Setting, method: str, **chosen: Any) -> Compared:
        """The distances of a method's maps between the folds' models.

        Args:
          setting: the models.
          method: an explainer.
          **chosen: a calibrator, or `most` images, as `maps` takes them.
        """
        place = (setting, method, *sorted(chosen.items()))
        if place not in self._compared:
            maps = self.maps(setting, method, **chosen)
            count = maps.shape[1]
            folds, correct = (
                self.subject.fold_of_image[:count],
                self.correct(setting, chosen.get("calibrator"), count),
            )
            found = metrics.pair_distances(maps, folds, distance=self.study.distance)
            self._compared[place] = Compared(self.study, np.asarray(found), correct, folds)
        return self._compared[place]

    @cached_property
    def _compared(self) -> dict[Any, Compared]:
        return {}

    def fidelity(self, setting: Setting, method: str, most: int | None = None) -> np.ndarray:
        """Mu-fidelity of the first images, each explained by the model that did not train on it.

        The paper takes test images; an image's own fold is as unseen, and its maps are there.
        """
        study = self.study
        limits = [study.fidelity_images] + ([] if most is None else [most])
        count = min(self.count(method), *limits)
        maps = self.maps(setting, method, most=most)[:, :count]
        targets = self.targets(setting, None, count)
        folds, found = self.subject.fold_of_image[:count], np.empty(count)
        for fold in range(study.k):
            own = np.flatnonzero(folds == fold)
            if len(own):
                arrays = (self.subject.images[own], targets[fold, own], maps[fold, own])
                found[own] = self.subject.store.map(
                    f"fidelity-{setting.name}-{method}",
                    _fidelity,
                    arrays,
                    study.batch_size,
                    model=self.score(setting, fold),
                    key=jax.random.fold_in(self.key, study.k + fold),
                )
        return found

    def interval(
        self, statistic: Callable[..., float], *compared: Compared | np.ndarray
    ) -> Interval:
        """A statistic with its interval over the images that all have, and over folds.

        Args:
          statistic: of what it is given here, cut to those images: `Compared`, or an array of one
            value an image.
          *compared: what it is of.
        """
        count = min(len(one) for one in compared)
        cut = [one[:count] for one in compared]

        def of(select: Select) -> float:
            return float(
                statistic(
                    *(
                        one.selected(select) if isinstance(one, Compared) else select(one)
                        for one in cut
                    )
                )
            )

        return interval(
            of,
            self.subject.fold_of_image[:count],
            self.study.k,
            resamples=self.study.resamples,
            seed=self.study.seed,
        )


@dataclasses.dataclass(frozen=True)
class Sets:
    """The two sets of distances, S= and S≠, perhaps of a resample.

    Attributes:
      agreeing: of pairs of models that are both right, NaN elsewhere.
      disagreeing: of pairs of which one is.
      rates: of ReCo.
    """

    agreeing: np.ndarray
    disagreeing: np.ndarray
    rates: str

    @property
    def mege(self) -> float:
        """How general the explanations are."""
        return float(metrics.mege(self.agreeing))

    @property
    def reco(self) -> float:
        """How consistent they are."""
        return float(metrics.reco(self.agreeing, self.disagreeing, rates=self.rates))

    @property
    def contrast(self) -> float:
        """How much further apart maps are where models contradict each other, image by image.

        The mean over images that have pairs of both kinds of the difference of the kinds' means:
        what ReCo is meant to see, without what images differ in.
        """
        counts, means = [], []
        for values in (self.disagreeing, self.agreeing):
            there = np.isfinite(values)
            counts.append(there.sum(axis=1))
            means.append(np.where(there, values, 0).sum(axis=1) / np.maximum(counts[-1], 1))
        both = (counts[0] > 0) & (counts[1] > 0)
        return float((means[0] - means[1])[both].mean()) if both.any() else float("nan")


@dataclasses.dataclass(frozen=True)
class Compared:
    """The distances of one method's maps between the folds' models.

    Attributes:
      study: the options.
      distances: of each image between the model that was not trained on it and each other one.
      correct: whether each model is right, [folds, images].
      folds: the fold of each image.
    """

    study: Study
    distances: np.ndarray
    correct: np.ndarray
    folds: np.ndarray

    def __len__(self) -> int:
        return len(self.folds)

    def __getitem__(self, images: slice) -> Compared:
        return dataclasses.replace(
            self,
            distances=self.distances[images],
            correct=self.correct[:, images],
            folds=self.folds[images],
        )

    @cached_property
    def sets(self) -> Sets:
        """S= and S≠."""
        found = metrics.split_pairs(
            self.distances, self.correct, self.folds, pairs=self.study.pairs
        )
        agreeing, disagreeing = map(np.asarray, found)
        return Sets(agreeing, disagreeing, self.study.rates)

    def selected(self, select: Select) -> Sets:
        """S= and S≠ of a resample."""
        sets = self.sets
        return Sets(select(sets.agreeing), select(sets.disagreeing), sets.rates)


def random_x_input(model: Any, images: Array, targets: Array, keys: Array) -> Array:
    """A random map times the image: what the product with the input alone makes of nothing.

    The control for the paper's remark that the product makes maps alike (section 4.4).
    """
    maps = explainers.random_map(model, images, targets, key=keys)
    return maps * jnp.abs(images).sum(axis=-1)


def _predicted(score: Any, images: Array) -> Array:
    return forward(score, images).argmax(axis=1)


def _fidelity(score: Any, images: Array, targets: Array, maps: Array, keys: Array) -> Array:
    return metrics.mu_fidelity(score, images, targets, maps, key=keys)

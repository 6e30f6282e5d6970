"""What is studied: options of a run, the folds, and a model for each fold and each degradation."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

import jc2i
from experiments.common.store import Store
from experiments.common.subject import SMALL, SMALL_BATCH, RunOptions, first, forward
from experiments.stability.degradation import inverted, with_noise
from experiments.stability.folds import Train, cross_train, stratified_folds
from experiments.stability.training import DefaultTraining
from experiments.train import Training, decoded
from jc2i import checks, explainers, models, parallel, query
from jc2i.data.splits import half

RANDOM, CONTROL = "random_map", "random_x_input"
"""The paper's control, and ours for what the product with the image does to it."""

COSTLY = ("integrated_gradients", "smoothgrad")
"""Methods of tens of gradients, run on `costly_images`; those of more, on `masked_images`."""
MAGNITUDES = {f"absolute_{method}": method for method in COSTLY}
"""Methods whose maps are the absolute values of another's, which keep their sign as printed."""

if TYPE_CHECKING:
    Method = str
else:
    Method = Literal[(CONTROL, *MAGNITUDES, *query.methods(explainers))]

PAPERS: tuple[Method, ...] = (
    "sensitivity",
    "gradient_x_input",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam",
    "grad_cam_plus_plus",
    "rise",
    RANDOM,
)
"""The methods of section 4.1."""
DataSet = Literal["imagenet", "cifar10", "eurosat", "fashion_mnist"]


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to come to a model: the network, and what it was spoilt with.

    Attributes:
      network: `"model"`, or `"lipschitz"`.
      kind: `"labels"` (wrong ones to train on), `"noise"` (on the trained weights), or None.
      share: how much was spoilt, 0 to 1.
    """

    network: str = "model"
    kind: str | None = None
    share: float = 0.0

    @property
    def name(self) -> str:
        """What to call its folder."""
        return f"{self.network}-{self.kind}-{self.share:g}" if self.kind else self.network


MODEL, LIPSCHITZ = Setting(), Setting("lipschitz")


@dataclasses.dataclass(frozen=True)
class Study(RunOptions):
    """Options of a run; the defaults are the paper's for Fashion-MNIST, but for the counts."""

    k: int = 5
    """Number of folds, and of models."""
    train_split: str = "train"
    """Split that is cut into folds; the models are calibrated and measured on the others."""
    held_out_images: int | None = None
    """Images of that split that are kept out of all folds, for data without another split; None:
    those of its test split."""
    training_images: int | None = None
    """Images that are cut into folds, chosen at random; None: the whole split."""
    train: str | None = None
    """Your own way to train: `file.py:function`, a function `train(images, labels, key) -> model`.
    It takes the place of all options of training below, and there is no 1-Lipschitz network."""
    model: str = "resnet18_cifar"
    """Architecture (`jc2i.models.names()`)."""
    option: tuple[str, ...] = ("base_filters=26", "dropout=0.4")
    """The architecture's own options, as name=value."""
    lipschitz: str | None = "lipschitz"
    """Architecture of the 1-Lipschitz network; None: without it."""
    lipschitz_option: tuple[str, ...] = ()
    """Its own options, as name=value."""
    epochs: int = 6
    """Passes over the training images."""
    learning_rate: float = 3e-3
    """Highest learning rate."""
    training_batch_size: int = 128
    """Images a training step."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """As `experiments/train.py` takes it."""
    weight_decay: float = 0.0
    """As `experiments/train.py` takes it."""
    augment: bool = False
    """Pad, crop and mirror at random: for natural images."""
    lipschitz_epochs: int | None = None
    """Passes that train the 1-Lipschitz network; None: as many."""
    lipschitz_learning_rate: float | None = 5e-3
    """Its highest learning rate; None: the same."""
    lipschitz_temperature: float = 0.05
    """What its logits, which cannot grow, are divided by in the loss."""
    most_spread: float = 0.03
    """Largest difference of a fold's accuracy from the folds' mean (the paper: 3 %)."""
    inverted_shares: tuple[float, ...] = (0.05, 0.1, 0.3)
    """Shares of training labels that are wrong, each with a model a fold of its own."""
    noise_shares: tuple[float, ...] = (0.05, 0.1, 0.3)
    """Shares of the convolutions' weights that get Gaussian noise of standard deviation 0.5."""
    noise_on: Literal["parameters", "layers"] = "parameters"
    """What those are shares of: each convolution's weights (appendix E.2), or the convolutions
    (section 4.2)."""
    methods: tuple[Method, ...] = PAPERS
    """Explanation methods."""
    scores: Literal["logits", "probabilities", "log_odds"] = "logits"
    """Score explained (the paper: logits)."""
    targets: Literal["labels", "own"] = "labels"
    """Class explained: the image's, with every model (the authors' library), or each model's own
    prediction."""
    layer: str | None = None
    """Layer of the CAM methods (`jc2i.taps.names`); None: each method's own choice."""
    distance: str = "spearman"
    """Distance between maps, as `jc2i.metrics.distances` takes it."""
    pairs: Literal["xor", "algorithm1"] = "xor"
    """Pairs of models that count as contradicting each other, as there."""
    rates: Literal["usual", "printed"] = "usual"
    """Rates of ReCo, as `jc2i.metrics.reco` takes them."""
    images: int = 1000
    """Images explained, as many of each fold."""
    costly_images: int = 300
    """Images of integrated gradients and SmoothGrad, the first of those explained."""
    masked_images: int = 100
    """Images of RISE, and of every method of as many evaluations."""
    degraded_images: int = 100
    """Most images of the spoilt models, figures 3, 4, 8 and 9, by methods of many evaluations; and
    of their fidelity."""
    fidelity_images: int = 200
    """Images of mu-fidelity, each by the model that was not trained on it."""
    calibrated_images: int = 200
    """Most images of the calibrated models, by methods of many evaluations."""
    calibrators: tuple[str, ...] = ("temperature", "dirichlet")
    """What the models are calibrated with."""
    test_images: int | None = None
    """Held-out images that accuracies are measured on; None: all."""
    rise_masks: int | None = None
    """Masks of RISE; None: 1,000, and 4,000 from 224 pixels on."""
    evaluations: int | None = None
    """Model evaluations in flight within a method; None: each method's own."""
    resamples: int = 200
    """Bootstrap resamples of the images."""
    shuffles: int = 200
    """Shuffles of the folds' labels for ReCo's null."""
    paper: DataSet | None = None
    """Data set whose printed values stand beside; None: by the name of the data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in dataclasses.fields(self):
            if option.name.endswith("_images") or option.name in ("resamples", "shuffles"):
                self.refuse_below_one(option.name)
        checks.whole("k", self.k, "at least 2 folds", least=2)
        self.refuse_below_one("rise_masks", "evaluations")

    @property
    def printed(self) -> DataSet | None:
        """The data set of the paper that this is."""
        if self.paper:
            return self.paper
        known: tuple[DataSet, ...] = ("imagenet", "cifar10", "eurosat", "fashion_mnist")
        spelt = self.data.lower().replace("-", "_")
        return next((name for name in known if name in spelt), None)


class Subject:
    """The folds of a study, its models and what is asked of them.

    Args:
      study: the options.
      train: a way to train, in place of `study.train`.
      dataset: what is cut into folds, in place of the data that the study names.
      held_out: images of no fold, in place of those: the first half calibrates, the second
        measures accuracies.
    """

    def __init__(
        self,
        study: Study,
        *,
        train: Train | None = None,
        dataset: Any = None,
        held_out: Any = None,
    ):
        self.study = study
        self.store = Store(study.kept, study.progress)
        self.own_train = train or (_imported(study.train) if study.train else None)
        self._given, self._held_out = dataset, held_out
        self.key = jax.random.key(study.seed)

    @cached_property
    def dataset(self) -> Any:
        """What is cut into folds: images and labels."""
        chosen = self._parts[0]
        count = self.study.training_images
        if count is not None:
            takes = f"at most the {len(chosen)} there are"
            checks.require(count <= len(chosen), "training_images", count, takes)
            drawn = np.random.default_rng((self.study.seed, 0)).permutation(len(chosen))[:count]
            chosen = chosen.subset(np.sort(drawn))
        return decoded(chosen)

    @cached_property
    def calibration_data(self) -> Any:
        """Images of no fold, that calibrators are fitted on."""
        return first(self._half("calibration"), self.study.calibration_images, "calibration_images")

    @cached_property
    def test_data(self) -> Any:
        """Images of no fold, that accuracies are measured on."""
        return first(self._half("evaluation"), self.study.test_images, "test_images")

    def _half(self, split: str) -> Any:
        held_out = self._parts[1]
        if held_out is None:
            return self._load(split)
        return held_out.subset(half(len(held_out), split))

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        """What is cut into folds, and images of none where the data set has no other split."""
        if self._given is not None:
            return self._given, self._held_out
        whole, held_out = self._load(self.study.train_split), self.study.held_out_images
        if held_out is None:
            return whole, None
        takes = f"fewer than the {len(whole)} there are"
        checks.require(held_out < len(whole), "held_out_images", held_out, takes)
        sizes = (len(whole) - held_out, held_out)
        return tuple(
            whole.subset(part)
            for part in jc2i.data.disjoint_splits(len(whole), sizes, seed=self.study.seed)
        )

    def _load(self, split: str) -> Any:
        size = self.study.size
        return jc2i.data.load(
            self.study.data,
            split,
            size=None if size is None else (size, size),
            crop_fraction=self.study.crop_fraction,
        )

    @cached_property
    def folds(self) -> np.ndarray:
        """The fold of each image of the data set."""
        return stratified_folds(self.dataset.labels, self.study.k, seed=self.study.seed)

    @cached_property
    def explained(self) -> np.ndarray:
        """Which images are explained, in an order whose every beginning has equal parts of folds.

        In the data set the images of a class may stand together: within a fold they are shuffled.
        """
        takes = f"at most the {len(self.dataset)} that are cut into folds"
        checks.require(self.study.images <= len(self.dataset), "images", self.study.images, takes)
        shuffled = np.random.default_rng((self.study.seed, 2)).permutation(len(self.dataset))
        rank = np.empty(len(shuffled), int)
        for fold in range(self.study.k):
            own = shuffled[self.folds[shuffled] == fold]
            rank[own] = np.arange(len(own)) * self.study.k + fold
        return np.argsort(rank)[: self.study.images]

    @cached_property
    def images(self) -> np.ndarray:
        """The images explained, float32 in [0, 1]."""
        return jc2i.data.as_float(self.dataset[self.explained][0])

    @cached_property
    def labels(self) -> np.ndarray:
        """Their classes."""
        return np.asarray(self.dataset.labels)[self.explained].astype(np.int32)

    @cached_property
    def fold_of_image(self) -> np.ndarray:
        """Their folds."""
        return self.folds[self.explained]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.dataset.classes)

    @property
    def networks(self) -> tuple[Setting, ...]:
        """The models that nothing has spoilt."""
        has_two = self.own_train is None and self.study.lipschitz
        return (MODEL, LIPSCHITZ) if has_two else (MODEL,)

    def models(self, setting: Setting) -> list[Any]:
        """A model a fold, trained or read.

        Raises:
          ValueError: if what nothing has spoilt differs too much in its accuracy between folds.
        """
        if setting not in self._models:
            self._models[setting] = self._made(setting)
            if setting.kind is None:
                self._require_alike(setting)
        return self._models[setting]

    @cached_property
    def _models(self) -> dict[Setting, list[Any]]:
        return {}

    def _made(self, setting: Setting) -> list[Any]:
        if setting.kind == "noise":
            return [
                with_noise(
                    model,
                    setting.share,
                    seed=(self.study.seed, 3, fold),
                    noise_on=self.study.noise_on,
                )
                for fold, model in enumerate(self.models(Setting(setting.network)))
            ]
        dataset = self.dataset
        if setting.kind == "labels":
            wrong = inverted(
                dataset.labels, setting.share, classes=self.classes, seed=self.study.seed
            )
            dataset = dataclasses.replace(dataset, labels=wrong)
        train, depends = self._training(setting.network)
        # Many images stay encoded, and are told by their names.
        images = getattr(dataset.images, "names", dataset.images)
        kept = parallel.digest(images, dataset.labels, self.folds, self.key, depends)
        return cross_train(
            train,
            dataset,
            self.folds,
            key=self.key,
            folder=self.study.kept / "models" / f"{setting.name}-{kept}",
            progress=self.study.progress,
        )

    def _training(self, network: str) -> tuple[Train, Any]:
        """How a network is trained, and what that depends on."""
        if self.own_train is not None:
            return self.own_train, self.own_train
        study, constrained = self.study, network == LIPSCHITZ.network
        training = Training(
            out=Path(),
            data=self.dataset.name,
            model=study.model,
            option=study.option,
            epochs=study.epochs,
            learning_rate=study.learning_rate,
            batch_size=study.training_batch_size,
            optimizer=study.optimizer,
            weight_decay=study.weight_decay,
            augment=study.augment,
            seed=study.seed,
            checkpoint_every=1,
            # Folds that are trained side by side would write over each other's bars.
            progress=study.progress and len(jax.local_devices()) == 1,
        )
        if constrained:
            training = dataclasses.replace(
                training,
                model=str(study.lipschitz),
                option=study.lipschitz_option,
                epochs=study.lipschitz_epochs or study.epochs,
                learning_rate=study.lipschitz_learning_rate or study.learning_rate,
                loss_temperature=study.lipschitz_temperature,
            )
        train = DefaultTraining(training, self.dataset)
        return train, dataclasses.asdict(training) | {"progress": None}

    def _require_alike(self, setting: Setting) -> None:
        accuracies = self.accuracies(setting)
        spread = np.abs(accuracies - accuracies.mean()).max()
        got = f"accuracies of {', '.join(f'{a:.1%}' for a in accuracies)} ({setting.name})"
        takes = f"folds within {self.study.most_spread:.1%} of their mean, or a larger most_spread"
        checks.require(spread <= self.study.most_spread, "most_spread", got, takes)

    def test_logits(self, setting: Setting) -> np.ndarray:
        """Logits of the held-out images, [folds, images, classes]."""
        return self._logits(setting, self.test_data, "test")

    def calibration_logits(self, setting: Setting) -> np.ndarray:
        """Logits of the images that calibrators are fitted on, [folds, images, classes]."""
        return self._logits(setting, self.calibration_data, "calibration")

    def accuracies(self, setting: Setting) -> np.ndarray:
        """The accuracy of each fold's model on held-out images."""
        right = self.test_logits(setting).argmax(2) == self.test_data.labels
        return right.mean(axis=1)

    def _logits(self, setting: Setting, dataset: Any, split: str) -> np.ndarray:
        small = max(dataset.images.shape[1:3]) <= SMALL
        return np.stack(
            [
                self.store.map(
                    f"logits-{setting.name}-{split}",
                    parallel.on_each_device(forward),
                    models.Floats(dataset),
                    SMALL_BATCH if small else self.study.batch_size,
                    model=model,
                )
                for model in self.models(setting)
            ]
        )


def _imported(place: str) -> Callable[..., Any]:
    """The function that `file.py:function` names."""
    path, _, name = place.rpartition(":")
    takes = "file.py:function, with a function train(images, labels, key) -> model"
    checks.require(bool(path) and Path(path).is_file(), "train", place, takes)
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checks.require(callable(getattr(module, name, None)), "train", place, takes)
    return getattr(module, name)

"""Trains a classifier on any of the data sets and saves it.

The demo's model, an over-confident one (trained far beyond zero training loss, without decay),
takes less than a minute on two cores:

    python experiments/train.py --data digits --model small --out models/digits-small

A CIFAR-10 network (He et al. 2016, section 4.2) from an image folder or archive:

    python experiments/train.py --data cifar10.tar.xz --model resnet20_cifar --out models/resnet20 \
        --epochs 160 --batch-size 128 --learning-rate 0.1 --optimizer sgd --weight-decay 1e-4 \
        --augment

The ResNet-18 that Fel et al. train on Fashion-MNIST (MeGe and ReCo, appendix E):

    python experiments/train.py --data fashion_mnist.npz --model resnet18_cifar \
        --option base_filters=26 dropout=0.4 --out models/fashion --epochs 6 --batch-size 128 \
        --learning-rate 2e-3

and their 1-Lipschitz network (table 4), whose logits are small, so that the loss divides them:

    python experiments/train.py --data fashion_mnist.npz --model lipschitz --out models/lipschitz \
        --epochs 6 --batch-size 128 --learning-rate 5e-3 --loss-temperature 0.02

Fine-tuning starts from a saved or pretrained model, whose last layer is replaced by one for the
data set's classes and trained alone first. As Opti-CAM does (appendix E.2; it does not say for how
many epochs the last layer is trained, nor of a schedule) for a ResNet-50 and Kvasir:

    python experiments/train.py --data kvasir --size 224 224 --out models/kvasir \
        --weights models/resnet50 --head-epochs 10 --head-learning-rate 1e-4 \
        --epochs 50 --learning-rate 1e-5 --optimizer sgd --checkpoint-every 1

and as Calibrate to Interpret does (section 4, "Models") for an EfficientNet and Birds:

    python experiments/train.py --data caltech_birds2011 --size 224 224 --out models/birds \
        --weights models/efficientnet-b0 --epochs 100 --learning-rate 1e-4 --checkpoint-every 1

A run that was killed goes on from its last checkpoint when started again with the same
arguments, and ends with the same weights.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

if not __package__:  # run as a script, which finds only the modules beside it
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import experiments  # noqa: F401  first: see there

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float, UInt8

from experiments.common.provenance import provenance
from jc2i import calibrators, data, models, parallel, scores
from jc2i.caching import keep_compiled_programs
from jc2i.checks import Array, invalid, require
from jc2i.commands import run, unfinished
from jc2i.files import partial_of, replacing, try_writing_in, write_whole
from jc2i.models.checkpoint import checksums, read_arrays, write_arrays
from jc2i.options import from_words
from jc2i.tracing import prepared

_STATE, _DESCRIPTION = "state", "run.json"  # in a checkpoint's folder
Model = TypeVar("Model", bound=nnx.Module)

_DECODED_AT_ONCE = 2**30  # bytes; larger data sets are decoded batch by batch in every epoch


@dataclasses.dataclass(frozen=True)
class Training:
    """What to train, on what and how: the command line of this script."""

    out: Path
    """Folder for the model and its training.json."""
    data: str = "digits"
    """Name or path of the data set, as `jc2i.data.load` takes it."""
    model: str = "small"
    """Name of the architecture, as `jc2i.models.create` takes it; that of the weights if given."""
    option: tuple[str, ...] = ()
    """The architecture's own options, as name=value: base_filters=26 dropout=0.4."""
    weights: str | None = None
    """Model to start from, as `jc2i.models.load` takes it; its last layer is replaced."""
    head_epochs: int = 0
    """With weights: epochs that train the new last layer alone, before those of all layers."""
    head_learning_rate: float = 1e-3
    """Highest learning rate of those epochs."""
    train_split: str = "train"
    """Split to train on."""
    held_out_split: str = "test"
    """Split to report the accuracy on."""
    size: tuple[int, int] | None = None
    """Height and width in pixels to resize the images to; None for those that the weights need."""
    crop_fraction: float | None = None
    """Keep the aspect and the centre of the images, as `jc2i.data.load` does."""
    data_dir: Path | None = None
    """Folder of data sets prepared by TFDS."""
    epochs: int = 400
    """Passes over the training images that train all layers."""
    learning_rate: float = 1e-2
    """Highest learning rate; reached after 5 % of the steps, then a cosine down to 0."""
    batch_size: int = 100
    """Images a step."""
    seed: int = 0
    """Chooses the first weights, the order of the images and their augmentation."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Adam, or gradient descent with Nesterov momentum 0.9."""
    loss_temperature: float = 1.0
    """What logits are divided by in the loss: below 1 for networks whose logits cannot grow."""
    weight_decay: float = 0.0
    """Decay of the weights: of their gradient's penalty for sgd, decoupled (AdamW) for adam."""
    augment: bool = False
    """Pad, crop and mirror at random: for natural images, not for digits."""
    permute_labels: bool = False
    """Train on the labels of other images, drawn at random: a model that knows the images and not
    what relates them to their labels, for the data randomization test of explanations."""
    checkpoint_every: int = 50
    """Epochs between checkpoints."""
    overwrite: bool = False
    """Replace a model that is at `out` already."""
    progress: bool = True
    """Show a progress bar with the time left."""
    distributed: bool = False
    """Compute with the other processes of a cluster, each of which runs this command."""


def train(training: Training) -> dict[str, Any]:
    """Trains a model by cross-entropy and saves it, going on from a checkpoint if there is one.

    Args:
      training: what to train, on what and how.

    Returns:
      What is written to training.json: the arguments, where the result comes from, and the
      accuracy and mean confidence on training and held-out images.

    Raises:
      FileExistsError: there is something at `out`.
      ValueError: an argument is out of range, the checkpoint is another run's, or the loss left
        the finite numbers.
    """
    for argument in (
        "epochs", "batch_size", "learning_rate", "head_learning_rate", "loss_temperature",
        "checkpoint_every",
    ):  # fmt: skip
        got = getattr(training, argument)
        require(got > 0, argument, got, "a number above 0")
    alone = training.head_epochs
    within = alone >= 0 if training.weights else alone == 0
    require(within, "head_epochs", alone, "0, or more with weights to start from")
    own = from_words(training.option)
    require(not (own and training.weights), "option", training.option, "none with weights")
    for name in ("classes", "channels"):
        require(name not in own, "option", repr(name), "no number that the data set decides")
    checkpoint = training.out.with_name(f"{training.out.name}.checkpoint")
    # A model without its training.json, beside a checkpoint, is of a run killed while saving.
    finished = (training.out / "training.json").exists() or _newest(checkpoint) is None
    if training.out.exists() and finished and not training.overwrite:
        raise FileExistsError(f"out: {training.out} exists: pass --overwrite to replace a model")
    if parallel.is_first():
        try_writing_in(training.out.parent)
    start = models.load(training.weights) if training.weights else None
    load = functools.partial(
        data.load,
        training.data,
        size=training.size or ((start.size, start.size) if start and start.size else None),
        crop_fraction=training.crop_fraction,
        channels=start.channels if start else None,
        data_dir=training.data_dir,
    )
    train_images, held_out = decoded(load(training.train_split)), load(training.held_out_split)
    if training.permute_labels:
        permuted = np.random.default_rng((training.seed, 1)).permutation(train_images.labels)
        train_images = dataclasses.replace(train_images, labels=permuted)
    model = fit(new_model(training, start, train_images), train_images, training, checkpoint)
    performed = functools.partial(performance, temperature=training.loss_temperature)
    record = {
        # Without the paths of the machine that it ran on.
        "arguments": _run(training)
        | {"data": train_images.name, "data_dir": None, "model": model.architecture}
        | {"weights": training.weights and Path(training.weights).name},
        "provenance": provenance(),
        training.train_split: performed(model, train_images),
        training.held_out_split: performed(model, held_out),
    }
    if parallel.is_first():
        models.save(model, training.out, overwrite=True)
        write_whole(training.out / "training.json", (json.dumps(record, indent=2) + "\n").encode())
        _discard(checkpoint)
    return record


def fit(
    model: Model,
    dataset: data.Dataset,
    training: Training,
    checkpoint: Path,
    devices: Sequence[jax.Device] | None = None,
) -> Model:
    """Minimises the mean cross-entropy, one compiled step at a time.

    The loop is on the host: inside a compiled one, the gradients of convolutions are several
    times slower on CPU. While the last layer trains alone, the others are as in evaluation: batch
    norms neither use nor change the statistics of the batch, and only the last layer's gradient is
    computed.

    Each step's images are split over the devices, as many of them as divide their number, and the
    weights are on each: statistics and gradients are those of the whole batch, however many there
    are, but for the order of adding.

    Args:
      model: where to start, with the mode switches `train()` and `eval()`; left in training mode,
        unless what is trained is another module (`Classifier.trainable`). A `Classifier`, if its
        last layer is to be trained alone.
      dataset: the training images.
      training: how to train.
      checkpoint: folder to go on from if it is there, and to write to every few epochs.
      devices: what to compute on; None for all of this host.

    Returns:
      The trained model in evaluation mode.

    Raises:
      ValueError: the checkpoint is another run's or damaged, or the loss is not finite.
    """
    batch_size = min(training.batch_size, len(dataset))
    steps = len(dataset) // batch_size
    make = functools.partial(_optimizer, training.optimizer, training.weight_decay)
    optimizer = make(training.learning_rate, training.epochs * steps)
    head_optimizer = make(training.head_learning_rate, training.head_epochs * steps)
    moved: Any = model.trainable() if isinstance(model, models.Classifier) else model
    evaluated = nnx.graphdef(moved)
    moved.train()
    # A pure state: a module merged from it cannot write to the one given.
    graph, *parts = nnx.split(moved, _is_head(model, training), nnx.Param, ...)
    head, body, statistics = nnx.as_pure(parts)
    # Of one structure in every epoch, so that a checkpoint is read without knowing its epoch.
    state = (head, body, statistics, head_optimizer.init([head]), optimizer.init([head, body]))
    first, state = _restore(checkpoint, training, state)
    mesh = _dividing(batch_size, _devices() if devices is None else devices)
    state = parallel.replicate(state, mesh)
    head, body, statistics, head_moments, moments = state
    key = jax.random.key(training.seed)
    temperature = jnp.float32(training.loss_temperature)

    for epoch, report in _epochs(first, training):
        random = np.random.default_rng((training.seed, epoch))  # so that a resumed run agrees
        order, losses = random.permutation(len(dataset)), []
        epoch_key = jax.random.fold_in(key, epoch)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            some = order[start : start + batch_size]
            images, labels = parallel.own_part(dataset.__getitem__, some, mesh)
            if training.augment:
                images = augment(images, random)
            images, labels = parallel.shard((data.as_float(images), labels), mesh)
            drawn = (jax.random.fold_in(epoch_key, start), temperature, images, labels)
            if epoch < training.head_epochs:
                fixed = [body, statistics]
                [head], _, head_moments, value = _step(
                    evaluated, head_optimizer, [head], fixed, head_moments, *drawn
                )
            else:
                [head, body], statistics, moments, value = _step(
                    graph, optimizer, [head, body], [statistics], moments, *drawn
                )
            losses.append(value)
        mean_loss = float(np.mean(jax.device_get(losses)))
        if not np.isfinite(mean_loss):
            argument = "head_learning_rate" if epoch < training.head_epochs else "learning_rate"
            raise invalid(
                argument,
                f"{getattr(training, argument)}, and a loss of {mean_loss} in epoch {epoch + 1}",
                "a smaller one",
            )
        if (epoch + 1) % training.checkpoint_every == 0 or epoch + 1 == _all_epochs(training):
            state = (head, body, statistics, head_moments, moments)
            if parallel.is_first():
                save_checkpoint(checkpoint, training, epoch + 1, state)
        report(mean_loss)
    # Off the mesh, so that the model can be used on any device.
    state = jax.tree.map(jnp.asarray, jax.device_get([head, body, statistics]))
    trained: Any = nnx.merge(evaluated, *state)
    if isinstance(trained, models.Constrained):
        trained = cast(Any, trained.finished())
    return trained


def _devices() -> Sequence[jax.Device]:
    return jax.devices() if jax.process_count() > 1 else jax.local_devices()


def _dividing(batch_size: int, devices: Sequence[jax.Device]) -> Mesh:
    """A mesh of as many of the devices as divide the images of a step, as many of each process."""
    by_process: dict[int, list[jax.Device]] = {}
    for device in devices:
        by_process.setdefault(device.process_index, []).append(device)
    processes = len(by_process)
    takes = f"a multiple of the run's {processes} processes"
    require(batch_size % processes == 0, "batch_size", batch_size, takes)
    most = min(map(len, by_process.values()))
    count = max(n for n in range(1, most + 1) if batch_size % (n * processes) == 0)
    return parallel.mesh([device for own in by_process.values() for device in own[:count]])


def _is_head(model: Any, training: Training) -> Callable[[tuple[Any, ...], Any], bool]:
    names = models.head_names(model) if training.head_epochs else ()
    # In the module that trains it, a model is `model`.
    return lambda path, _: ".".join(map(str, path)).removeprefix("model.") in names


@functools.partial(
    jax.jit, static_argnames=("graph", "optimizer"), donate_argnames=("trained", "moments")
)
def _step(
    graph: Any,
    optimizer: optax.GradientTransformation,
    trained: list[Any],
    fixed: list[Any],
    moments: Any,
    key: jax.Array,
    temperature: jax.Array,
    images: Array,
    labels: Array,
) -> tuple[Any, Any, Any, jax.Array]:
    """Moves the trained weights; also gives the batch statistics, the moments and the loss."""

    def loss(trained: list[Any]) -> tuple[jax.Array, Any]:
        # A pure function of the images, as the batch statistics must leave it as results.
        def forward(images: Array) -> tuple[jax.Array, Any]:
            model = nnx.merge(graph, *trained, *fixed)
            logits = model(images, key) if getattr(model, "draws", False) else model(images)
            return logits, nnx.as_pure(nnx.state(model, nnx.Not(nnx.Param)))

        logits, statistics = prepared(forward, training=True)(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits / temperature, labels)
        return losses.mean(), statistics

    (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
    updates, moments = optimizer.update(gradient, moments, trained)
    return optax.apply_updates(trained, updates), statistics, moments, value


def augment(
    images: UInt8[np.ndarray, "batch h w c"] | Float[np.ndarray, "batch h w c"],
    random: np.random.Generator,
) -> UInt8[np.ndarray, "batch h w c"] | Float[np.ndarray, "batch h w c"]:
    """Images padded by an eighth with zeros, cropped at random places, half of them mirrored.

    He et al. 2016, section 4.2: 4 pixels at 32x32.

    Args:
      images: the batch.
      random: source of the places and of the mirroring.

    Returns:
      As many images of the same size.
    """
    batch, height, width, _ = images.shape
    tall, wide = height // 8, width // 8
    padded = np.pad(images, ((0, 0), (tall, tall), (wide, wide), (0, 0)))
    tops, lefts = random.integers(0, 2 * tall + 1, batch), random.integers(0, 2 * wide + 1, batch)
    cropped = np.stack(
        [
            image[top : top + height, left : left + width]
            for image, top, left in zip(padded, tops, lefts, strict=True)
        ]
    )
    mirrored = random.random(batch) < 0.5
    cropped[mirrored] = cropped[mirrored, :, ::-1]
    return cropped


def performance(
    model: Any, dataset: data.Dataset, batch_size: int = 256, temperature: float = 1.0
) -> dict[str, float]:
    """Accuracy and mean confidence of a model on a data set.

    Args:
      model: a pytree `images -> logits`.
      dataset: images and labels.
      batch_size: images at a time, on each device of this host.
      temperature: what the logits are divided by for the confidence.

    Returns:
      `images` (their number), `accuracy` and `confidence` (mean of the largest probability), both
      in [0, 1].
    """
    predicted, confidences = parallel.map_batches(
        parallel.on_each_device(_predict),
        models.Floats(dataset),
        batch_size,
        model=scores.probabilities(model, calibrators.Temperature(temperature)),
        mesh=parallel.mesh(_devices()),
        progress=False,
    )
    return {
        "images": len(dataset),
        "accuracy": float(np.mean(predicted == dataset.labels)),
        "confidence": float(np.mean(confidences, dtype=np.float64)),
    }


def _predict(model: Any, images: Array) -> tuple[jax.Array, jax.Array]:
    probabilities = prepared(model)(images)
    return probabilities.argmax(1), probabilities.max(1)


def save_checkpoint(folder: Path, training: Training, epochs: int, state: Any) -> None:
    """Writes the state after some epochs, whole or not at all, then drops the ones before.

    Args:
      folder: where to write it, as a folder named by the number of epochs.
      training: the run that the state is of.
      epochs: how many epochs are done.
      state: a pytree of arrays.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {f"leaf{i}": leaf for i, leaf in enumerate(jax.device_get(jax.tree.leaves(state)))}
    finished = folder / str(epochs)
    with replacing(finished) as new:
        new.mkdir()
        write_arrays(new / _STATE, leaves)
        description = {"run": _run(training), "files": checksums(new / _STATE)}
        (new / _DESCRIPTION).write_text(json.dumps(description))
    for other in folder.iterdir():
        if other != finished:
            shutil.rmtree(other)


def _newest(folder: Path) -> Path | None:
    """The checkpoint to go on from; hidden ones were not finished."""
    finished = [path for path in folder.glob("[0-9]*") if path.is_dir()]
    return max(finished, key=lambda path: int(path.name), default=None)


def _discard(folder: Path) -> None:
    # Moved first: a run killed while it deletes leaves no half of a checkpoint behind.
    if folder.exists():
        moved = partial_of(folder)
        with unfinished(moved):
            folder.rename(moved)


def _restore(folder: Path, training: Training, state: Any) -> tuple[int, Any]:
    """The epochs that are done and their state, as the first process finds them."""
    if jax.process_count() == 1:
        return _restored(folder, training, state)
    from jax.experimental import multihost_utils

    found = _restored(folder, training, state) if parallel.is_first() else (0, state)
    epochs, state = multihost_utils.broadcast_one_to_all(found)
    return int(epochs), state


def _restored(folder: Path, training: Training, state: Any) -> tuple[int, Any]:
    path = _newest(folder.absolute())
    if path is None:
        return 0, state
    try:
        description = json.loads((path / _DESCRIPTION).read_text())
        run, files = description["run"], description["files"]
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path) from error
    if files != checksums(path / _STATE):
        raise _damaged(path)
    changed = {name: value for name, value in _run(training).items() if run.get(name) != value}
    if changed:
        got = ", ".join(
            f"{name} {value!r} (was {run.get(name)!r})" for name, value in changed.items()
        )
        raise invalid(
            "out",
            f"the checkpoint {path} of another run: {got}",
            "the same arguments, or no checkpoint there",
        )
    stored = read_arrays(path / _STATE)
    leaves, structure = jax.tree.flatten(state)
    arrays = [jnp.asarray(stored[f"leaf{i}"]) for i in range(len(leaves))]
    return int(path.name), jax.tree.unflatten(structure, arrays)


def _damaged(path: Path) -> ValueError:
    return invalid("out", f"a damaged checkpoint {path}", "a whole one, or none")


def _run(training: Training) -> dict[str, Any]:
    """The arguments that the weights depend on."""
    others = {"out", "held_out_split", "checkpoint_every", "overwrite", "progress", "distributed"}
    return {name: value for name, value in _arguments(training).items() if name not in others}


def _arguments(training: Training) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(training), default=str))


def decoded(dataset: data.Dataset) -> data.Dataset:
    """The data set with its images as an array, where memory is no matter."""
    if np.prod(dataset.images.shape, dtype=np.int64) > _DECODED_AT_ONCE:
        return dataset
    return dataclasses.replace(dataset, images=np.asarray(dataset.images))


def new_model(
    training: Training, start: models.Classifier | None, dataset: data.Dataset
) -> models.Classifier:
    """The model that a training starts from.

    Args:
      training: what to train; its seed draws the weights.
      start: a model whose last layer is replaced, or None for a new one.
      dataset: images whose mean and deviation a new model normalises by, and their classes.

    Returns:
      A model in evaluation mode.
    """
    key = jax.random.key(training.seed)
    if start is not None:
        return models.with_new_head(start, classes=len(dataset.classes), key=key)
    _, height, _, channels = dataset.images.shape
    some = np.random.default_rng(training.seed).permutation(len(dataset))[:5000]
    pixels = data.as_float(dataset[some][0]).reshape(-1, channels).astype(np.float64)
    options = {"mean": pixels.mean(0).round(4).tolist(), "std": pixels.std(0).round(4).tolist()}
    if training.model == "lipschitz":
        options = {}  # any normalisation would be part of its slope
    if training.model in ("small", "lipschitz"):
        options["size"] = height
    options |= from_words(training.option)
    return models.create(
        training.model, classes=len(dataset.classes), key=key, channels=channels, **options
    )


@functools.lru_cache  # the same object for the same run, so that its step is compiled once
def _optimizer(
    name: str, weight_decay: float, learning_rate: float, steps: int
) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, steps // 20, max(steps, 1))
    if name == "adam":
        return optax.adamw(rate, weight_decay=weight_decay)
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum=0.9, nesterov=True)
    )


def _all_epochs(training: Training) -> int:
    return training.head_epochs + training.epochs


def _epochs(first: int, training: Training) -> Iterator[tuple[int, Callable[[float], None]]]:
    """The epochs left, each with a function that shows its loss."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=Console(stderr=True),
        disable=not (training.progress and parallel.is_first()),
    ) as progress:
        task = progress.add_task("training", total=_all_epochs(training), completed=first)
        for epoch in range(first, _all_epochs(training)):
            yield (
                epoch,
                lambda loss: progress.update(
                    task, advance=1, description=f"training, loss {loss:.4f}"
                ),
            )


def main() -> None:
    """Runs the command line."""
    import tyro

    keep_compiled_programs()
    training = tyro.cli(Training, description=__doc__)
    run(lambda: _train_and_print(training))


def _train_and_print(training: Training) -> None:
    with parallel.together(training.distributed):
        record = train(training)
        first = parallel.is_first()
    if not first:
        return
    for split in (training.train_split, training.held_out_split):
        figures = record[split]
        print(
            f"{split}: accuracy {figures['accuracy']:.4f}, confidence {figures['confidence']:.4f} "
            f"({figures['images']} images)"
        )
    print(f"saved to {training.out}")


if __name__ == "__main__":
    main()

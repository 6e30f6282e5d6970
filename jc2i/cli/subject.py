"""What a command line names: a model, its calibrator, a device, an explainer with its options."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from jc2i import (
    calibrators,
    checks,
    data,
    explainers,
    files,
    models,
    parallel,
    query,
    scores,
    tracing,
)
from jc2i.options import from_words

DEFAULT_BATCH = 32
"""Model evaluations at a time, where memory allows."""

MEMORY = 2**28
"""Bytes that the gradients in flight may take, about."""

DEFAULT_SIZE = 224
"""Height and width of the images of a model that takes any."""

DEFAULT_CROP_FRACTION = 0.875
"""The share of the shorter side that is kept, where the model's own is not known."""

SMALLEST, LARGEST = 8, 8192
"""Fewest and most pixels on a side of an image that is explained."""

SEEDS = 2**32
"""Seeds that differ: of a larger number JAX keeps the last 32 bits."""

LONGEST_LINE = 1000
"""Bytes of a class's name, on average."""

IMAGENET = "efficientnet-lite0"
"""A pretrained name whose classes are ImageNet's."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """The options that every command has."""

    model: str = "efficientnet-lite0"
    """Pretrained name, folder of a saved model, or, with --weights, an architecture."""
    weights: Path | None = None
    """PyTorch or safetensors file with the architecture's weights."""
    classes: int = 1000
    """Classes of the weights' file."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Channel means that the weights of the file were trained with."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Channel standard deviations that the weights of the file were trained with."""
    class_names: Path | None = None
    """Text file with the name of a class on each line."""
    folders: Path | None = None
    """Text file with the folder of each class on a line, for labelled folders that do not have
    them all; default: ImageNet's for a model of 1,000 classes, else all the folders, sorted."""
    size: int | None = None
    """Height and width that images are resized to; default: the model's own."""
    resize: Literal["crop", "squash"] = "crop"
    """Bring the shorter side near the size and cut out the centre, as the model was evaluated; or
    squash the image, whatever its aspect."""
    calibration: str | None = None
    """Fitted calibrator (a file), or a labelled folder or archive to fit one on."""
    calibrator: Literal["temperature", "vector_scaling", "dirichlet"] = "temperature"
    """Which calibrator is fitted."""
    save_calibrator: Path | None = None
    """File for the calibrator that is fitted."""
    score: Literal["probability", "logit"] = "probability"
    """What is explained: the calibrated probability of a class, or its calibrated logit."""
    option: tuple[str, ...] = ()
    """Options of the explainer, as name=value: masks=1000, steps=300, channels=None."""
    layer: str | None = None
    """Named activation that the cam methods look at; default: the last one on a grid."""
    batch_size: int | None = None
    """Most model evaluations at a time on a device; default: 32, or as many as a quarter of a
    gigabyte of a gradient's values allows."""
    max_pixels: int | None = None
    """Most pixels of an image file that are decoded; default: 25 million."""
    max_bytes: int | None = None
    """Most bytes that the weights, model, calibrator or archive of labelled images may take;
    default: of each its own (SECURITY.md)."""
    device: str | None = None
    """cpu, gpu or tpu; default: the best there is, and all of its kind."""
    seed: int = 0
    """Seed of the explainers that need one."""
    overwrite: bool = False
    """Replace files of an earlier run."""
    progress: bool = True
    """Show progress on standard error."""


def check(options: Subject) -> None:
    """Refuses, before any work, options that are out of range or files that cannot be written."""
    if options.size is not None:
        fits = SMALLEST <= options.size <= LARGEST
        takes = f"a whole number from {SMALLEST} to {LARGEST}"
        checks.require(fits, "size", options.size, takes)
    if options.batch_size is not None:
        checks.count(batch_size=options.batch_size)
    checks.count(classes=options.classes)
    checks.count(**limits(options))
    takes = f"a whole number from 0 to {SEEDS - 1}"
    checks.require(0 <= options.seed < SEEDS, "seed", options.seed, takes)
    if options.save_calibrator is not None:
        fits = options.calibration is not None and not _is_calibrator(Path(options.calibration))
        takes = "--calibration with labelled images to fit one on"
        checks.require(fits, "save_calibrator", str(options.save_calibrator), takes)
        refuse_existing(options.save_calibrator, options.overwrite)
        files.try_writing_in(options.save_calibrator.parent)


def limits(options: Subject, *names: str) -> dict[str, Any]:
    """Those of `max_pixels` and `max_bytes` that are given, as what reads files takes them."""
    given = {"max_pixels": options.max_pixels, "max_bytes": options.max_bytes}
    wanted = {name: given[name] for name in names or given}
    return {name: most for name, most in wanted.items() if most is not None}


def load_model(options: Subject) -> models.Classifier:
    """The model that the options name."""
    if options.weights is None:
        return models.load(options.model, **limits(options, "max_bytes"))
    return models.from_torch(
        options.model,
        options.weights,
        classes=options.classes,
        mean=options.mean,
        std=options.std,
        **limits(options, "max_bytes"),
    )


def resizing(options: Subject, model: models.Classifier) -> dict[str, Any]:
    """How images get the model's size, as `data.load` and `data.read_image` take it."""
    if options.weights is None and options.model in models.PRETRAINED:
        found = models.published_resizing(options.model, options.size or model.size)
    else:
        side = options.size or model.size or DEFAULT_SIZE
        found = {
            "size": (side, side),
            "crop_fraction": DEFAULT_CROP_FRACTION,
            "interpolation": "bicubic",
        }
    return found | ({"crop_fraction": None} if options.resize == "squash" else {})


def class_names(options: Subject, model: models.Classifier) -> Sequence[str]:
    """What to call each class of the model."""
    if options.class_names is not None:
        return _lines("class_names", options.class_names, model.classes)
    if name := _published(options, model):
        return models.class_names(name)
    return [f"class {index}" for index in range(model.classes)]


def labelled(
    options: Subject, model: models.Classifier, path: str | Path, split: str
) -> data.Dataset:
    """A labelled data set whose labels are the model's classes."""
    load = functools.partial(data.load, path, split, **resizing(options, model), **limits(options))
    if options.folders is not None:
        return load(classes=_lines("folders", options.folders, model.classes))
    name = _published(options, model)
    if name and (folders := models.published_classes(name, path)):
        return load(**folders)
    dataset = load()
    if len(dataset.classes) != model.classes:
        got = f"{len(dataset.classes)} classes in {path}"
        raise checks.invalid(
            "folders", got, f"the model's {model.classes}, or a file that lists them"
        )
    return dataset


def _published(options: Subject, model: models.Classifier) -> str | None:
    """A pretrained name with the model's classes, if they are a published data set's."""
    if options.weights is None and options.model in models.PRETRAINED:
        return options.model
    return IMAGENET if model.classes == 1000 else None


def _lines(argument: str, path: Path, count: int) -> list[str]:
    try:
        lines = files.read(path, argument, count * LONGEST_LINE, "").decode().splitlines()
    except UnicodeDecodeError:
        raise checks.invalid(argument, f"{path}, which is no text", "a text file") from None
    takes = f"one for each of the model's {count} classes"
    checks.require(len(lines) == count, argument, f"{len(lines)} lines in {path}", takes)
    return lines


def logits(
    options: Subject,
    model: models.Classifier,
    dataset: data.Dataset,
    devices: Mesh | None,
    resume: Path | None = None,
) -> np.ndarray:
    """The model's logits of a data set's images, finished batches of which may be kept."""
    return parallel.map_batches(
        parallel.on_each_device(lambda model, images: tracing.prepared(model)(images)),
        models.Floats(dataset),
        options.batch_size or DEFAULT_BATCH,
        model=model,
        mesh=devices,
        progress=options.progress and "scores",
        resume=resume and resume / "scores",
    )


def load_calibrator(
    options: Subject, model: models.Classifier, devices: Mesh | None, resume: Path | None = None
) -> Any:
    """The calibrator that the options name, fitted if need be; None for none."""
    if options.calibration is None:
        return None
    path = Path(options.calibration)
    if _is_calibrator(path):
        return _fitting(calibrators.load(path, **limits(options, "max_bytes")), model)
    return fit_calibrator(options, model, labelled(options, model, path, "all"), devices, resume)


def _is_calibrator(path: Path) -> bool:
    """Whether a path of `--calibration` is a fitted calibrator, and not labelled images."""
    return path.is_file() and ".tar" not in path.suffixes


def _fitting(calibrator: Any, model: models.Classifier) -> Any:
    shape = jax.ShapeDtypeStruct((1, model.classes), "float32")
    try:
        jax.eval_shape(calibrator, shape)
    except (TypeError, ValueError):
        got = f"a {type(calibrator).__name__} fitted for another number of classes"
        raise checks.invalid("calibration", got, f"one for {model.classes} classes") from None
    return calibrator


def fit_calibrator(
    options: Subject,
    model: models.Classifier,
    holdout: data.Dataset,
    devices: Mesh | None,
    resume: Path | None = None,
) -> Any:
    """A calibrator fitted on labelled images."""
    fit = getattr(calibrators, f"fit_{options.calibrator}")
    return fit(logits(options, model, holdout, devices, resume), holdout.labels)


def keep_calibrator(options: Subject, calibrator: Any) -> None:
    """Keeps a fitted calibrator if asked for: last, so that a killed run can be made again."""
    if options.save_calibrator is not None:
        options.save_calibrator.parent.mkdir(parents=True, exist_ok=True)
        calibrators.save(calibrator, options.save_calibrator)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises if there is something at a path that is to be written."""
    files.require_replaceable(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: pass --overwrite to replace it")


def score_of(options: Subject, model: models.Classifier, calibrator: Any) -> Any:
    """What is explained: a callable pytree images -> scores."""
    compose = {"probability": scores.probabilities, "logit": scores.logits}[options.score]
    return compose(model, calibrator)


@functools.cache
def methods() -> tuple[str, ...]:
    """The explainers by the names that the command line gives them."""
    return tuple(name.replace("_", "-") for name in query.methods(explainers))


def in_flight(options: Subject, model: models.Classifier) -> int:
    """Model evaluations at a time: as asked, or what memory allows."""
    if options.batch_size is not None:
        return options.batch_size
    image = jax.ShapeDtypeStruct((1, *resizing(options, model)["size"], model.channels), "float32")
    return int(np.clip(MEMORY // tracing.bytes_of_gradient(model, image), 1, DEFAULT_BATCH))


def bounded(method: Any, together: int) -> Any:
    """An explainer of `explainer` with as many evaluations in flight as there may be."""
    if "batch_size" in method.keywords:
        return method
    return functools.partial(method, batch_size=together)


def explainer(method: str, options: Subject) -> Callable:
    """An explainer by name, or by module:function, with the command line's options."""
    function = _found(method)
    known = query.method_of(function).kinds
    given = from_words(options.option, known)
    takes = f"one of {', '.join((*known, 'batch_size'))} (the options of {method})"
    for name in given:
        checks.require(name in (*known, "batch_size"), "option", repr(name), takes)
    if options.layer is not None and "layer" in known:
        given["layer"] = options.layer
    return functools.partial(function, **given)


def _found(method: str) -> Callable:
    module, colon, name = method.partition(":")
    if not colon:
        checks.one_of("method", method, methods())
        return getattr(explainers, method.replace("-", "_"))
    sys.path.insert(0, os.getcwd())  # as for `python -m`: a module beside the photographs
    try:
        function = getattr(importlib.import_module(module), name)
        query.method_of(function)
    except Exception as error:  # a module that is not there, or whatever one raises
        takes = "module:function, a function decorated with jc2i.query.explainer"
        why = files.one_line(f"{type(error).__name__}: {error}")
        raise checks.invalid("method", f"{method!r} ({why})", takes) from error
    finally:
        sys.path.pop(0)
    return function


@contextlib.contextmanager
def computing_on(device: str | None) -> Iterator[Mesh | None]:
    """Runs on the devices of one kind, over all of them if there are several."""
    try:
        checks.require(device != "", "device", device, "cpu, gpu or tpu")
        found = jax.devices() if device is None else jax.devices(device)
    except RuntimeError:
        kinds = sorted({other.platform for other in jax.devices()})
        raise checks.invalid("device", repr(device), f"one of {', '.join(kinds)}") from None
    own = [other for other in found if other.process_index == jax.process_index()]
    with jax.default_device(own[0]):
        yield parallel.mesh(found) if len(found) > 1 else None

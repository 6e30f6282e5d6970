"""`jc2i explain`: photographs in, an overlay and a raw map of each out."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from jc2i import checks, data, models, parallel, plots, query
from jc2i.cli import subject
from jc2i.files import write_whole

LONG = 100
"""Evaluations of the model that are announced before they are made."""

WATCHED = 1000
"""Evaluations from which progress within a batch is worth compiling a program that is not kept."""

SMALLEST = 8
"""Fewest pixels on a side of an image that is worth explaining."""


@dataclasses.dataclass(frozen=True)
class Explain(subject.Subject):
    """Options of `jc2i explain`."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Image files, or folders of them."""
    method: str = "grad-cam"
    """Explainer: grad-cam, rise, integrated-gradients, ... (an unknown name lists them all)."""
    out: Path = Path(".")
    """Folder for <image>.<method>.png and <image>.<method>.npy."""
    target: str | None = None
    """Class to explain, by name or number; default: each image's predicted class."""
    top: int = 5
    """Classes to print."""


def explain(options: Explain) -> int:
    """Explains each image that can be; says on standard error why the others cannot.

    Args:
      options: what to explain, and how.

    Returns:
      0, or 1 if an image could not be explained.

    Raises:
      ValueError: nothing can be done as asked: an unknown method or layer, say.
      OSError: a file is not there, or cannot be written.
    """
    checks.count(top=options.top)
    subject.check_saving(options)
    method = subject.explainer(options.method, options)
    paths = _image_files(options.images)
    with subject.computing_on(options.device) as devices:
        model = subject.load_model(options)
        together = subject.in_flight(options, model)
        method = subject.bounded(method, together)
        names = subject.class_names(options, model)
        target = None if options.target is None else _class_of(options.target, names)
        _check_layer(options, method, model)
        calibrator = subject.load_calibrator(options, model, devices)
        outputs = _outputs(options, paths)
        chosen, images, resizing = [], [], subject.resizing(options, model)
        for path in paths:
            try:
                _refuse_existing(outputs[path], options.overwrite)
                images.append(_read(path, channels=model.channels, **resizing))
                chosen.append(path)
            except (ValueError, OSError) as error:
                print(f"jc2i: {_reason(error)}", file=sys.stderr)
        if images:
            pixels = data.as_float(np.stack(images))
            logits = subject.logits(options, model, pixels, devices)
            probabilities = np.asarray(
                jax.nn.softmax(logits if calibrator is None else calibrator(logits))
            )
            targets = probabilities.argmax(1) if target is None else np.full(len(images), target)
            score = subject.score_of(options, model, calibrator)
            long = _announce(options, method, pixels.shape)
            maps = parallel.map_batches(
                lambda score, images, targets, keys: method(score, images, targets, key=keys),
                (pixels, targets.astype(np.int32)),
                together,
                model=score,
                key=jax.random.key(options.seed),
                mesh=devices,
                progress=options.progress and options.method,
                watched=long,
            )
            options.out.mkdir(parents=True, exist_ok=True)
            for i, path in enumerate(chosen):
                title = f"{names[targets[i]]}, {probabilities[i][targets[i]]:.0%}"
                _write(outputs[path], pixels[i], maps[i], title)
            # After the last file: a reader of the output that goes away stops nothing else.
            for i, path in enumerate(chosen):
                _show(path, outputs[path], probabilities[i], int(targets[i]), names, options.top)
    return 0 if len(chosen) == len(paths) else 1


def _announce(options: Explain, method: Any, shape: tuple[int, ...]) -> bool:
    """Says how long the work is before it begins, where it is long; whether to watch it."""
    asked = {k: v for k, v in method.keywords.items() if k != "batch_size"}
    cost = query.method_of(method).cost(shape, **asked)
    evaluations = shape[0] * (cost.forward + cost.gradient)
    if options.progress and evaluations >= LONG:
        kind = "gradients" if cost.gradient > cost.forward else "evaluations"
        text = f"jc2i: {options.method}: {evaluations:,} {kind} of the model for {shape[0]} images"
        print(text, file=sys.stderr)
    # A gradient takes about as long as three evaluations; a layer has hundreds of features.
    by_feature = cost.forward_a_feature or cost.behind_a_feature
    return bool(by_feature) or shape[0] * (cost.forward + 3 * cost.gradient) >= WATCHED


def _image_files(given: Sequence[Path]) -> list[Path]:
    """The image files of the command line, those of its folders sorted."""
    checks.require(bool(given), "images", "none", "image files, or folders of them")
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if data.is_image_name(p))
            checks.require(bool(found), "images", f"{path}, which holds no image", "images")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return list(dict.fromkeys(files))


def _class_of(text: str, names: Sequence[str]) -> int:
    if text.isdecimal():
        takes = f"0 to {len(names) - 1}, or the name of a class"
        checks.require(int(text) < len(names), "target", text, takes)
        return int(text)
    exact = [i for i, name in enumerate(names) if name.casefold() == text.casefold()]
    found = exact or [i for i, name in enumerate(names) if text.casefold() in name.casefold()]
    listed = ", ".join(names[i] for i in found[:5]) or "no class that is called so"
    takes = f"0 to {len(names) - 1}, or the name of one class ({listed})"
    checks.require(len(found) == 1, "target", repr(text), takes)
    return found[0]


def _check_layer(options: Explain, method: Any, model: models.Classifier) -> None:
    """Refuses an unknown layer before a calibrator is fitted or an image is read."""
    if options.layer is None:
        return
    takes_one = "layer" in method.keywords
    checks.require(takes_one, "layer", repr(options.layer), f"none ({options.method} has no layer)")
    shape = (1, *subject.resizing(options, model)["size"], model.channels)
    images = jax.ShapeDtypeStruct(shape, "float32")
    score = subject.score_of(options, model, None)
    jax.eval_shape(lambda x: method.func(score, x, np.zeros(1, int), **method.keywords), images)


def _outputs(options: Explain, paths: Sequence[Path]) -> dict[Path, Path]:
    """Where each image's results go, without a suffix; those of one name get their folder's too."""
    count = Counter(path.stem for path in paths)
    stems = {
        path: path.stem if count[path.stem] == 1 else f"{path.resolve().parent.name}-{path.stem}"
        for path in paths
    }
    double = [stem for stem, uses in Counter(stems.values()).items() if uses > 1]
    takes = "images whose file names differ, with their folder's"
    checks.require(not double, "images", f"several called {double[:1]}", takes)
    return {
        path: options.out / f"{stem}.{options.method.replace(':', '.')}"
        for path, stem in stems.items()
    }


def _files(output: Path) -> tuple[Path, Path]:
    return output.with_name(f"{output.name}.png"), output.with_name(f"{output.name}.npy")


def _refuse_existing(output: Path, overwrite: bool) -> None:
    for path in _files(output):
        subject.refuse_existing(path, overwrite)


def _read(path: Path, channels: int, **resizing: Any) -> np.ndarray:
    image = data.read_image(path, channels=channels)
    height, width = image.shape[:2]
    takes = f"an image of at least {SMALLEST}x{SMALLEST} pixels"
    checks.require(min(height, width) >= SMALLEST, str(path), f"{height}x{width} pixels", takes)
    return data.resize(image[None], **resizing)[0]


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error).splitlines()[0]


def _write(output: Path, image: np.ndarray, saliency: np.ndarray, title: str) -> None:
    png, npy = _files(output)
    figure = plots.saliency_overlay(image, saliency, title=title)
    picture, array = io.BytesIO(), io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    np.save(array, saliency, allow_pickle=False)
    for path, content in ((png, picture), (npy, array)):
        write_whole(path, content.getvalue())


def _show(
    path: Path, output: Path, probabilities: np.ndarray, target: int, names: Sequence[str], top: int
) -> None:
    print(path)
    listed = list(np.argsort(-probabilities, kind="stable")[:top])
    for index in listed if target in listed else [*listed, target]:
        mark = "*" if index == target else " "
        print(f"  {mark} {probabilities[index]:6.1%}  {names[index]}")
    print(f"  {' '.join(map(str, _files(output)))}")

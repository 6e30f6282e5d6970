"""`jc2i explain`: photographs in, an overlay and a raw map of each out."""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jc2i import checks, commands, data, models, parallel, query, tracing
from jc2i.cli import results, subject
from jc2i.data.image_files import Decoding, decode, header
from jc2i.data.pixels import Resizing
from jc2i.files import one_line, opened, try_writing_in

LONG = 100
"""Evaluations of the model that are announced before they are made."""

LONGEST_TITLE = 100
"""Characters of a class's name above its map."""

WATCHED = 1000
"""Evaluations from which progress within a batch is worth compiling a program that is not kept."""


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

    Images are read, explained and written batch by batch. Those that a run of the same command has
    finished stay as they are.

    Args:
      options: what to explain, and how.

    Returns:
      0, or 1 if an image could not be explained.

    Raises:
      ValueError: nothing can be done as asked: an unknown method or layer, say.
      OSError: a file is not there, or cannot be written.
    """
    subject.check(options)
    checks.count(top=options.top)
    method = subject.explainer(options.method, options)
    paths = _image_files(options.images)
    try_writing_in(options.out)
    with subject.computing_on(options.device) as devices:
        model = subject.load_model(options)
        alone = len(paths) == 1 and not query.method_of(method).takes_batch_size
        # What a gradient needs takes as long to find out as to compute.
        in_flight = 1 if alone else subject.in_flight(options, model)
        together = min(in_flight, len(paths))
        method = subject.bounded(method, in_flight)
        names = subject.class_names(options, model)
        target = None if options.target is None else _class_of(options.target, names)
        _check_layer(options, method, model)
        calibrator = subject.load_calibrator(options, model, devices)
        score = subject.score_of(options, model, calibrator)
        photographs = _Photographs(options, paths, model)
        photographs.leave_out_finished(_made_of(options, method, score, target, names))
        missing = photographs.batches(together)
        output = commands.Output()

        def write(items: np.ndarray, found: Any) -> None:
            numbers = missing.numbers[items].tolist()
            for number, chances, goal, saliency in zip(numbers, *found, strict=True):
                title = f"{one_line(names[goal], LONGEST_TITLE)}, {chances[goal]:.0%}"
                place = photographs.write(number, saliency, title)
                if place:
                    about = (paths[number], place, chances, int(goal), names, options.top)
                    output.say(_listed(*about))

        # Of a single batch it is known before anything is compiled that none of it can be read.
        if len(missing) > together or any(map(photographs.readable, missing.numbers.tolist())):
            long = _announce(options, method, (len(photographs.wanted), *photographs.blank.shape))
            parallel.map_batches(
                _explained(options, method, target),
                missing,
                together,
                model=score,
                mesh=devices,
                progress=options.progress and options.method,
                watched=long,
                sink=write,
            )
        subject.keep_calibrator(options, calibrator)
        output.close()
    return 1 if photographs.failed else 0


def _explained(options: Explain, method: Any, target: int | None) -> Callable[..., Any]:
    """The function of a batch: its probabilities, the class explained, and the maps."""

    @parallel.on_each_device
    def classified(score: Any, images: Any) -> Any:
        scores = tracing.prepared(score)(images)
        probabilities = scores if options.score == "probability" else jax.nn.softmax(scores)
        predicted = probabilities.argmax(1).astype(jnp.int32)
        return probabilities, predicted if target is None else jnp.full_like(predicted, target)

    def explained(score: Any, images: Any, keys: Any) -> Any:
        probabilities, targets = classified(score, images)
        return probabilities, targets, method(score, images, targets, key=keys)

    return explained


def _made_of(
    options: Explain, method: Any, score: Any, target: int | None, names: Sequence[str]
) -> Callable[[str, int], str]:
    """Gives what the results of a photograph depend on, by its content and number, as a short name.

    There is no name, an empty one, where it cannot be told of a method of the user's.
    """
    stochastic = query.method_of(method).stochastic
    depends = (results.FORMAT, jax.__version__, method, score, target, list(names), options.seed)

    @functools.cache
    def computation() -> str:
        try:
            return parallel.digest(*(depends if stochastic else depends[:-1]))
        except ValueError:
            return ""

    def made_of(content: str, number: int) -> str:
        resizing = (options.size, options.resize)
        own = parallel.digest(computation(), content, resizing, number if stochastic else None)
        return own if computation() else ""

    return made_of


def _content(path: Path) -> str:
    """A short name for what is in a file."""
    with opened(path, str(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Photographs:
    """The photographs of a run, by their number in the order of the command line.

    Attributes:
      paths: their files.
      wanted: the numbers of those that are still to be explained.
      failed: the numbers of those that cannot be.
      blank: what stands in a batch for one that cannot be read.
    """

    def __init__(self, options: Explain, paths: Sequence[Path], model: models.Classifier):
        self.options, self.paths = options, paths
        resizing = subject.resizing(options, model)
        self._decode = functools.partial(
            _read,
            channels=model.channels,
            resizing=Resizing(**resizing),
            decoding=Decoding(**subject.limits(options, "max_pixels")),
        )
        self._places = results.places(paths, options.out, options.method)
        self.blank = np.zeros((*resizing["size"], model.channels), np.uint8)
        self.wanted = set(range(len(paths)))
        self.failed: set[int] = set()
        self._read: dict[int, tuple[np.ndarray, str]] = {}

    def leave_out_finished(self, made_of: Callable[[str, int], str]) -> None:
        """Finds those that are explained already, and refuses those in whose place others lie."""
        self._made_of = made_of
        inputs, finished = {path.resolve() for path in self.paths}, 0
        for number, path in enumerate(self.paths):
            place = self._places[path]
            try:
                if results.is_finished(place, lambda n=number, p=path: made_of(_content(p), n)):
                    self.wanted.discard(number)
                    finished += 1
                    continue
                for file in place:
                    there = file.resolve() in inputs
                    takes = f"another --out, as {file} is itself to be explained"
                    checks.require(not there, str(path), "an image", takes)
                    # Whether an array alone is that of a killed run is seen when it is made again.
                    if not (file == place.array and results.is_begun(place)):
                        subject.refuse_existing(file, self.options.overwrite)
            except (ValueError, OSError) as error:
                self._fail(number, error)
        if finished:
            text = f"jc2i: {finished} of {len(self.paths)} images are explained already"
            print(text, file=sys.stderr)

    def batches(self, size: int) -> _Batches:
        """Those batches of so many photographs in which there is one that is wanted.

        They are whole, the same as in a run that was not interrupted, and so is each result.
        """
        last = len(self.paths) - 1
        starts = range(0, len(self.paths), size)
        batches = [np.minimum(np.arange(start, start + size), last) for start in starts]
        wanted = [batch for batch in batches if not self.wanted.isdisjoint(batch.tolist())]
        numbers = np.concatenate(wanted) if wanted else np.arange(0)
        return _Batches(self, numbers, jax.random.key(self.options.seed))

    def readable(self, number: int) -> bool:
        """Whether a photograph can be read; it is, and kept until it is written."""
        if number not in self._read and number not in self.failed:
            try:
                path = self.paths[number]
                self._read[number] = self._decode(path), _content(path)
            except (ValueError, OSError) as error:
                self._fail(number, error)
        return number in self._read

    def image(self, number: int) -> np.ndarray:
        """A photograph's pixels."""
        return self._read[number][0] if self.readable(number) else self.blank

    def write(self, number: int, saliency: np.ndarray, title: str) -> results.Place | None:
        """Writes a photograph's results, if they are wanted, and lets its pixels go."""
        image, content = self._read.pop(number, (None, ""))
        if image is None or number not in self.wanted:
            return None
        place = self._places[self.paths[number]]
        self.options.out.mkdir(parents=True, exist_ok=True)
        made, pixels = self._made_of(content, number), data.as_float(image)
        try:
            results.write(place, made, pixels, saliency, title, overwrite=self.options.overwrite)
        except FileExistsError as error:
            self._fail(number, error)
            return None
        self.wanted.discard(number)
        return place

    def _fail(self, number: int, error: Exception) -> None:
        self.wanted.discard(number)
        self.failed.add(number)
        print(f"jc2i: {commands.reason(error)}", file=sys.stderr)


class _Batches:
    """Photographs as a data set, of which a batch is read when it is asked for."""

    def __init__(self, photographs: _Photographs, numbers: np.ndarray, key: Any):
        self.photographs, self.numbers, self.key = photographs, numbers, key

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: np.ndarray) -> tuple[np.ndarray, jax.Array]:
        numbers = self.numbers[index]
        images = np.stack([self.photographs.image(number) for number in numbers.tolist()])
        return data.as_float(images), jax.vmap(jax.random.fold_in, (None, 0))(self.key, numbers)


def _listed(
    path: Path,
    place: results.Place,
    probabilities: np.ndarray,
    target: int,
    names: Sequence[str],
    top: int,
) -> str:
    """What is said of a photograph: its classes and files, which may be named by anybody."""
    best = list(np.argsort(-probabilities, kind="stable")[:top])
    lines = [str(path)]
    for index in best if target in best else [*best, target]:
        mark = "*" if index == target else " "
        lines.append(f"  {mark} {probabilities[index]:6.1%}  {names[index]}")
    lines.append(f"  {place.overlay} {place.array}")
    return "\n".join(map(commands.printable, lines))


def _image_files(given: Sequence[Path]) -> list[Path]:
    """The image files of the command line, those of its folders sorted; results are left out."""
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
            raise FileNotFoundError(errno.ENOENT, "no such file or folder", str(path))
    photographs = [path for path in dict.fromkeys(files) if not results.is_overlay(path)]
    got = f"{given[0]}, where there is nothing but what an earlier run made"
    checks.require(bool(photographs), "images", got, "photographs")
    return photographs


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


def _class_of(text: str, names: Sequence[str]) -> int:
    if text.isdecimal():
        takes = f"0 to {len(names) - 1}, or the name of a class"
        few = len(text) <= len(str(len(names)))  # digits, of which Python reads no more than 4,300
        checks.require(few and int(text) < len(names), "target", text, takes)
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


def _read(path: Path, channels: int, resizing: Resizing, decoding: Decoding) -> np.ndarray:
    name, contents = str(path), decoding.read(path)
    height, width = header(contents, name, decoding).size
    smallest = subject.SMALLEST
    takes = f"an image of at least {smallest}x{smallest} pixels"
    checks.require(min(height, width) >= smallest, name, f"{height}x{width} pixels", takes)
    return decode(contents, name, channels, resizing, decoding)

"""`jc2i evaluate`: a labelled folder in, tables of calibration and of explanation metrics out."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from jc2i import checks, commands, data, metrics, parallel, scores
from jc2i.cli import subject
from jc2i.files import try_writing_in, write_whole
from jc2i.normalization import normalize

BASE = "base"

MOST_STEPS = 10_000
"""Of a curve: each is a query of every image."""


@dataclasses.dataclass(frozen=True)
class Evaluate(subject.Subject):
    """Options of `jc2i evaluate`."""

    data: Annotated[str, tyro.conf.Positional] = ""
    """Labelled images: a folder, archive or npz file, or the name of a data set."""
    split: str = "all"
    """Split to evaluate; with `--calibration half`, its other half is."""
    methods: tuple[str, ...] = ("grad-cam",)
    """Explainers; none for the model's calibration alone."""
    images: int = 100
    """Images to explain: the first of a fixed permutation. Calibration is measured on all."""
    steps: int = 100
    """Steps of the deletion and insertion curves."""
    out: Path | None = None
    """Folder for calibration.csv and explanations.csv; default: print only."""
    resume: Path | None = None
    """Folder that keeps finished batches, so that a killed run goes on where it stopped."""
    distributed: bool = False
    """Compute with the other processes of a cluster, each of which runs this command."""


def evaluate(options: Evaluate) -> int:
    """Measures a model's calibration and its explanations, before and after a calibrator.

    Args:
      options: what to evaluate, and how.

    Returns:
      0.

    Raises:
      ValueError: an argument is out of range.
      OSError: a file is not there, or exists already.
    """
    subject.check(options)
    checks.require(bool(options.data), "data", "none", "a labelled folder, or a data set's name")
    checks.count(images=options.images)
    takes = f"a whole number from 1 to {MOST_STEPS}"
    checks.require(1 <= options.steps <= MOST_STEPS, "steps", options.steps, takes)
    with parallel.together(options.distributed):
        return _evaluate(options)


def _evaluate(options: Evaluate) -> int:
    explainers = {name: subject.explainer(name, options) for name in options.methods}
    files = _files(options) if parallel.is_first() else {}
    with subject.computing_on(options.device) as devices:
        model = subject.load_model(options)
        together = subject.in_flight(options, model)
        explainers = {n: subject.bounded(e, together) for n, e in explainers.items()}
        half = options.calibration == "half"
        dataset = subject.labelled(
            options, model, options.data, "evaluation" if half else options.split
        )
        if half:
            holdout = subject.labelled(options, model, options.data, "calibration")
            calibrator = subject.fit_calibrator(options, model, holdout, devices, options.resume)
        else:
            calibrator = subject.load_calibrator(options, model, devices, options.resume)
        versions = {BASE: None} if calibrator is None else {BASE: None, "calibrated": calibrator}
        logits = subject.logits(options, model, dataset, devices, options.resume)
        rows = [_calibration(name, logits, dataset.labels, c) for name, c in versions.items()]
        output, written = commands.Output(heard=parallel.is_first()), {"calibration": rows}
        output.say(_table("Calibration", rows))
        if explainers:
            rows = list(_explanations(options, explainers, model, versions, dataset, devices))
            written["explanations"] = rows
            for method in options.methods:
                chosen = [row for row in rows if row["method"] == method]
                output.say(_table(f"{method}: means with 95 % intervals", chosen))
        # All at the end: a run that is killed before can be made again.
        for name, path in files.items():
            if name in written:
                _write(path, written[name], options.overwrite)
        if parallel.is_first():
            subject.keep_calibrator(options, calibrator)
        output.close()
    return 0


def _files(options: Evaluate) -> dict[str, Path]:
    for folder in (options.out, options.resume):
        if folder is not None:
            try_writing_in(folder)
    if options.out is None:
        return {}
    files = {name: options.out / f"{name}.csv" for name in ("calibration", "explanations")}
    for path in files.values():
        # A run that was killed while it wrote them has written the same.
        subject.refuse_existing(path, options.overwrite or options.resume is not None)
    return files


def _calibration(version: str, logits: Any, labels: Any, calibrator: Any) -> dict[str, Any]:
    calibrated = logits if calibrator is None else calibrator(logits)
    probabilities = jax.nn.softmax(np.asarray(calibrated))
    error = metrics.expected_calibration_error
    return {
        "version": version,
        "images": len(labels),
        "accuracy": float((probabilities.argmax(1) == labels).mean()),
        "confidence": float(probabilities.max(1).mean()),
        "ece_debiased": float(error(probabilities, labels)),
        "ece_density": float(error(probabilities, labels, estimator="density")),
        "ece_equal_width": float(error(probabilities, labels, estimator="equal_width")),
        "negative_log_likelihood": float(metrics.negative_log_likelihood(probabilities, labels)),
        "brier_score": float(metrics.brier_score(probabilities, labels)),
    }


def _explanations(
    options: Evaluate,
    explainers: Mapping[str, Any],
    model: Any,
    versions: Mapping[str, Any],
    dataset: data.Dataset,
    devices: Any,
) -> Iterator[dict[str, Any]]:
    order = np.random.default_rng(options.seed).permutation(len(dataset))[: options.images]
    images = data.as_float(dataset[order][0])
    segments = metrics.superpixels(images, 100)
    together = subject.in_flight(options, model)
    curves: dict[str, Any] = {"steps": options.steps, "batch_size": together}

    def run(name: str, function: Any, score: Any, *arrays: Any) -> Any:
        return parallel.map_batches(
            function,
            (images, *arrays),
            together,
            model=score,
            key=jax.random.key(options.seed),
            mesh=devices,
            progress=options.progress and name,
            resume=options.resume and options.resume / name.replace(" ", "-"),
        )

    def random_area(score: Any, x: Any, t: Any, s: Any, keys: Any) -> Any:
        curve = metrics.random_deletion_curve(score, x, t, key=keys, segments=s, **curves)
        return metrics.area(curve)

    def areas(score: Any, x: Any, t: Any, m: Any, _: Any) -> Any:
        both = (metrics.deletion_curve, metrics.insertion_curve)
        return tuple(metrics.area(curve(score, x, t, m, **curves)) for curve in both)

    predicted = parallel.on_each_device(lambda score, x, _: score(x).argmax(1))
    base_maps: dict[str, np.ndarray] = {}
    for version, calibrator in versions.items():
        score = subject.score_of(options, model, calibrator)
        # Curves are of probabilities, whatever score made the map.
        probability = scores.probabilities(model, calibrator)
        targets = np.asarray(run(f"targets {version}", predicted, probability), np.int32)
        random_areas = run(f"random {version}", random_area, probability, targets, segments)
        for method, explain in explainers.items():

            def explained(score: Any, x: Any, t: Any, keys: Any, explain: Any = explain) -> Any:
                return explain(score, x, t, key=keys)

            maps = run(f"{method} {version}", explained, score, targets)
            found = run(f"curves {method} {version}", areas, probability, targets, maps)
            deletion, insertion = found
            base = base_maps.setdefault(method, maps)
            better = metrics.better_than_random(deletion, random_areas)
            similarity = metrics.structural_similarity(normalize(base), normalize(maps))
            yield {
                "method": method,
                "version": version,
                "images": len(images),
                **_interval("deletion_area", deletion),
                **_interval("insertion_area", insertion),
                **_interval("better_than_random", better),
                **_interval("otsu_total_variation", metrics.otsu_total_variation(maps)),
                **_interval("similarity_to_base", similarity),
            }


def _interval(name: str, values: Any) -> dict[str, float]:
    from jc2i.statistics import mean_interval  # SciPy's take seconds to load

    found = mean_interval(np.asarray(values))
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    """One column a version: the names of measures are too long to stand side by side."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", *(row["version"] for row in rows), title=title)
    for name in rows[0]:
        if name not in ("version", "method") and not name.endswith(("_low", "_high")):
            table.add_row(name.replace("_", " "), *(_cell(row, name) for row in rows))
    console = Console()
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")


def _cell(row: Mapping[str, Any], name: str) -> str:
    if f"{name}_low" in row:
        return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
    return f"{row[name]:.4f}" if isinstance(row[name], float) else str(row[name])


def _write(path: Path, rows: list[dict[str, Any]], overwrite: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    if path.exists() and path.read_bytes() != content:
        subject.refuse_existing(path, overwrite)
    write_whole(path, content)

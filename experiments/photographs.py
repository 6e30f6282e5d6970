"""One page of CAM and masking maps of photographs, and what each is worth as a mask."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jc2i
from experiments.common.methods import words
from experiments.common.provenance import provenance
from experiments.common.report import Section, write_figure, write_report
from experiments.common.tables import Row, write_csv
from jc2i import data, explainers, metrics, models, normalize, plots

MODEL = "efficientnet-lite0"

METHODS = (
    "grad_cam",
    "grad_cam_plus_plus",
    "layer_cam",
    "eigen_cam",
    "full_grad",
    "opti_cam",
    "extremal_perturbation",
    "lime",
)
"""Without Score-CAM: its 1,280 evaluations an image take longer than all of these."""

GRID = 5
"""Rows and columns of LIME's cells."""

SUMMARY = (
    "{model} explains the most probable class of {images} photographs, by {methods} methods. As "
    "masks, the maps of {best} do best here: they lose {drop:.0f} % of the class's probability "
    "and gain {gain:.0f} % of what it lacks, on average. Score-CAM is left out: it asks the "
    "network once for each of 1,280 features, which is long without a GPU."
)
MAPS = (
    "Each map on its own scale, from dark to bright. The first five are made from the activations "
    "and gradients of one layer (FullGrad: of all). The others mask the photograph again and "
    "again: Opti-CAM mixes a layer's activations to the best mask, extremal perturbation looks "
    "for the best smooth mask of a tenth of the image, LIME weighs the cells of a grid. Their "
    "numbers of steps ({steps}) and samples ({samples}) are far below the usual ones, which makes "
    "rougher maps: `jc2i explain --method` takes the usual ones."
)
MASKS = (
    "The photograph masked with the map, what is masked turning into the mean colour that the "
    "network was trained with. Drop and gain: how much of the class's probability is lost (lower "
    "is better), and how much of what it lacks to 1 is gained (higher is better), in per cent; "
    "increase: 100 where it rises. Seconds: for all photographs at once, without compilation."
)


def compare(
    files: Sequence[Path], folder: Path, steps: int, methods: Sequence[str] = METHODS
) -> Path:
    """Maps of photographs by CAM and masking methods: one figure, one table, one page.

    Args:
      files: the photographs.
      folder: where `maps.html`, `maps.png` and `maps.csv` go.
      steps: steps of Opti-CAM and of extremal perturbation, and a quarter of LIME's samples.
      methods: some of `METHODS`; each compiles for seconds.

    Returns:
      The page.
    """
    model, resizing = models.load(MODEL), models.published_resizing(MODEL)
    read = [data.resize(data.read_image(file, channels=3)[None], **resizing) for file in files]
    images = data.as_float(np.concatenate(read))
    score = jc2i.probabilities(model)
    probabilities = np.asarray(score(images))
    targets = probabilities.argmax(axis=1).astype(np.int32)
    classes = [models.class_names(MODEL)[target] for target in targets]
    shown: dict[str, np.ndarray] = {}
    rows: list[Row] = []
    for method, (maps, seconds) in _explained(model, images, targets, steps, methods).items():
        masked = metrics.drop_increase_gain(score, images, targets, maps, baseline=model.mean)
        shown[words(method)] = np.asarray(normalize(maps))
        rows += [
            {
                "method": words(method),
                "photograph": file.stem,
                "drop": float(drop),
                "gain": float(gain),
                "increase": float(increase),
                "seconds": seconds,
            }
            for file, (drop, increase, gain) in zip(files, np.asarray(masked), strict=True)
        ]
    titles = [f"{c}, {p.max():.0%}" for c, p in zip(classes, probabilities, strict=True)]
    figure = plots.saliency_grid(images, shown, titles=titles)
    write_figure(folder / "maps.png", figure)
    write_csv(folder / "maps.csv", rows)
    page = folder / "maps.html"
    sections = [
        Section("The maps", MAPS.format(steps=steps, samples=4 * steps), figures={"maps": figure}),
        Section("The maps as masks", MASKS, tables={"masks": rows}),
    ]
    write_report(page, "Photographs, explained", _summary(rows), sections, provenance())
    return page


def _explained(
    model: models.Classifier,
    images: np.ndarray,
    targets: np.ndarray,
    steps: int,
    methods: Sequence[str],
) -> dict[str, tuple[np.ndarray, float]]:
    """The maps of each method, and the seconds that they took."""
    options: dict[str, dict[str, Any]] = {
        "opti_cam": {"steps": steps, "baseline": model.mean},
        # At this rate so few steps go as far as the authors' 800.
        "extremal_perturbation": {"steps": steps, "learning_rate": 4 / steps},
        "lime": {"samples": 4 * steps, "grid": GRID, "key": jax.random.key(0)},
    }
    arguments = (jc2i.logits(model), images, targets)

    def program(method: str) -> Any:
        def explain(*arguments: Any) -> jax.Array:
            return getattr(explainers, method)(*arguments, **options.get(method, {}))

        return jax.jit(explain).lower(*arguments).compile()

    found = {}
    # A program compiles on one core, which is most of the time that all this takes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = dict(zip(methods, pool.map(program, methods), strict=True))
    for method, run in programs.items():
        start = time.perf_counter()
        maps = np.asarray(run(*arguments))
        found[method] = (maps, time.perf_counter() - start)
    return found


def _summary(rows: Sequence[Row]) -> str:
    methods = list(dict.fromkeys(row["method"] for row in rows))

    def mean(method: str, column: str) -> float:
        return float(np.nanmean([row[column] for row in rows if row["method"] == method]))

    best = max(methods, key=lambda method: mean(method, "gain") - mean(method, "drop"))
    return SUMMARY.format(
        model=MODEL,
        images=len({row["photograph"] for row in rows}),
        methods=len(methods),
        best=best,
        drop=mean(best, "drop"),
        gain=mean(best, "gain"),
    )

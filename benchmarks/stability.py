"""How long MeGe and ReCo take: images explained by the model of each fold, and maps compared.

    python benchmarks/stability.py --json benchmarks/results/stability-cpu.json

The models have random weights: speed does not depend on them. Beside the time of each method stands
its floor, the model evaluations it cannot do without: images x folds x the time of an evaluation of
the bare model an image, at the same batch size in the same process. Beside the seconds on the clock
stand those of all processor threads together, which other programs on the machine do not stretch.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import numpy as np
import tyro

import jc2i
from experiments.common.methods import explain
from experiments.common.provenance import provenance
from jc2i import explainers, metrics, parallel
from jc2i.explainers.gradients.input_gradient import input_gradient
from jc2i.query import method_of
from jc2i.tracing import prepared


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time."""

    explainers: tuple[str, ...] = (
        "sensitivity",
        "gradient_x_input",
        "grad_cam",
        "grad_cam_plus_plus",
        "random_map",
    )
    """Explainers, by default those of one evaluation at most."""
    model: str = "resnet18_cifar"
    """Architecture, for grey images of 28x28."""
    base_filters: int = 26
    """Filters of its first convolution."""
    folds: int = 5
    """Number of models."""
    images: int = 10_000
    """Images that each model explains."""
    batch: int = 100
    """Images at a time."""
    json: Path | None = None
    """File for the numbers, with the command and the machine."""


def measure(benchmark: Benchmark) -> list[dict[str, Any]]:
    """One row a method: seconds to explain and to compare, and the floor.

    Args:
      benchmark: what to time.

    Returns:
      The rows.
    """
    random = np.random.default_rng(0)
    images = random.random((benchmark.images, 28, 28, 1)).astype(np.float32)
    targets = random.integers(0, 10, benchmark.images).astype(np.int32)
    folds = (np.arange(benchmark.images) % benchmark.folds).astype(np.int32)
    correct = random.random((benchmark.folds, benchmark.images)) < 0.9
    scores = [
        jc2i.logits(
            jc2i.models.create(
                benchmark.model,
                classes=10,
                channels=1,
                key=jax.random.key(fold),
                base_filters=benchmark.base_filters,
            )
        )
        for fold in range(benchmark.folds)
    ]
    floors = {kind: _evaluation(scores[0], benchmark, kind) for kind in ("forward", "gradient")}
    rows = []
    for name in benchmark.explainers:
        cost = method_of(getattr(explainers, name)).cost((1, 28, 28, 1))
        function = _explaining(name)
        _maps(function, scores[:1], images[: benchmark.batch], targets, benchmark)  # compiles
        start = _clocks()
        maps = _maps(function, scores, images, targets, benchmark)
        explained = _clocks()
        distances = metrics.pair_distances(maps, folds)
        sets = metrics.split_pairs(distances, correct, folds)
        mege, reco = float(metrics.mege(sets.agreeing)), float(metrics.reco(*sets))
        scored = _clocks()
        floor = cost.forward * floors["forward"] + cost.gradient * floors["gradient"]
        rows.append(
            {
                "explainer": name,
                "maps": len(scores) * len(images),
                **_columns("explaining", explained - start),
                **_columns("floor", floor * len(scores) * len(images)),
                **_columns("scoring", scored - explained),
                "MeGe": mege,
                "ReCo": reco,
            }
        )
        print(rows[-1], flush=True)
    return rows


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def _columns(name: str, seconds: np.ndarray) -> dict[str, float]:
    return dict(zip((f"{name}_seconds", f"{name}_cpu_seconds"), map(float, seconds), strict=True))


def _explaining(name: str) -> Any:
    def function(score: Any, images: Any, targets: Any, keys: Any) -> Any:
        return explain(getattr(explainers, name), {}, score, images, targets, keys)

    return function


def _maps(
    function: Any, scores: list[Any], images: Any, targets: Any, benchmark: Benchmark
) -> np.ndarray:
    return np.stack(
        [
            parallel.map_batches(
                function,
                (images, targets[: len(images)]),
                benchmark.batch,
                model=score,
                key=jax.random.key(fold),
                progress=False,
            )
            for fold, score in enumerate(scores)
        ]
    )


def _evaluation(score: Any, benchmark: Benchmark, kind: str) -> np.ndarray:
    """Seconds of an evaluation of the bare model, an image: the median of several batches."""
    images = jax.random.uniform(jax.random.key(0), (benchmark.batch, 28, 28, 1))
    targets = jax.numpy.arange(benchmark.batch) % 10

    @jax.jit
    def bare(score: Any, images: Any, targets: Any) -> Any:
        fast = prepared(score)
        return fast(images) if kind == "forward" else input_gradient(fast)(images, targets)

    times = []
    for _ in range(11):
        start = _clocks()
        jax.block_until_ready(bare(score, images, targets))
        times.append(_clocks() - start)
    return np.median(times[1:], axis=0) / benchmark.batch


def main(benchmark: Benchmark) -> None:
    """Times the methods and writes the numbers."""
    rows = measure(benchmark)
    if benchmark.json:
        options = {k: v for k, v in dataclasses.asdict(benchmark).items() if k != "json"}
        record = {"provenance": provenance(), "benchmark": options, "rows": rows}
        benchmark.json.parent.mkdir(parents=True, exist_ok=True)
        benchmark.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

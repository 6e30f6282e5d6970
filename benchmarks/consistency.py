"""How long the parts of MeGe and ReCo take: ranks, distances of ranked maps, thresholds, transport.

    python benchmarks/consistency.py --json benchmarks/results/consistency-cpu.json

Each part runs once to compile and once to be timed. Beside the seconds on the clock stand those of
all processor threads together, which other programs on the machine do not stretch.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
import tyro

from experiments.common.provenance import provenance
from jc2i import metrics
from jc2i.metrics import DISTANCES


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time."""

    side: int = 28
    """Pixels of a map's side."""
    folds: int = 5
    """Number of models."""
    images: int = 10_000
    """Images that each model explained."""
    pairs: int = 1_000_000
    """Spearman distances of ranked maps, and distances of each set that ReCo is of."""
    draws: int = 1000
    """Draws of ReCo's null."""
    transports: int = 20
    """Pairs of maps whose Wasserstein distance is computed."""
    chunk: int = 2048
    """Maps, or pairs, at a time."""
    json: Path | None = None
    """File for the numbers, with the command and the machine."""


def measure(benchmark: Benchmark) -> list[dict[str, Any]]:
    """One row a part.

    Args:
      benchmark: what to time.

    Returns:
      The rows.
    """
    random = np.random.default_rng(0)
    shape = (benchmark.folds, benchmark.images, benchmark.side, benchmark.side)
    maps = random.normal(size=shape).astype(np.float32)
    folds = np.arange(benchmark.images) % benchmark.folds
    correct = random.random(shape[:2]) < 0.9
    flat = maps.reshape(-1, *shape[2:])
    spearman = DISTANCES["spearman"]
    describe, compare = jax.jit(spearman.describe), jax.jit(_compared)
    places = random.integers(0, len(flat), (2, benchmark.pairs))

    def ranked() -> Any:
        starts = range(0, len(flat), benchmark.chunk)
        return jnp.concatenate([describe(flat[i : i + benchmark.chunk]) for i in starts])

    ranks = ranked()

    def compared() -> Any:
        starts = range(0, benchmark.pairs, benchmark.chunk)
        return [compare(ranks, places[:, i : i + benchmark.chunk]) for i in starts]

    sets = random.random((2, benchmark.pairs)).astype(np.float32)
    found = metrics.pair_distances(maps, folds)
    key = jax.random.key(0)
    noise = flat[: 2 * benchmark.transports].reshape(2, -1, *shape[2:])
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 0, benchmark.side / 10, benchmark.side / 10))
    parts = {
        "maps ranked": (len(flat), ranked),
        "Spearman distances of ranked maps": (benchmark.pairs, compared),
        "Spearman distances across folds, ranks included": (
            benchmark.images * (benchmark.folds - 1),
            lambda: metrics.pair_distances(maps, folds),
        ),
        "ReCo, distances of both sets": (2 * benchmark.pairs, lambda: metrics.reco(*sets)),
        "ReCo-AUC, distances of both sets": (2 * benchmark.pairs, lambda: metrics.reco_auc(*sets)),
        "ReCo's null, draws": (
            benchmark.draws,
            lambda: metrics.reco_null(found, correct, folds, key=key, draws=benchmark.draws),
        ),
        "Wasserstein distances of noise": (
            benchmark.transports,
            lambda: metrics.wasserstein(noise[0], noise[1]),
        ),
        "Wasserstein distances of smooth maps": (
            benchmark.transports,
            lambda: metrics.wasserstein(smooth[0], smooth[1]),
        ),
    }
    rows = []
    for part, (count, run) in parts.items():
        rows.append({"part": part, "count": count, **_seconds(run)})
        print(rows[-1], flush=True)
    return rows


def _compared(ranks: Any, places: Any) -> Any:
    first, second = places
    return DISTANCES["spearman"].compare(ranks[first], ranks[second])


def _seconds(run: Callable[[], Any]) -> dict[str, float]:
    jax.block_until_ready(run())
    clock, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return {
        "seconds": time.perf_counter() - clock,
        "processor_seconds": time.process_time() - processor,
    }


def main(benchmark: Benchmark) -> None:
    """Times the parts and writes the numbers."""
    rows = measure(benchmark)
    if benchmark.json:
        options = {k: v for k, v in dataclasses.asdict(benchmark).items() if k != "json"}
        record = {"provenance": provenance(), "benchmark": options, "rows": rows}
        benchmark.json.parent.mkdir(parents=True, exist_ok=True)
        benchmark.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

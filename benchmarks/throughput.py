"""How fast an explainer is, and how far from the bare model.

    python benchmarks/throughput.py --model resnet20_cifar --batch 32 --json throughput.json
    python benchmarks/throughput.py --model efficientnet_lite0 --classes 1000 --size 224 --batch 8
    python benchmarks/throughput.py --explainers rise meaningful_perturbation --evaluations 600

The cost of an explainer is counted in model evaluations: forward passes, or gradients of the
target's score by the image. Overhead is measured time / (evaluations x time of one evaluation of
the bare model, prepared as explainers prepare it, at the same batch size in the same process). The
two are timed in turn, so that a machine whose speed drifts slows both, and the median of the pairs'
ratios is reported. The parts of a model behind a layer, of which the cam methods evaluate some, are
not counted.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import jc2i
from experiments.common.provenance import provenance
from jc2i import checks
from jc2i.explainers.gradients.input_gradient import input_gradient
from jc2i.options import Sides, Whole
from jc2i.query import Method, method_of, methods
from jc2i.tracing import prepared


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time."""

    explainers: tuple[str, ...] = tuple(
        name
        for name, function in methods(jc2i.explainers).items()
        if any(method_of(function).cost((1, 32, 32, 3)))
    )
    """Explainers of `jc2i.explainers`, by default all that query a model; those that refuse this
    one are left out."""
    model: str = "resnet20_cifar"
    """Architecture (random weights: its speed does not depend on them), or a saved model."""
    classes: int = 10
    """Classes of an architecture with random weights."""
    size: int = 32
    """Height and width of the images in pixels."""
    channels: int = 3
    """Channels of the images."""
    batch: int = 32
    """Images in a batch, and so model evaluations in flight."""
    evaluations: int = 60
    """About how many evaluations an image each explainer is given, where it can be chosen."""
    repeats: int = 7
    """Timed pairs of explainer and bare model, after one that is not."""
    json: Path | None = None
    """File for the numbers, with the command and the machine."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The images' [batch, height, width, channel]."""
        return self.batch, self.size, self.size, self.channels


def chosen_options(method: Method, benchmark: Benchmark) -> dict[str, Any]:
    """The options with which an explainer makes about the evaluations that are wanted.

    A method whose cost grows with one of its whole numbers (`masks`, `steps`, `samples`) is given
    as many as bring it there; one with a window, windows side by side; others keep their defaults.

    Args:
      method: what is known of the explainer.
      benchmark: the number of evaluations wanted, and the images.

    Returns:
      Options by name.
    """
    wanted, shape = benchmark.evaluations, benchmark.shape

    def evaluations(**options: Any) -> int | float:
        cost = method.cost(shape, **options)
        return max(cost.forward, cost.gradient)

    options: dict[str, Any] = {}
    for name, kind in method.kinds.items():
        each = evaluations(**{name: 2}) - evaluations(**{name: 1}) if isinstance(kind, Whole) else 0
        if each > 0:
            options[name] = max(1, int(wanted // each))
    if isinstance(method.kinds.get("window"), Sides):
        window = max(2, benchmark.size // max(1, int(np.sqrt(wanted - 1))))
        options |= {"window": window, "stride": window}
    return options


def features(model: Any, benchmark: Benchmark) -> int:
    """The features of the layer that the cam methods look at when they are not told."""
    images = jax.ShapeDtypeStruct(benchmark.shape, jnp.float32)
    grids = [v.shape for v in jc2i.taps.names(model, images).values() if len(v.shape) == 4]
    return grids[-1][-1] if grids else 0


def measure(explainer: str, benchmark: Benchmark, model: Any) -> dict[str, Any]:
    """Times one explainer against the bare model.

    Args:
      explainer: name of an explainer.
      benchmark: sizes and repeats.
      model: images -> logits.

    Returns:
      One row: times in seconds, rates a second, overhead, memory in MiB.
    """
    explain = getattr(jc2i.explainers, explainer)
    method = method_of(explain)
    options = chosen_options(method, benchmark)
    cost = method.cost(benchmark.shape, **options)
    by_feature = cost.forward_a_feature * features(model, benchmark)
    # The parts behind a layer are not counted: how long one takes depends on the layer.
    kind = "gradient" if cost.gradient else "forward"
    evaluations = int(cost.gradient or cost.forward + by_feature)
    images = jax.random.uniform(jax.random.key(0), benchmark.shape)
    targets = jnp.arange(benchmark.batch) % benchmark.classes
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), jnp.arange(benchmark.batch))
    score = jc2i.probabilities(model)

    def explained(score: Any, images: Any, targets: Any, keys: Any) -> Any:
        return explain(score, images, targets, key=keys, **options)

    def bare(score: Any, images: Any, targets: Any) -> Any:
        fast = prepared(score)
        return fast(images) if kind == "forward" else input_gradient(fast)(images, targets)

    explain_compiled = jax.jit(explained).lower(score, images, targets, keys).compile()
    bare_compiled = jax.jit(bare).lower(score, images, targets).compile()
    # Bare evaluations enough for a tenth of a second, so that a pair is as long as it is noisy.
    once = seconds(lambda: bare_compiled(score, images, targets), 1)
    bare_calls = int(np.clip(0.1 / once, 1, max(evaluations, 10)))
    explained_times, bare_times = [], []
    for _ in range(benchmark.repeats + 1):
        bare_times.append(seconds(lambda: bare_compiled(score, images, targets), bare_calls))
        explained_times.append(seconds(lambda: explain_compiled(score, images, targets, keys), 1))
    bare_time, explained_time = np.array(bare_times[1:]), np.array(explained_times[1:])
    ratios = explained_time / (evaluations * bare_time)
    memory = explain_compiled.memory_analysis()
    return {
        "explainer": explainer,
        "evaluation": kind,
        "evaluations": evaluations,
        "seconds": float(np.median(explained_time)),
        "seconds_an_evaluation": float(np.median(bare_time)),
        "images_a_second": benchmark.batch / float(np.median(explained_time)),
        "evaluations_a_second": benchmark.batch * evaluations / float(np.median(explained_time)),
        "overhead": float(np.median(ratios)),
        "overhead_low": float(ratios.min()),
        "overhead_high": float(ratios.max()),
        "memory_mib": memory.temp_size_in_bytes / 2**20 if memory else float("nan"),
        "options": options,
    }


def measured(
    explainers: Sequence[str], row: Callable[[str], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """A row for each explainer; one that refuses is left out, and why is printed.

    Attention maps are not in every model, and some options have no default for any model.

    Args:
      explainers: their names.
      row: what is measured of one.
    """
    found = False
    for explainer in explainers:
        try:
            values = row(explainer)
        except checks.Refusal as refusal:
            print(f"{explainer}: left out ({refusal})", flush=True)
            continue
        found = True
        yield values
    if not found:
        sys.exit("error: no explainer is left")


def seconds(function: Callable[[], Any], calls: int) -> float:
    """Mean wall time of a call, all of them waited for."""
    start = time.perf_counter()
    for _ in range(calls):
        result = function()
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / calls


def main(benchmark: Benchmark) -> None:
    """Times the explainers, prints a table and writes the numbers."""
    if benchmark.model in jc2i.models.names():
        model = jc2i.models.create(
            benchmark.model,
            classes=benchmark.classes,
            key=jax.random.key(2),
            channels=benchmark.channels,
        )
    else:
        model = jc2i.models.load(benchmark.model)
    rows = []
    for row in measured(benchmark.explainers, lambda name: measure(name, benchmark, model)):
        rows.append(row)
        print(f"{row['explainer']}: overhead {row['overhead']:.3f}", flush=True)
    columns = [name for name in rows[0] if name != "options"]
    device = jax.devices()[0]
    table = Table(*columns, title=f"{benchmark.model}, batch {benchmark.batch}, {device}")
    for row in rows:
        table.add_row(
            *(f"{row[n]:.4g}" if isinstance(row[n], float) else str(row[n]) for n in columns)
        )
    Console(width=200).print(table)
    if benchmark.json:
        record = {
            "provenance": provenance(),
            "benchmark": {k: v for k, v in dataclasses.asdict(benchmark).items() if k != "json"},
            "rows": rows,
        }
        benchmark.json.parent.mkdir(parents=True, exist_ok=True)
        benchmark.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

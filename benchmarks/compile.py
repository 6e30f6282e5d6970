"""How long the first call of a method takes to compile, beside the bare model's.

    python benchmarks/compile.py --json benchmarks/results/compile-cpu.json
    python benchmarks/compile.py --model vit_small --size 64 --methods integrated_gradients
    python benchmarks/compile.py --beside ../an-older-checkout

Compile time is that of the first call less that of the second: tracing in Python, lowering and
XLA. Each measurement is a fresh process without JAX's persistent cache, and the processes of the
methods, and of the checkouts that are compared, take turns, so that a machine whose speed drifts
slows all of them. CPU seconds count the work of all threads, which another process's load changes
least; wall seconds are what a user waits for on a quiet machine. Medians are reported.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

BARE = {
    "integrated_gradients": "gradient",
    "smoothgrad": "gradient",
    "sensitivity": "gradient",
    "rise": "forward",
    "lipschitz": "sensitivity",
    "lrp": "sensitivity",
    "deeplift": "sensitivity",
}
"""What each method is compared with: the bare model, or the plain gradient's explainer."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to compile."""

    methods: tuple[str, ...] = tuple(BARE)
    """Names in `BARE`."""
    model: str = "resnet20_cifar"
    """Name of `jc2i.models.names()`; its weights are random."""
    classes: int = 10
    """Its classes."""
    size: int = 32
    """Height and width of the images in pixels."""
    batch: int = 8
    """Images in a batch."""
    processes: int = 5
    """Fresh processes for each measurement."""
    beside: tuple[Path, ...] = ()
    """Other checkouts of this repository, measured in turn with this one."""
    json: Path | None = None
    """File for the numbers, with the command and the machine."""


def first_call(name: str, benchmark: Benchmark) -> dict[str, float]:
    """Compiles one program in this process.

    Args:
      name: `"forward"`, `"gradient"`, or a name in `BARE`.
      benchmark: the model and its images.

    Returns:
      CPU and wall seconds of the first call less those of the second; of the wall seconds, those in
      XLA's compiler; the number of programs compiled.
    """
    import jax
    import jax.numpy as jnp

    import jc2i

    jax.config.update("jax_enable_compilation_cache", False)
    key = jax.random.key(0)
    model = jc2i.models.create(benchmark.model, classes=benchmark.classes, key=key)
    score = jc2i.probabilities(model)
    images = jnp.asarray(
        np.random.default_rng(0).random((benchmark.batch, benchmark.size, benchmark.size, 3)),
        jnp.float32,
    )
    targets = jnp.asarray(np.arange(benchmark.batch) % benchmark.classes)
    function = _function(name)

    in_xla = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            in_xla.append(duration_secs)

    def call() -> np.ndarray:
        start = np.array([time.process_time(), time.perf_counter()])
        jax.block_until_ready(function(score, images, targets, key))
        return np.array([time.process_time(), time.perf_counter()]) - start

    jax.block_until_ready((score, images, targets))
    jax.monitoring.register_event_duration_secs_listener(listen)
    first = call()
    compiled = list(in_xla)
    cpu, wall = first - call()
    return {
        "cpu_seconds": float(cpu),
        "wall_seconds": float(wall),
        "xla_wall_seconds": sum(compiled),
        "programs": len(compiled),
    }


def _function(name: str) -> Callable[..., Any]:
    """What is called: (score, images, targets, key), with loops of a few steps."""
    import jax

    from jc2i import explainers, metrics

    def total(images: Any, score: Any, targets: Any) -> Any:
        return score(images)[np.arange(len(images)), targets].sum()

    forward = jax.jit(lambda score, images: score(images))
    gradient = jax.jit(lambda score, images, targets: jax.grad(total)(images, score, targets))
    functions = {
        "forward": lambda score, images, targets, key: forward(score, images),
        "gradient": lambda score, images, targets, key: gradient(score, images, targets),
        "integrated_gradients": lambda score, images, targets, key: explainers.integrated_gradients(
            score, images, targets, steps=4
        ),
        "smoothgrad": lambda score, images, targets, key: explainers.smoothgrad(
            score, images, targets, key=key, samples=4
        ),
        "sensitivity": lambda score, images, targets, key: explainers.sensitivity(
            score, images, targets
        ),
        "rise": lambda score, images, targets, key: explainers.rise(
            score, images, targets, key=key, masks=16
        ),
        "lrp": lambda score, images, targets, key: explainers.lrp(score, images, targets),
        "deeplift": lambda score, images, targets, key: explainers.deeplift(score, images, targets),
        "lipschitz": lambda score, images, targets, key: metrics.lipschitz(
            explainers.sensitivity, score, images, targets, key=key, neighbours=4
        ),
    }
    return functions[name]


_ALONE = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("benchmarks.compile", sys.argv[1])
compile = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = compile
spec.loader.exec_module(compile)
name, options = json.loads(sys.argv[2])
print(json.dumps(compile.first_call(name, compile.Benchmark(**options))))
"""


def in_a_process(name: str, benchmark: Benchmark, checkout: Path) -> dict[str, float]:
    """`first_call` in a new process that imports the package of a checkout.

    Args:
      name: what to compile.
      benchmark: the model and its images.
      checkout: root of a repository; its package needs no benchmarks of its own.

    Returns:
      As `first_call` does.

    Raises:
      SystemExit: if the process fails, with what it said last.
    """
    options = {field: getattr(benchmark, field) for field in ("model", "classes", "size", "batch")}
    arguments = [str(Path(__file__).resolve()), json.dumps([name, options])]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, *arguments],
        capture_output=True,
        text=True,
        cwd=checkout,
        env=environment | {"PYTHONPATH": str(checkout)},
    )
    if done.returncode:
        raise SystemExit(f"{name}: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(benchmark: Benchmark, checkout: dict[str, Path]) -> list[dict[str, Any]]:
    """Compiles all programs of all checkouts in turn.

    Args:
      benchmark: what to compile.
      checkout: by name, the checkouts' roots.

    Returns:
      One row a program and checkout: medians, and the CPU seconds' ratio to what the method is
      compared with, in the same round and checkout.
    """
    wanted = dict.fromkeys([*map(BARE.__getitem__, benchmark.methods), *benchmark.methods])
    names = list(dict.fromkeys([BARE[name] for name in wanted if name in BARE] + list(wanted)))
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for turn in range(benchmark.processes):
        for name in names:
            for label, root in checkout.items():
                run = in_a_process(name, benchmark, root)
                runs.setdefault((label, name), []).append(run)
                print(f"{turn} {label} {name} {run['cpu_seconds']:.2f}", file=sys.stderr)
    rows = []
    for (label, name), measured in runs.items():
        row: dict[str, Any] = {"checkout": label, "name": name}
        row |= {field: float(np.median([run[field] for run in measured])) for field in measured[0]}
        if name in BARE:
            for kind in ("cpu", "wall"):
                field, others = f"{kind}_seconds", runs[label, BARE[name]]
                pairs = zip(measured, others, strict=True)
                ratios = [own[field] / bare[field] for own, bare in pairs]
                row[f"{kind}_ratio"] = float(np.median(ratios))
                row[f"{kind}_ratio_low"], row[f"{kind}_ratio_high"] = min(ratios), max(ratios)
            row["compared_with"] = BARE[name]
        rows.append(row)
    return rows


def _commit(checkout: Path) -> str:
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    return done.stdout.strip() or checkout.name


def main(benchmark: Benchmark) -> None:
    """Compiles the methods, prints a table and writes the numbers."""
    from experiments.common.provenance import provenance

    here = Path(__file__).resolve().parent.parent
    checkouts = {_commit(path): path.resolve() for path in benchmark.beside} | {"here": here}
    rows = measure(benchmark, checkouts)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(*columns, title=f"{benchmark.model}, batch {benchmark.batch}: compile time")
    for row in rows:
        cells = (row.get(column, "") for column in columns)
        table.add_row(*(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells))
    Console(width=200).print(table)
    if benchmark.json:
        left_out = ("json", "beside")
        settings = {k: v for k, v in dataclasses.asdict(benchmark).items() if k not in left_out}
        record = {"provenance": provenance(), "benchmark": settings, "rows": rows}
        benchmark.json.parent.mkdir(parents=True, exist_ok=True)
        benchmark.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

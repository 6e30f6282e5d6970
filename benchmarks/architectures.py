"""How fast the architectures are: forward and input gradient, beside PyTorch's.

    python benchmarks/architectures.py --architectures efficientnet_lite0 --json architectures.json
    python benchmarks/architectures.py --architectures resnet50 vgg16 --frameworks jax --threads 0

JAX and PyTorch spoil each other's timings in one process, so each measurement is a process of its
own, the two frameworks in turn; a machine whose speed drifts slows both, and the median of the
pairs' ratios is reported. Weights are random, but such that no activation vanishes. PyTorch's
networks (channels last) are those of `pytorch_networks.py`; others are timed in JAX alone.

What bounds a network is told by its rate: the same process times one large matrix product, and a
network near that rate is bounded by arithmetic, one far below by memory and by many small layers.
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

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.processes import alone
from benchmarks.pytorch_networks import PACKAGES, network
from experiments.common.provenance import provenance

SIZES = {"efficientnet_lite1": 240, "efficientnet_lite2": 260}
"""Height and width of the images, where they are not 224."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time."""

    architectures: tuple[str, ...] = (
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
        "efficientnet_b0",
        "resnet18",
        "resnet34",
        "resnet50",
        "vgg16",
        "vgg16_bn",
        "vit_b16",
    )
    """Names of `jc2i.models.names()`."""
    frameworks: tuple[str, ...] = ("jax", "pytorch")
    """Which of the two."""
    batch: int = 8
    """Images in a batch."""
    threads: int = 2
    """Threads of PyTorch and processors of both; 0 leaves both as they are."""
    processes: int = 3
    """Processes a framework, in turn."""
    repeats: int = 7
    """Timed calls in each process, after two that are not."""
    json: Path | None = None
    """File for the numbers, with the command and the machine."""


def time_jax(architecture: str, benchmark: Benchmark) -> dict[str, float]:
    """Times one of this package's models in this process.

    Args:
      architecture: its name.
      benchmark: batch and repeats.

    Returns:
      Median seconds a batch and GFLOP, forward and with the gradient as explainers take it; the
      GFLOP/s of a matrix product.
    """
    import jax
    import jax.numpy as jnp

    import jc2i
    from jc2i.tracing import prepared

    model = jc2i.models.create(architecture, classes=1000, key=jax.random.key(0))
    size = SIZES.get(architecture, 224)
    images = jax.random.uniform(jax.random.key(1), (benchmark.batch, size, size, 3))

    def gradient(model: Any, images: jax.Array) -> jax.Array:
        return jax.grad(lambda images: prepared(model)(images)[:, 0].sum())(images)

    result = {}
    for kind, function in (
        ("forward", lambda model, images: prepared(model)(images)),
        ("gradient", gradient),
    ):
        compiled = jax.jit(function).lower(model, images).compile()
        result[kind] = _median_seconds(
            lambda compiled=compiled: compiled(model, images).block_until_ready(), benchmark
        )
        result[f"{kind}_gflop"] = (compiled.cost_analysis() or {})["flops"] / 1e9
    square = jnp.ones((2048, 2048))
    product = jax.jit(jnp.matmul)
    seconds = _median_seconds(lambda: product(square, square).block_until_ready(), benchmark)
    return result | {"product_gflop_a_second": 2 * 2.048**3 / seconds}


def time_pytorch(architecture: str, benchmark: Benchmark) -> dict[str, float]:
    """Times PyTorch's model in this process.

    Args:
      architecture: the name of ours.
      benchmark: batch, threads and repeats.

    Returns:
      Median seconds a batch, forward and with the gradient.
    """
    import torch  # pyright: ignore[reportMissingImports]

    if benchmark.threads:
        torch.set_num_threads(benchmark.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = SIZES.get(architecture, 224)
    model = network(architecture, size=size).requires_grad_(False)
    model = model.to(device, memory_format=torch.channels_last)
    images = torch.rand(benchmark.batch, 3, size, size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    _keep_activations(model, images)
    model.eval()

    def logits(images: torch.Tensor) -> torch.Tensor:
        result = model(images)
        return getattr(result, "logits", result)

    def forward() -> None:
        with torch.no_grad():
            logits(images)
        if device == "cuda":
            torch.cuda.synchronize()

    def gradient() -> None:
        inputs = images.clone().requires_grad_(True)
        torch.autograd.grad(logits(inputs)[:, 0].sum(), inputs)
        if device == "cuda":
            torch.cuda.synchronize()

    return {
        "forward": _median_seconds(forward, benchmark),
        "gradient": _median_seconds(gradient, benchmark),
    }


def _keep_activations(model: Any, images: Any) -> None:
    """Draws a network's convolutions, and fits its batch norms, so that no activation vanishes.

    The numbers of a deep network whose random weights shrink them become denormal: on a CPU, where
    XLA takes those for zero, PyTorch is then slower (EfficientNet-B0 six times).
    """
    import torch  # pyright: ignore[reportMissingImports]

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)


def _median_seconds(function: Callable[[], Any], benchmark: Benchmark) -> float:
    times = []
    for _ in range(benchmark.repeats + 2):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def in_a_process(framework: str, architecture: str, benchmark: Benchmark) -> dict[str, float]:
    """The measurement of one framework, made in a new process.

    Args:
      framework: `"jax"` or `"pytorch"`.
      architecture: its name.
      benchmark: what to time.

    Returns:
      As `time_jax` or `time_pytorch` does.

    Raises:
      SystemExit: if the process fails, with what it said last.
    """
    options = {name: getattr(benchmark, name) for name in ("batch", "threads", "repeats")}
    try:
        return alone(times, framework, architecture, options, threads=benchmark.threads)
    except SystemExit as failure:
        package = PACKAGES.get(architecture) if framework == "pytorch" else None
        hint = f" (is {package} installed?)" if "ModuleNotFoundError" in str(failure) else ""
        raise SystemExit(f"{failure}{hint}") from None


def times(framework: str, architecture: str, options: dict[str, Any]) -> dict[str, float]:
    """The measurement of one framework, in this process."""
    time = {"jax": time_jax, "pytorch": time_pytorch}[framework]
    return time(architecture, Benchmark(**options))


def measure(architecture: str, benchmark: Benchmark) -> dict[str, Any]:
    """Times one architecture in alternating processes.

    Args:
      architecture: its name.
      benchmark: what to time.

    Returns:
      One row: seconds a batch, GFLOP/s, and PyTorch's seconds over ours (above 1: ours is faster).
    """
    frameworks = [
        framework
        for framework in benchmark.frameworks
        if framework == "jax" or architecture in PACKAGES
    ]
    runs: dict[str, list[dict[str, float]]] = {framework: [] for framework in frameworks}
    for _ in range(benchmark.processes):
        for framework in frameworks:
            runs[framework].append(in_a_process(framework, architecture, benchmark))
    row: dict[str, Any] = {"architecture": architecture}
    for kind in ("forward", "gradient"):
        for framework in frameworks:
            seconds = [run[kind] for run in runs[framework]]
            row[f"{framework}_{kind}_seconds"] = float(np.median(seconds))
        if "jax" in frameworks:
            rates = [run[f"{kind}_gflop"] / run[kind] for run in runs["jax"]]
            row[f"{kind}_gflop_a_second"] = float(np.median(rates))
        if set(frameworks) == {"jax", "pytorch"}:
            pairs = zip(runs["pytorch"], runs["jax"], strict=True)
            row[f"{kind}_speedup"] = float(np.median([p[kind] / j[kind] for p, j in pairs]))
    if "jax" in frameworks:
        products = [run["product_gflop_a_second"] for run in runs["jax"]]
        row["product_gflop_a_second"] = float(np.median(products))
        share = row["forward_gflop_a_second"] / row["product_gflop_a_second"]
        row["bound_by"] = "arithmetic" if share > 0.5 else "memory and small layers"
    return row


def main(benchmark: Benchmark) -> None:
    """Times the architectures, prints a table and writes the numbers."""
    rows = []
    for architecture in benchmark.architectures:
        rows.append(measure(architecture, benchmark))
        print(json.dumps(rows[-1]), flush=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns, title=f"batch {benchmark.batch}, threads {benchmark.threads or 'all'}")
    for row in rows:
        cells = (row.get(name, "") for name in columns)
        table.add_row(*(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells))
    Console(width=240).print(table)
    if benchmark.json:
        settings = {k: v for k, v in dataclasses.asdict(benchmark).items() if k != "json"}
        record = {"provenance": provenance(), "benchmark": settings, "rows": rows}
        benchmark.json.parent.mkdir(parents=True, exist_ok=True)
        benchmark.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

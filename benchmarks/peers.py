"""How long a batch takes here and in the libraries that have the method too.

    PYTHONPATH=WHERE python benchmarks/peers.py --size 112 --json benchmarks/results/peers-cpu.json

where WHERE is a folder with the peers that the project itself does not need: captum,
pytorch-grad-cam (`grad-cam`) and torchray, beside torch. One that cannot be imported is left out,
and said to be.

The network is a ResNet-18 with random weights and the same layers on both sides. Each side is timed
in processes of its own, in turn; of each process the median of the calls after the first, which
compiles here and warms caches there. A ratio above 1: ours is faster. What a peer does one image
after another (TorchRay's optimisation, Captum's surrogates) it does so here.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.processes import alone
from experiments.common.provenance import provenance

CLASSES = 1000
PACKAGES = {"captum": "captum", "pytorch_grad_cam": "grad-cam", "torchray": "torchray"}
"""What a peer is imported as, and what it is installed as."""


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What to time."""

    methods: tuple[str, ...] = ()
    """Our names of the methods; none given: all that a peer has."""
    batch: int = 8
    """Images in a batch."""
    size: int = 224
    """Height and width of the images in pixels."""
    samples: int = 30
    """Steps, masks or samples of the methods that have some."""
    threads: int = 2
    """Processors of both sides; 0 for all."""
    processes: int = 3
    """Processes a side, in turn."""
    repeats: int = 3
    """Timed calls in each process, after one that is not."""
    json: Path | None = None
    """File for the numbers, with the command and the machine."""


def options(method: str, benchmark: Benchmark) -> dict[str, Any]:
    """The options with which both sides make the same evaluations."""
    window, samples = benchmark.size // 7, benchmark.samples
    return {
        "integrated_gradients": {"steps": samples, "references": ("black",)},
        "smoothgrad": {"samples": samples},
        "gradient_shap": {"samples": samples},
        "occlusion": {"window": window, "stride": window},
        "rise": {"masks": 10 * samples, "grid": 7, "keep": 0.5, "interpolation": "linear"},
        "kernel_shap": {"samples": 10 * samples, "segments": squares(benchmark)},
        "extremal_perturbation": {"steps": samples},
    }.get(method, {})


def squares(benchmark: Benchmark) -> np.ndarray:
    """The number of the square, of seven by seven, that a pixel of each image is in."""
    rows = np.arange(benchmark.size) * 7 // benchmark.size
    square = (7 * rows[:, None] + rows).astype(np.int32)
    return np.broadcast_to(square, (benchmark.batch, *square.shape))


def ours(methods: list[str], settings: dict[str, Any]) -> dict[str, float]:
    """Seconds a batch of each of our methods, in this process."""
    import jax

    import jc2i
    from jc2i.query import method_of

    benchmark = Benchmark(**settings)
    model = jc2i.models.create("resnet18", classes=CLASSES, key=jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (benchmark.batch, *[benchmark.size] * 2, 3))
    targets = np.arange(benchmark.batch)
    found = {}
    for method in methods:
        explain = getattr(jc2i.explainers, method)
        chosen = options(method, benchmark)
        keys = {"key": jax.random.key(2)} if method_of(explain).stochastic else {}
        found[method] = median_seconds(
            lambda explain=explain, chosen=chosen, keys=keys: explain(
                model, images, targets, **keys, **chosen
            ).block_until_ready(),
            benchmark.repeats,
        )
    return found


def theirs(methods: list[str], settings: dict[str, Any]) -> dict[str, float]:
    """Seconds a batch of each method of the peers, in this process."""
    import torch  # pyright: ignore[reportMissingImports]

    from benchmarks.pytorch_networks import basic_resnet

    benchmark = Benchmark(**settings)
    torch.manual_seed(0)
    if benchmark.threads:
        torch.set_num_threads(benchmark.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = basic_resnet(CLASSES).eval().to(device)
    images = torch.rand(benchmark.batch, 3, benchmark.size, benchmark.size, device=device)
    found = {}
    for method in methods:
        call = CALLS[PEERS[method]](method, model, images, benchmark)
        found[method] = median_seconds(call, benchmark.repeats)
    return found


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median wall time of calls after one that is not timed."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def _unused(*names: str) -> None:
    """Stands in for what a peer imports and does not use here, where it is not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = mock.MagicMock()


def _grad_cam(method: str, model: Any, images: Any, benchmark: Benchmark) -> Callable[[], Any]:
    _unused("ttach", "torchvision", "torchvision.transforms")
    import pytorch_grad_cam as peer  # pyright: ignore[reportMissingImports]
    from pytorch_grad_cam.utils.model_targets import (  # pyright: ignore[reportMissingImports]
        ClassifierOutputTarget,
    )

    name = {
        "grad_cam": "GradCAM",
        "grad_cam_plus_plus": "GradCAMPlusPlus",
        "xgrad_cam": "XGradCAM",
        "hires_cam": "HiResCAM",
        "layer_cam": "LayerCAM",
        "eigen_cam": "EigenCAM",
        "score_cam": "ScoreCAM",
        "ablation_cam": "AblationCAM",
        "full_grad": "FullGrad",
    }[method]
    explain = getattr(peer, name)(model, [model.layer4[-1]])
    targets = [ClassifierOutputTarget(i) for i in range(benchmark.batch)]
    return lambda: explain(images.clone(), targets)


def _captum(method: str, model: Any, images: Any, benchmark: Benchmark) -> Callable[[], Any]:
    import torch  # pyright: ignore[reportMissingImports]
    from captum import attr  # pyright: ignore[reportMissingImports]

    window = (3, benchmark.size // 7, benchmark.size // 7)
    count, given = benchmark.samples, {"target": torch.arange(benchmark.batch)}
    mask = torch.tensor(np.array(squares(benchmark)[:1]))[:, None].long()
    noise = {"nt_type": "smoothgrad", "nt_samples": count, "stdevs": 0.2}
    black = torch.zeros_like(images)

    def surrogate() -> None:
        explain = attr.KernelShap(model)
        for i in range(benchmark.batch):
            explain.attribute(
                images[i : i + 1],
                target=i,
                feature_mask=mask,
                n_samples=10 * count,
                perturbations_per_eval=benchmark.batch,
            )

    calls: dict[str, Callable[[], Any]] = {
        "sensitivity": lambda: attr.Saliency(model).attribute(images, **given),
        "integrated_gradients": lambda: attr.IntegratedGradients(model).attribute(
            images, n_steps=count, method="riemann_right", **given
        ),
        "smoothgrad": lambda: attr.NoiseTunnel(attr.Saliency(model)).attribute(
            images, **noise, **given
        ),
        "gradient_shap": lambda: attr.GradientShap(model).attribute(
            images, black, n_samples=count, **given
        ),
        "occlusion": lambda: attr.Occlusion(model).attribute(
            images, window, strides=window, **given
        ),
        "guided_backprop": lambda: attr.GuidedBackprop(model).attribute(images, **given),
        "deconvnet": lambda: attr.Deconvolution(model).attribute(images, **given),
        "deeplift": lambda: attr.DeepLift(model).attribute(images, black, **given),
        "kernel_shap": surrogate,
    }
    return calls[method]


def _torchray(method: str, model: Any, images: Any, benchmark: Benchmark) -> Callable[[], Any]:
    _unused("matplotlib", "matplotlib.pyplot", "pymongo", "requests", "torchvision")
    from torchray.attribution import (  # pyright: ignore[reportMissingImports]
        extremal_perturbation,
        rise,
    )

    def optimised() -> None:
        for i in range(benchmark.batch):
            extremal_perturbation.extremal_perturbation(
                model, images[i : i + 1], i, max_iter=benchmark.samples + 1, areas=[0.1]
            )

    masks = {"num_masks": 10 * benchmark.samples, "batch_size": 32}
    if method == "rise":
        return lambda: rise.rise(model, images, **masks)
    return optimised


CALLS = {"pytorch_grad_cam": _grad_cam, "captum": _captum, "torchray": _torchray}
PEERS = {
    **dict.fromkeys(
        (
            "grad_cam",
            "grad_cam_plus_plus",
            "xgrad_cam",
            "hires_cam",
            "layer_cam",
            "eigen_cam",
            "ablation_cam",
            "full_grad",
            "score_cam",
        ),
        "pytorch_grad_cam",
    ),
    **dict.fromkeys(
        (
            "sensitivity",
            "integrated_gradients",
            "smoothgrad",
            "gradient_shap",
            "occlusion",
            "guided_backprop",
            "deconvnet",
            "deeplift",
            "kernel_shap",
        ),
        "captum",
    ),
    **dict.fromkeys(("rise", "extremal_perturbation"), "torchray"),
}
"""The peer of each method."""


def main(benchmark: Benchmark) -> None:
    """Times both sides, prints a table and writes the numbers."""
    versions = {}
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            print(f"{package} is not installed: its methods are left out", flush=True)
        else:
            versions[module] = f"{package} {importlib.metadata.version(package)}"
    methods = [name for name in benchmark.methods or PEERS if PEERS[name] in versions]
    settings = {k: v for k, v in dataclasses.asdict(benchmark).items() if k != "json"}
    runs = [
        [alone(side, methods, settings, threads=benchmark.threads) for side in (ours, theirs)]
        for _ in range(benchmark.processes)
    ]
    rows = []
    for method in methods:
        pairs = np.array([[side[method] for side in run] for run in runs])
        ratios = pairs[:, 1] / pairs[:, 0]
        rows.append(
            {
                "method": method,
                "peer": versions[PEERS[method]],
                "seconds": float(np.median(pairs[:, 0])),
                "peer_seconds": float(np.median(pairs[:, 1])),
                "ratio": float(np.median(ratios)),
                "ratio_low": float(ratios.min()),
                "ratio_high": float(ratios.max()),
            }
        )
    table = Table(*rows[0], title=f"ResNet-18, batch {benchmark.batch}, {benchmark.size} pixels")
    for row in rows:
        table.add_row(*(f"{c:.4g}" if isinstance(c, float) else str(c) for c in row.values()))
    Console(width=160).print(table)
    if benchmark.json:
        record = {"provenance": provenance(), "benchmark": settings, "rows": rows}
        benchmark.json.parent.mkdir(parents=True, exist_ok=True)
        benchmark.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))

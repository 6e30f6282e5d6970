"""How far an explainer's maps on a GPU or TPU are from the CPU's, and what rounding is to blame.

    python benchmarks/precision.py --weights resnet20-12fca82f.th --json precision.json

Each explainer runs on the CPU in float32, on the accelerator as it comes (`jc2i` asks for products
in float32), and there with JAX's own default for such a device (`tensorfloat32` on an NVIDIA GPU):
the relative Euclidean distance from the CPU's maps, and the seconds of a second call.
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
import scipy.ndimage
import tyro

import jc2i
from benchmarks.throughput import Benchmark, chosen_options, measured
from experiments.common.provenance import provenance
from jc2i.query import method_of


@dataclasses.dataclass(frozen=True)
class Comparison(Benchmark):
    """What to compare; the model's weights are random where no file is given."""

    weights: Path | None = None
    """PyTorch file with the architecture's weights."""
    batch: int = 8
    evaluations: int = 10
    rounded: str = "tensorfloat32"
    """What the accelerator computes products in, the second time."""


def compared(explainer: str, comparison: Comparison, model: Any) -> dict[str, Any]:
    """One explainer's maps of smooth random images on both devices.

    Args:
      explainer: name of an explainer.
      comparison: sizes.
      model: images -> logits.

    Returns:
      Distances and seconds.
    """
    explain = getattr(jc2i.explainers, explainer)
    options = chosen_options(method_of(explain), comparison)
    noise = np.random.default_rng(0).normal(size=comparison.shape)
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 0))
    images = ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)

    def on(device: jax.Device, precision: str | None) -> tuple[np.ndarray, float]:
        with jax.default_device(device), jax.default_matmul_precision(precision):
            score = jax.device_put(jc2i.probabilities(model), device)
            inputs = jax.device_put(images, device)
            key = jax.device_put(jax.random.key(0), device)
            for _ in range(2):
                start = time.perf_counter()
                maps = explain(score, inputs, targets, key=key, **options).block_until_ready()
                seconds = time.perf_counter() - start
        return np.asarray(maps), seconds

    cpu, accelerator = jax.devices("cpu")[0], jax.devices()[0]
    targets = np.asarray(jax.device_put(model, cpu)(jax.device_put(images, cpu))).argmax(1)
    expected, cpu_seconds = on(cpu, None)
    full, full_seconds = on(accelerator, None)
    rounded, rounded_seconds = on(accelerator, comparison.rounded)

    def distance(maps: np.ndarray) -> float:
        return float(np.linalg.norm(maps - expected) / np.linalg.norm(expected))

    return {
        "explainer": explainer,
        "distance": distance(full),
        "distance_rounded": distance(rounded),
        "seconds_cpu": cpu_seconds,
        "seconds": full_seconds,
        "seconds_rounded": rounded_seconds,
        "options": options,
    }


def main(comparison: Comparison) -> None:
    """Compares the explainers, prints and writes the numbers."""
    if comparison.weights is None:
        key = jax.random.key(2)
        model = jc2i.models.create(comparison.model, classes=comparison.classes, key=key)
    else:
        name, file = comparison.model, comparison.weights
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        model = jc2i.models.from_torch(name, file, classes=comparison.classes, mean=mean, std=std)
    rows = []
    for row in measured(comparison.explainers, lambda name: compared(name, comparison, model)):
        rows.append(row)
        print(
            f"{row['explainer']}: {row['distance']:.1e}, {row['distance_rounded']:.1e}", flush=True
        )
    if comparison.json:
        record = {"provenance": provenance(), "rows": rows}
        comparison.json.write_text(json.dumps(record, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Comparison))

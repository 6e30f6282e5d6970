"""Makes models_logits.json: logits of PyTorch networks with weights drawn by name.

Run `python tests/golden/models_logits.py` where torch is installed. The networks are those of
`benchmarks/pytorch_networks.py`.
"""

from __future__ import annotations

import json
import runpy
import zlib
from pathlib import Path

import numpy as np

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BASE_8 = (8, 16, 32, 64)
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NETWORKS = runpy.run_path(str(BENCHMARKS / "pytorch_networks.py"))


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of that name: the same wherever they are drawn."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
    return (scale * random.standard_normal(shape)).astype(np.float32)


def images() -> np.ndarray:
    """Four images [4, 32, 32, 3] in [0, 1]."""
    return np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype(np.float32)


def main() -> None:
    import torch

    networks = {
        "resnet20_cifar A": NETWORKS["resnet20"](10, projection=False, head="linear"),
        "resnet20_cifar B": NETWORKS["resnet20"](10),
        "resnet18_cifar": NETWORKS["basic_resnet"](10, BASE_8, cifar=True),
        "vgg16_bn_cifar": NETWORKS["vgg16"](100, size=32, batch_norm=True, hidden=512),
    }
    x = (images() - np.float32(MEAN)) / np.float32(STD)
    golden = {}
    for case, network in networks.items():
        shapes = {
            name: list(value.shape)
            for name, value in network.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        drawn = {n: torch.from_numpy(tensor(n, tuple(shape))) for n, shape in shapes.items()}
        network.load_state_dict(drawn, strict=False)
        with torch.no_grad():
            logits = network.double().eval()(torch.from_numpy(x.transpose(0, 3, 1, 2)).double())
        golden[case] = {"shapes": shapes, "logits": logits.numpy().round(6).tolist()}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()

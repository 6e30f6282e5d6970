"""Makes models_imagenet.json: logits and input gradients of others' ImageNet networks.

Run `python tests/golden/models_imagenet.py` where torch, transformers and efficientnet-lite-pytorch
are installed. The networks are those of `benchmarks/pytorch_networks.py` (EfficientNet-B0 once
padded as torchvision and timm pad, once as transformers does), with weights drawn by name. The
names that torchvision and timm give to the weights are those of their source code; HUGGING_FACE
maps transformers' onto them.

`python tests/golden/models_imagenet.py rounding` prints what float32 costs PyTorch's gradients.
"""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CIFAR = runpy.run_path(str(Path(__file__).with_name("models_logits.py")))
MEAN, STD, tensor = CIFAR["MEAN"], CIFAR["STD"], CIFAR["tensor"]
NETWORKS = CIFAR["NETWORKS"]
CLASSES = 10
TARGET = 3
ENTRIES = 40

CASES = {
    "resnet18": {"size": 64},
    "resnet34": {"size": 64},
    "resnet50": {"size": 64},
    "vgg16": {"size": 64, "options": {"size": 64, "hidden": 32}},
    "vgg16_bn": {"size": 64, "options": {"size": 64, "hidden": 32}},
    "efficientnet_b0 torchvision": {"size": 72},
    "efficientnet_b0 timm": {"size": 64, "options": {"padding": "same", "epsilon": 1e-3}},
    # 72, 36, 18, 9, 5, 3 pixels: paddings of even and of odd images.
    "efficientnet_lite0": {"size": 72},
    "efficientnet_lite1": {"size": 72},
    "efficientnet_lite2": {"size": 72},
}


def images(size: int, seed: int = 0) -> np.ndarray:
    """Two images [2, size, size, 3] in [0, 1]."""
    return np.random.default_rng(seed).uniform(size=(2, size, size, 3)).astype(np.float32)


def entries(size: int) -> np.ndarray:
    """Which entries of the flat gradient are kept."""
    return np.random.default_rng(1).choice(2 * size * size * 3, ENTRIES, replace=False)


RESNET = (
    (r"resnet\.embedder\.embedder\.convolution", "conv1"),
    (r"resnet\.embedder\.embedder\.normalization", "bn1"),
    (r"resnet\.encoder\.stages\.(\d)\.layers\.", lambda m: f"layer{int(m[1]) + 1}."),
    (r"layer\.(\d)\.convolution", lambda m: f"conv{int(m[1]) + 1}"),
    (r"layer\.(\d)\.normalization", lambda m: f"bn{int(m[1]) + 1}"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
    (r"classifier\.1", "fc"),
)

BLOCKS = (1, 2, 2, 3, 3, 4, 1)
STAGE_OF = [(stage, i) for stage, count in enumerate(BLOCKS) for i in range(count)]
TORCHVISION_PARTS = {
    "expansion.expand_conv": "0.0",
    "expansion.expand_bn": "0.1",
    "depthwise_conv.depthwise_conv": "1.0",
    "depthwise_conv.depthwise_norm": "1.1",
    "squeeze_excite.reduce": "2.fc1",
    "squeeze_excite.expand": "2.fc2",
    "projection.project_conv": "3.0",
    "projection.project_bn": "3.1",
}
TIMM_PARTS = {
    "expansion.expand_conv": "conv_pw",
    "expansion.expand_bn": "bn1",
    "depthwise_conv.depthwise_conv": "conv_dw",
    "depthwise_conv.depthwise_norm": "bn2",
    "squeeze_excite.reduce": "se.conv_reduce",
    "squeeze_excite.expand": "se.conv_expand",
    "projection.project_conv": "conv_pwl",
    "projection.project_bn": "bn3",
}
# Torchvision's and timm's first blocks, which do not expand, have other numbers.
TORCHVISION_FIRST = {
    "depthwise_conv.depthwise_conv": "0.0",
    "depthwise_conv.depthwise_norm": "0.1",
    "squeeze_excite.reduce": "1.fc1",
    "squeeze_excite.expand": "1.fc2",
    "projection.project_conv": "2.0",
    "projection.project_bn": "2.1",
}
TIMM_FIRST = {
    "depthwise_conv.depthwise_conv": "conv_dw",
    "depthwise_conv.depthwise_norm": "bn1",
    "squeeze_excite.reduce": "se.conv_reduce",
    "squeeze_excite.expand": "se.conv_expand",
    "projection.project_conv": "conv_pw",
    "projection.project_bn": "bn2",
}


def _torchvision_block(match: re.Match) -> str:
    number, part = int(match[1]), match[2]
    stage, block = STAGE_OF[number]
    parts = TORCHVISION_PARTS if number else TORCHVISION_FIRST
    return f"features.{stage + 1}.{block}.block.{parts[part]}"


def _timm_block(match: re.Match) -> str:
    number, part = int(match[1]), match[2]
    stage, block = STAGE_OF[number]
    return f"blocks.{stage}.{block}.{(TIMM_PARTS if number else TIMM_FIRST)[part]}"


HUGGING_FACE: dict[str, tuple[tuple[str, str | Callable[[re.Match], str]], ...]] = {
    "resnet18": RESNET,
    "resnet34": RESNET,
    "resnet50": RESNET,
    "efficientnet_b0 torchvision": (
        (r"efficientnet\.encoder\.blocks\.(\d+)\.(\w+\.\w+)", _torchvision_block),
        (r"efficientnet\.embeddings\.convolution", "features.0.0"),
        (r"efficientnet\.embeddings\.batchnorm", "features.0.1"),
        (r"efficientnet\.encoder\.top_conv", "features.8.0"),
        (r"efficientnet\.encoder\.top_bn", "features.8.1"),
        (r"^classifier", "classifier.1"),
    ),
    "efficientnet_b0 timm": (
        (r"efficientnet\.encoder\.blocks\.(\d+)\.(\w+\.\w+)", _timm_block),
        (r"efficientnet\.embeddings\.convolution", "conv_stem"),
        (r"efficientnet\.embeddings\.batchnorm", "bn1"),
        (r"efficientnet\.encoder\.top_conv", "conv_head"),
        (r"efficientnet\.encoder\.top_bn", "bn2"),
    ),
}


def published_name(case: str, name: str) -> str:
    """A weight's name in the files that users have."""
    for pattern, replacement in HUGGING_FACE.get(case, ()):
        name = re.sub(pattern, replacement, name)
    return name


def network(case: str) -> Any:
    """The PyTorch network of a case."""
    name, size, options = case.split()[0], CASES[case]["size"], CASES[case].get("options", {})
    if name == "efficientnet_b0":
        return NETWORKS["efficientnet_b0"](CLASSES, symmetric=case.endswith("torchvision"))
    if name.startswith("vgg16"):
        return NETWORKS["vgg16"](CLASSES, size, name.endswith("bn"), options["hidden"])
    return NETWORKS["network"](name, CLASSES, size)


def loaded(case: str) -> tuple[Any, dict[str, list[int]]]:
    """The network with its weights drawn, and their shapes by published name."""
    import torch

    model = network(case)
    shapes, drawn = {}, {}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        published = published_name(case, name)
        shapes[published] = list(value.shape)
        drawn[name] = torch.from_numpy(tensor(published, tuple(value.shape)))
    left = model.load_state_dict(drawn, strict=False)
    assert not left.unexpected_keys and len(shapes) == len(drawn)
    return model.eval(), shapes


def evaluate(model: Any, pixels: np.ndarray, dtype: str = "float64") -> tuple[Any, np.ndarray]:
    """Logits and the input gradient of the target's, computed in a dtype."""
    import torch

    dtype = getattr(torch, dtype)
    x = torch.from_numpy(pixels).to(dtype).requires_grad_(True)
    mean, std = (torch.tensor(values, dtype=dtype) for values in (MEAN, STD))
    logits = model.to(dtype)(((x - mean) / std).permute(0, 3, 1, 2).contiguous())
    logits = getattr(logits, "logits", logits)
    gradient = torch.autograd.grad(logits[:, TARGET].sum(), x)[0].numpy()
    return logits.detach().numpy(), gradient


def rounding(pairs: int = 6) -> None:
    """Prints how far PyTorch's float32 gradients are from its float64's, by pair of images."""
    for case, settings in CASES.items():
        model, off = loaded(case)[0], []
        for seed in range(pairs):
            pixels = images(settings["size"], seed)
            single, double = (evaluate(model, pixels, d)[1] for d in ("float32", "float64"))
            off.append(np.abs(single - double).max() / np.abs(double).max())
        print(case, *(f"{value:.0e}" for value in off))


def main() -> None:
    golden = {}
    for case, settings in CASES.items():
        model, shapes = loaded(case)
        logits, gradient = evaluate(model, images(settings["size"]))
        golden[case] = {
            "shapes": shapes,
            "logits": logits.tolist(),
            "gradient": gradient.ravel()[entries(settings["size"])].tolist(),
            "gradient_norms": np.sqrt((gradient**2).sum((1, 2, 3))).tolist(),
        }
        print(case, golden[case]["logits"][0][:3], golden[case]["gradient_norms"])
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    rounding() if sys.argv[1:] == ["rounding"] else main()

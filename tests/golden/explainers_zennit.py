"""Makes explainers_zennit.npz: relevances of four networks by zennit, and what they are of.

Run `python tests/golden/explainers_zennit.py` where torch and zennit 0.5.1 are installed; what
zennit imports of torchvision is not used and need not be. The weights are drawn by name as
`models_logits.py` draws them, the networks written as it writes them, but for what zennit asks for:
rectifiers and additions (`zennit.layer.Sum`) are modules. Batch norms are merged before: what its
canoniser leaves of one still divides by the root of 1 + 1e-5. Relevance starts as the target's
logit, everything is computed in float64 and stored channels last.
"""

from __future__ import annotations

import json
import runpy
import sys
import types
from pathlib import Path

import numpy as np

LOGITS = runpy.run_path(str(Path(__file__).with_name("models_logits.py")))
NETWORKS = {
    # Images, height, width.
    "resnet20_cifar A": (2, 24, 20),
    "resnet20_cifar B": (2, 24, 20),
    "resnet18": (1, 33, 40),
    "vgg16_bn_cifar": (1, 32, 32),
}
CLASSES = 10
EPSILON = 1e-6


def images(network: str) -> np.ndarray:
    """Images [batch, height, width, 3] in [0, 1], in float32."""
    shape = (*NETWORKS[network], 3)
    return np.random.default_rng(len(network)).uniform(size=shape).astype(np.float32)


def targets(network: str) -> np.ndarray:
    """A class for each image."""
    return 3 + 2 * np.arange(NETWORKS[network][0])


def main() -> None:
    # zennit's canonisers of torchvision's networks, which are all that it needs torchvision for.
    sys.modules["zennit.torchvision"] = types.ModuleType("zennit.torchvision")
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval
    from zennit import composites, rules
    from zennit.layer import Sum
    from zennit.types import Convolution

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, projection: bool) -> None:
            super().__init__()
            stride = 1 if inputs == outputs else 2
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.relu1 = nn.ReLU()
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            if projection and stride == 2:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs)
                )
            self.sum = Sum()
            self.relu2 = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.relu1(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            if hasattr(self, "downsample"):
                x = self.downsample(x)
            elif x.shape != y.shape:
                quarter = y.shape[1] // 4
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            return self.relu2(self.sum(torch.stack([x, y], dim=-1)))

    class ResNet(nn.Module):
        def __init__(self, stem: nn.Conv2d, pool: nn.Module, widths, count: int, projection: bool):
            super().__init__()
            inputs = stem.out_channels
            self.conv1, self.bn1, self.relu, self.pool = (
                stem,
                nn.BatchNorm2d(inputs),
                nn.ReLU(),
                pool,
            )
            self.stages = len(widths)
            for stage, width in enumerate(widths, start=1):
                blocks = [
                    Block(inputs if i == 0 else width, width, projection) for i in range(count)
                ]
                self.add_module(f"layer{stage}", nn.Sequential(*blocks))
                inputs = width
            self.average = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(inputs, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.pool(self.relu(self.bn1(self.conv1(x))))
            for stage in range(self.stages):
                x = getattr(self, f"layer{stage + 1}")(x)
            return self.fc(self.average(x).flatten(1))

    class VGG16(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            inputs = 3
            for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
                for _ in range(count):
                    conv = nn.Conv2d(inputs, width, 3, padding=1)
                    layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
                    inputs = width
                layers.append(nn.MaxPool2d(2))
            self.features = nn.Sequential(*layers)
            hidden = [nn.Linear(512, 512), nn.ReLU(), nn.Dropout()]
            again = [nn.Linear(512, 512), nn.ReLU(), nn.Dropout()]
            self.classifier = nn.Sequential(*hidden, *again, nn.Linear(512, CLASSES))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.features(x).flatten(1))

    def resnet20(projection: bool) -> nn.Module:
        stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        return ResNet(stem, nn.Identity(), (16, 32, 64), 3, projection)

    def resnet18() -> nn.Module:
        stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        return ResNet(stem, nn.MaxPool2d(3, 2, 1), (64, 128, 256, 512), 2, True)

    def merge(module: nn.Module) -> None:
        """Puts every batch norm into the convolution that is its module's child before it."""
        before = None
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(module, name, nn.Identity())
            merge(child)
            before = name, child

    networks = {
        "resnet20_cifar A": lambda: resnet20(projection=False),
        "resnet20_cifar B": lambda: resnet20(projection=True),
        "resnet18": resnet18,
        "vgg16_bn_cifar": VGG16,
    }
    mean, std = (
        torch.tensor(LOGITS[n], dtype=torch.float64).reshape(1, 3, 1, 1) for n in ("MEAN", "STD")
    )
    options = {"epsilon": EPSILON, "stabilizer": EPSILON}
    box = {"low": (0 - mean) / std, "high": (1 - mean) / std}

    def everywhere(rule):
        """One rule of every linear map."""
        layer_map = composites.layer_map_base(EPSILON)
        return composites.LayerMapComposite([*layer_map, (Convolution, rule), (nn.Linear, rule)])

    several = {
        "epsilon": everywhere(rules.Epsilon(EPSILON)),
        "epsilon_plus": composites.EpsilonPlus(**options),
        "epsilon_plus_flat": composites.EpsilonPlusFlat(**options),
        "epsilon_alpha2_beta1": composites.EpsilonAlpha2Beta1(**options),
        "epsilon_gamma_box": composites.EpsilonGammaBox(**box, **options),
    }
    every = several | {
        "z_plus": everywhere(rules.ZPlus(EPSILON)),
        "alpha_beta": everywhere(rules.AlphaBeta(2, 1, EPSILON)),
        "gamma": everywhere(rules.Gamma(0.25, EPSILON)),
        "w_square": everywhere(rules.WSquare(EPSILON)),
        "flat": everywhere(rules.Flat(EPSILON)),
        "epsilon_alpha2_beta1_flat": composites.EpsilonAlpha2Beta1Flat(**options),
    }
    golden = {}
    for case, make in networks.items():
        network = make()
        shapes = {
            name: list(value.shape)
            for name, value in network.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        golden[f"{case}/shapes"] = np.array(json.dumps(shapes))
        drawn = {n: torch.from_numpy(LOGITS["tensor"](n, tuple(s))) for n, s in shapes.items()}
        network.load_state_dict(drawn, strict=False)
        network.double().eval()
        x = (torch.from_numpy(images(case)).double().permute(0, 3, 1, 2) - mean) / std
        chosen = F.one_hot(torch.from_numpy(targets(case)), CLASSES)
        plain = network(x).detach()
        golden[f"{case}/logits"] = plain.numpy()
        merge(network)
        used = every if case == "resnet20_cifar B" else several
        for name, composite in used.items():
            given = x.clone().requires_grad_()
            with composite.context(network) as modified:
                logits = modified(given)
                assert torch.allclose(logits, plain)
                (relevance,) = torch.autograd.grad(logits, given, chosen * logits.detach())
            relevance = relevance.permute(0, 2, 3, 1).numpy()
            golden[f"{case}/{name}"] = relevance.astype(np.float32)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **golden)


if __name__ == "__main__":
    main()

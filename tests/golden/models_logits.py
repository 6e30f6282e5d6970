"""Makes models_logits.json: logits of PyTorch networks with weights drawn by name.

Run `python tests/golden/models_logits.py` where torch is installed. The networks below are written
with torch alone, after the two public repositories whose parameter names they carry:
akamaster/pytorch_resnet_cifar10 and chenyaofo/pytorch-cifar-models.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


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
    import torch.nn.functional as F
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, projection: bool) -> None:
            super().__init__()
            stride = 1 if inputs == outputs else 2
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            if projection and stride == 2:
                self.downsample = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            if hasattr(self, "downsample"):
                x = self.downsample(x)
            elif x.shape != y.shape:
                quarter = y.shape[1] // 4
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
            return F.relu(x + y)

    class ResNet20(nn.Module):
        def __init__(self, projection: bool, head: str) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            inputs = 16
            for stage, width in enumerate((16, 32, 64), start=1):
                widths = (inputs, width, width)
                blocks = [Block(w, width, projection) for w in widths]
                self.add_module(f"layer{stage}", nn.Sequential(*blocks))
                inputs = width
            self.head = head
            self.add_module(head, nn.Linear(64, 10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.bn1(self.conv1(x)))
            x = self.layer3(self.layer2(self.layer1(x)))
            return getattr(self, self.head)(F.avg_pool2d(x, 8).flatten(1))

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
            self.classifier = nn.Sequential(*hidden, *again, nn.Linear(512, 100))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.classifier(self.features(x).flatten(1))

    networks = {
        "resnet20_cifar A": ResNet20(projection=False, head="linear"),
        "resnet20_cifar B": ResNet20(projection=True, head="fc"),
        "vgg16_bn_cifar": VGG16(),
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

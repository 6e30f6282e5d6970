"""PyTorch's implementations of our architectures with random weights: others' where they are had.

The benchmarks time them and `tests/golden/` takes their numbers. The residual networks,
EfficientNet-B0 and the vision transformers are those of Hugging Face's transformers, the Lite
networks those of efficientnet-lite-pytorch. Torchvision could not be installed beside this torch,
so VGG is its published list of layers in torch.nn.Sequential, and residual networks that carry
the names of its parameters, or of akamaster/pytorch_resnet_cifar10's and
chenyaofo/pytorch-cifar-models', are written here. Nothing is imported before a network is asked
for.
"""

from __future__ import annotations

from typing import Any

PACKAGES = {
    "efficientnet_lite0": "efficientnet-lite-pytorch",
    "efficientnet_lite1": "efficientnet-lite-pytorch",
    "efficientnet_lite2": "efficientnet-lite-pytorch",
    "efficientnet_b0": "transformers",
    "resnet18": "transformers",
    "resnet34": "transformers",
    "resnet50": "transformers",
    "vgg16": "torch",
    "vgg16_bn": "torch",
    "vit_b16": "transformers",
    "deit_b16": "transformers",
}
"""The package that each architecture's network is of."""

RESNET_STAGES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


def network(architecture: str, classes: int = 1000, size: int = 224) -> Any:
    """PyTorch's network of one of `PACKAGES`.

    Args:
      architecture: name of our architecture.
      classes: number of classes.
      size: height and width of the images in pixels.

    Returns:
      A torch.nn.Module in training mode, whose output is the logits or has them as `.logits`.
    """
    package = PACKAGES[architecture]
    if package == "torch":
        return vgg16(classes, size, batch_norm=architecture == "vgg16_bn")
    if package == "efficientnet-lite-pytorch":
        from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

        name = architecture.replace("_", "-")
        return EfficientNet.from_name(name, num_classes=classes, image_size=size)
    if architecture == "efficientnet_b0":
        return efficientnet_b0(classes)
    if architecture in RESNET_STAGES:
        return resnet(architecture, classes)
    return vision_transformer(classes, image_size=size)


def resnet(architecture: str, classes: int) -> Any:
    """ResNet of transformers."""
    from transformers import (  # pyright: ignore[reportMissingImports]
        ResNetConfig,
        ResNetForImageClassification,
    )

    options: dict[str, Any] = {"layer_type": "bottleneck"}
    if architecture != "resnet50":
        options = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}
    depths = list(RESNET_STAGES[architecture])
    return ResNetForImageClassification(ResNetConfig(num_labels=classes, depths=depths, **options))


def basic_resnet(
    classes: int,
    widths: tuple[int, ...] = (64, 128, 256, 512),
    blocks: int = 2,
    cifar: bool = False,
    projection: bool = True,
    head: str = "fc",
    addition: Any = None,
) -> Any:
    """A residual network of basic blocks whose rectifiers and additions are modules: ResNet-18.

    Args:
      classes: number of classes.
      widths: channels of each stage.
      blocks: blocks in each stage.
      cifar: a first convolution of 3x3 pixels without pooling, instead of 7x7 with.
      projection: shortcuts of 1x1 convolutions where the size changes, instead of padding.
      head: name of the last layer.
      addition: makes a module that sums along the last axis; None for PyTorch's sum.

    Returns:
      A torch.nn.Module in training mode.
    """
    import torch  # pyright: ignore[reportMissingImports]
    import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(-1)

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            stride = 1 if inputs == outputs else 2
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.relu1 = nn.ReLU()
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            if projection and stride == 2:
                shortcut = nn.Conv2d(inputs, outputs, 1, 2, bias=False)
                self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
            self.sum = (addition or Sum)()
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
        def __init__(self) -> None:
            super().__init__()
            size, stride, padding = (3, 1, 1) if cifar else (7, 2, 3)
            self.conv1 = nn.Conv2d(3, widths[0], size, stride, padding, bias=False)
            self.bn1 = nn.BatchNorm2d(widths[0])
            self.relu = nn.ReLU()
            self.pool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, 1)
            inputs = widths[0]
            for stage, width in enumerate(widths, start=1):
                layers = [Block(inputs if i == 0 else width, width) for i in range(blocks)]
                self.add_module(f"layer{stage}", nn.Sequential(*layers))
                inputs = width
            self.average = nn.AdaptiveAvgPool2d(1)
            self.add_module(head, nn.Linear(inputs, classes))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.pool(self.relu(self.bn1(self.conv1(x))))
            for stage in range(len(widths)):
                x = getattr(self, f"layer{stage + 1}")(x)
            return getattr(self, head)(self.average(x).flatten(1))

    return ResNet()


def resnet20(classes: int, **options: Any) -> Any:
    """ResNet-20 for CIFAR; options as those of `basic_resnet`."""
    return basic_resnet(classes, (16, 32, 64), 3, cifar=True, **options)


def efficientnet_b0(classes: int, symmetric: bool = False) -> Any:
    """EfficientNet-B0 of transformers; `symmetric` pads as torchvision does, not TensorFlow."""
    from torch import nn  # pyright: ignore[reportMissingImports]
    from transformers import (  # pyright: ignore[reportMissingImports]
        EfficientNetConfig,
        EfficientNetForImageClassification,
    )

    config = EfficientNetConfig(
        num_labels=classes,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        # The blocks that pad alike on all sides.
        depthwise_padding=list(range(16)) if symmetric else [],
        batch_norm_eps=1e-5 if symmetric else 1e-3,
    )
    model = EfficientNetForImageClassification(config)
    if symmetric:
        model.efficientnet.embeddings.padding = nn.ZeroPad2d(1)
    return model


def vision_transformer(
    classes: int, epsilon: float = 1e-6, attention: str = "sdpa", **dimensions: int
) -> Any:
    """Vision transformer of transformers, base size with patches of 16 unless told otherwise.

    `attention="eager"` keeps the attention maps; "sdpa" is PyTorch's fused kernel.
    """
    from transformers import (  # pyright: ignore[reportMissingImports]
        ViTConfig,
        ViTForImageClassification,
    )

    config = ViTConfig(
        layer_norm_eps=epsilon,
        num_labels=classes,
        hidden_act="gelu",
        attn_implementation=attention,
        **dimensions,
    )
    return ViTForImageClassification(config)


def vgg16(classes: int, size: int = 224, batch_norm: bool = False, hidden: int = 4096) -> Any:
    """torchvision.models.vgg16 and vgg16_bn (configuration "D") in torch."""
    from torch import nn  # pyright: ignore[reportMissingImports]

    layers: list[Any] = []
    inputs = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers.append(nn.Conv2d(inputs, width, kernel_size=3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            inputs = width
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    head = [nn.Linear(512 * (size // 32) ** 2, hidden), nn.ReLU(True), nn.Dropout()]
    head += [nn.Linear(hidden, hidden), nn.ReLU(True), nn.Dropout(), nn.Linear(hidden, classes)]
    model = nn.Sequential()
    model.add_module("features", nn.Sequential(*layers))
    model.add_module("flatten", nn.Flatten())
    model.add_module("classifier", nn.Sequential(*head))
    return model

"""The architectures, one family a file.

- for ImageNet: `EfficientNet`, `ResNet`, `VGG`
- transformers, for 224x224 images and smaller ones: `VisionTransformer`
- for 32x32 images: `ResNetCifar`, `VGGCifar`
- for the demo: `Small`
- of bounded slope: `Lipschitz`
"""

from __future__ import annotations

from jc2i.models.architectures.efficientnet import EfficientNet
from jc2i.models.architectures.lipschitz import Lipschitz
from jc2i.models.architectures.resnet import ResNet
from jc2i.models.architectures.resnet_cifar import ResNetCifar
from jc2i.models.architectures.small import Small
from jc2i.models.architectures.vgg import VGG, VGGCifar
from jc2i.models.architectures.vision_transformer import VisionTransformer

__all__ = [
    "VGG",
    "EfficientNet",
    "Lipschitz",
    "ResNet",
    "ResNetCifar",
    "Small",
    "VGGCifar",
    "VisionTransformer",
]

"""The architectures, one family a file.

- transformers, for 224x224 images and smaller ones: `VisionTransformer`
- for 32x32 images: `ResNetCifar`, `VGGCifar`
- for the demo: `Small`
"""

from __future__ import annotations

from jc2i.models.architectures.resnet_cifar import ResNetCifar
from jc2i.models.architectures.small import Small
from jc2i.models.architectures.vgg_cifar import VGGCifar
from jc2i.models.architectures.vision_transformer import VisionTransformer

__all__ = ["ResNetCifar", "Small", "VGGCifar", "VisionTransformer"]

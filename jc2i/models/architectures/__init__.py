"""The architectures, one family a file.

- for 32x32 images: `ResNetCifar`, `VGGCifar`
- for the demo: `Small`
"""

from __future__ import annotations

from jc2i.models.architectures.resnet_cifar import ResNetCifar
from jc2i.models.architectures.small import Small
from jc2i.models.architectures.vgg_cifar import VGGCifar

__all__ = ["ResNetCifar", "Small", "VGGCifar"]

"""Image classifiers as Flax modules: callable pytrees `images -> logits`.

- `create`, `names`: a new model of a named architecture
- `save`, `load`: a model as a folder on disk; `load` also takes the name of published weights
- `pretrained_names`, `PRETRAINED`, `Pretrained`: those weights, where they are from and what images
  they take; `pretrained_file`, `cache_folder`: where they lie; `class_names`,
  `class_folders`: what their classes and the folders of these are called
- `with_new_head`, `head_names`: a model's last layer replaced, to train it on other classes
- `from_torch`, `read_torch_file`: weights trained in PyTorch, read without it
- `lipschitz_bound`, `layer_bounds`: how much a 1-Lipschitz network can stretch, proven;
  `Constrained`: that network in training; `convolution_norm_bound`: of one convolution
- `Classifier`: what they all are; `EfficientNet`, `Lipschitz`, `ResNet`, `ResNetCifar`, `Small`,
  `VGG`, `VGGCifar`, `VisionTransformer`: the architectures
"""

from __future__ import annotations

from jc2i.models.architectures import (
    VGG,
    EfficientNet,
    Lipschitz,
    ResNet,
    ResNetCifar,
    Small,
    VGGCifar,
    VisionTransformer,
)
from jc2i.models.architectures.lipschitz import Constrained, layer_bounds, lipschitz_bound
from jc2i.models.checkpoint import save
from jc2i.models.class_names import class_folders, class_names
from jc2i.models.classifier import Classifier
from jc2i.models.head import head_names, with_new_head
from jc2i.models.import_torch import from_torch
from jc2i.models.loading import load
from jc2i.models.operator_norm import convolution_norm_bound
from jc2i.models.preprocessing import Floats, published_classes, published_resizing
from jc2i.models.pretrained import (
    PRETRAINED,
    Pretrained,
    cache_folder,
    pretrained_file,
    pretrained_names,
)
from jc2i.models.registry import create, names
from jc2i.models.torch_files import read_torch_file

__all__ = [
    "PRETRAINED",
    "VGG",
    "Classifier",
    "Constrained",
    "EfficientNet",
    "Floats",
    "Lipschitz",
    "Pretrained",
    "ResNet",
    "ResNetCifar",
    "Small",
    "VGGCifar",
    "VisionTransformer",
    "cache_folder",
    "class_folders",
    "class_names",
    "convolution_norm_bound",
    "create",
    "from_torch",
    "head_names",
    "layer_bounds",
    "lipschitz_bound",
    "load",
    "names",
    "pretrained_file",
    "pretrained_names",
    "published_classes",
    "published_resizing",
    "read_torch_file",
    "save",
    "with_new_head",
]

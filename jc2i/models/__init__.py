"""Image classifiers as Flax modules: callable pytrees `images -> logits`.

- `create`, `names`: a new model of a named architecture
- `save`, `load`: a model as a folder on disk
- `from_torch`, `read_torch_file`: weights trained in PyTorch, read without it
- `Classifier`: what they all are; `ResNetCifar`, `VGGCifar`, `VisionTransformer`,
  `Small`: the architectures
"""

from __future__ import annotations

from jc2i.models.architectures import ResNetCifar, Small, VGGCifar, VisionTransformer
from jc2i.models.checkpoint import load, save
from jc2i.models.classifier import Classifier
from jc2i.models.import_torch import from_torch
from jc2i.models.registry import create, names
from jc2i.models.torch_files import read_torch_file

__all__ = [
    "Classifier",
    "ResNetCifar",
    "Small",
    "VGGCifar",
    "VisionTransformer",
    "create",
    "from_torch",
    "load",
    "names",
    "read_torch_file",
    "save",
]

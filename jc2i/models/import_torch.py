"""Weights trained in PyTorch, as Flax models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jc2i import checks
from jc2i.checks import invalid
from jc2i.models.classifier import (
    Classifier,
    require_same_shapes,
    require_sound,
    shapes,
    with_weights,
)
from jc2i.models.registry import ARCHITECTURES, outline
from jc2i.models.torch_files import MAX_BYTES, read_torch_file

_TORCH_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def from_torch(
    name: str,
    path: str | os.PathLike[str],
    *,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    normalize: bool = True,
    averaged: bool = True,
    max_bytes: int = MAX_BYTES,
    **options: Any,
) -> Classifier:
    """A model with the weights of a PyTorch file, which is read without torch or running its code.

    The ImageNet networks take the names of torchvision and timm (DeiT's are timm's), EfficientNets
    also those of lukemelas/EfficientNet-PyTorch and efficientnet-lite-pytorch (see `EfficientNet`
    for which of them pads how). Those for CIFAR take the names of
    github.com/chenyaofo/pytorch-cifar-models (whose shortcuts are `"B"`), the residual ones also
    those of github.com/akamaster/pytorch_resnet_cifar10.

    Args:
      name: one of `names()` that PyTorch has weights for: all but `"small"`.
      path: a file of `torch.save`, old or new, or a safetensors file.
      classes: the number of classes.
      mean: for each channel, what training subtracted from images in [0, 1].
      std: for each channel, what training divided them by.
      normalize: False builds a model that takes images normalised already.
      averaged: which weights are read from a file that holds both, such as timm's (`state_dict`
        and `state_dict_ema`) and torchvision's (`model` and `model_ema`): True for the moving
        average, which is what was evaluated, False for the raw ones (see `read_torch_file`).
      max_bytes: the most bytes that the file may have (see `read_torch_file`).
      **options: as for `create`.

    Returns:
      A callable pytree `images -> logits`, in evaluation mode.

    Raises:
      ValueError: for a file that is none of these, or whose tensors are not exactly the
        architecture's: every missing, surplus and misshapen one is named; or for weights that are
        whole numbers, NaN or infinite, and variances below 0.
    """
    model = outline(name, classes=classes, mean=mean, std=std, normalize=normalize, **options)
    if not hasattr(model, "torch_names"):
        others = [n for n in ARCHITECTURES if n != name]
        raise invalid("name", repr(name), f"one of {', '.join(others)}")
    tensors = {
        tensor: values
        for tensor, values in read_torch_file(path, averaged=averaged, max_bytes=max_bytes).items()
        if not tensor.endswith("num_batches_tracked")
    }
    ours = shapes(model)
    torch_name = _torch_names(model, list(ours), tensors)
    require_same_shapes(
        checks.path("path", path),
        {torch_name[n]: _torch_shape(shape) for n, shape in ours.items()},
        tensors,
        f"the tensors of {name} with {model.options}",
    )
    require_sound(checks.path("path", path), tensors)
    return with_weights(model, {n: _from_torch_layout(tensors[torch_name[n]]) for n in ours})


def _torch_names(model: Any, names: list[str], tensors: dict[str, np.ndarray]) -> dict[str, str]:
    """Our names to a file's, by that of the model's naming conventions that fits the file best."""
    conventions = zip(*(_candidates(model, name) for name in names), strict=True)
    best = max(conventions, key=lambda found: sum(name in tensors for name in found))
    return dict(zip(names, best, strict=True))


def _candidates(model: Any, name: str) -> list[str]:
    """What each naming convention calls one of our weights."""
    *layer, leaf = name.split(".")
    if leaf not in _TORCH_LEAVES:  # no layer's, such as a class token
        return list(model.torch_names((*layer, leaf)))
    # PyTorch's attention has weights of its own where we have a layer: in_proj_weight.
    return [
        f"{prefix}{'_' if prefix.endswith('in_proj') else '.'}{_TORCH_LEAVES[leaf]}"
        for prefix in model.torch_names(tuple(layer))
    ]


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    # A dense kernel [in, out] is [out, in] there, [height, width, in, out] is [out, in, height,
    # width]; whatever else is the same.
    swapped = {2: (1, 0), 4: (3, 2, 0, 1)}.get(len(shape), range(len(shape)))
    return tuple(shape[axis] for axis in swapped)


def _from_torch_layout(tensor: np.ndarray) -> np.ndarray:
    return tensor.transpose({2: (1, 0), 4: (2, 3, 1, 0)}.get(tensor.ndim, range(tensor.ndim)))

"""Weights trained in PyTorch, as Flax models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jc2i.checks import invalid
from jc2i.models.classifier import Classifier, require_same_shapes, weights, with_weights
from jc2i.models.registry import ARCHITECTURES, blank
from jc2i.models.torch_files import read_torch_file

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
    **options: Any,
) -> Classifier:
    """A model with the weights of a PyTorch file, which is read without torch or running its code.

    The residual networks take the names of github.com/akamaster/pytorch_resnet_cifar10 and of
    github.com/chenyaofo/pytorch-cifar-models (whose shortcuts are `"B"`), the VGG networks the
    latter's.

    Args:
      name: one of `names()` that PyTorch has weights for: all but `"small"`.
      path: a file of `torch.save`, old or new, or a safetensors file.
      classes: the number of classes.
      mean: for each channel, what training subtracted from images in [0, 1].
      std: for each channel, what training divided them by.
      normalize: False builds a model that takes images normalised already.
      **options: as for `create`.

    Returns:
      A callable pytree `images -> logits`, in evaluation mode.

    Raises:
      ValueError: for a file that is none of these, or whose tensors are not exactly the
        architecture's: every missing, surplus and misshapen one is named.
    """
    model = blank(name, classes=classes, mean=mean, std=std, normalize=normalize, **options)
    if not hasattr(model, "torch_names"):
        others = [n for n in ARCHITECTURES if n != name]
        raise invalid("name", repr(name), f"one of {', '.join(others)}")
    tensors = {
        tensor: values
        for tensor, values in read_torch_file(path).items()
        if not tensor.endswith("num_batches_tracked")
    }
    ours = {n: value.shape for n, value in weights(model).items()}
    torch_name = {n: _torch_name(model, n, tensors) for n in ours}
    require_same_shapes(
        os.fspath(path),
        {torch_name[n]: _torch_shape(shape) for n, shape in ours.items()},
        tensors,
        f"the tensors of {name} with {model.options}",
    )
    return with_weights(model, {n: _from_torch_layout(tensors[torch_name[n]]) for n in ours})


def _torch_name(model: Any, name: str, tensors: dict[str, np.ndarray]) -> str:
    *layer, leaf = name.split(".")
    candidates = [f"{n}.{_TORCH_LEAVES[leaf]}" for n in model.torch_names(tuple(layer))]
    return next((n for n in candidates if n in tensors), candidates[0])


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    # [height, width, in, out] is [out, in, height, width] there, and [in, out] is [out, in].
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _from_torch_layout(tensor: np.ndarray) -> np.ndarray:
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T

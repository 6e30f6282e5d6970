"""Residual networks for 32x32 images.

Source: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016), section
4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from jc2i.checks import one_of, require
from jc2i.models.classifier import DEEPEST, Classifier
from jc2i.models.layers import batch_norm, compute_in, convolution, dense, through_stages


class ResNetCifar(Classifier):
    """The CIFAR residual network of `depth` = 6 n + 2 layers, in three stages of n blocks.

    It names its activations `stem`, `stage1.block0` ... `stage3.block{n-1}`, `pool`, `logits`.

    Args:
      depth: 20, 32, 44, 56, ...
      classes: the number of classes.
      shortcut: where a stage halves the image and doubles the channels: `"A"` keeps every second
        pixel and pads with zero channels, `"B"` is a 1x1 convolution and batch norm.
      channels: the number of channels of the images.
      mean: see `Classifier`.
      std: see `Classifier`.
      normalize: see `Classifier`.
      dtype: see `Classifier`.
    """

    def __init__(
        self,
        depth: int,
        *,
        classes: int,
        shortcut: str = "A",
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        normalize: bool = True,
        dtype: str = "float32",
    ) -> None:
        takes = f"6 n + 2 (20, 32, 44, 56), at most {DEEPEST}"
        require(8 <= depth <= DEEPEST and depth % 6 == 2, "depth", depth, takes)
        one_of("shortcut", shortcut, ("A", "B"))
        super().__init__(
            f"resnet{depth}_cifar",
            classes=classes,
            channels=channels,
            size=None,
            mean=mean,
            std=std,
            normalize=normalize,
            dtype=dtype,
        )
        self.shortcut = shortcut
        blocks = (depth - 2) // 6
        # The attributes are named as torchvision's and its many followers' are.
        self.conv1 = convolution(channels, 16)
        self.bn1 = batch_norm(16)
        self.layer1 = nnx.List(_stage(16, 16, blocks, shortcut))
        self.layer2 = nnx.List(_stage(16, 32, blocks, shortcut))
        self.layer3 = nnx.List(_stage(32, 64, blocks, shortcut))
        self.fc = dense(64, classes)
        compute_in(self, dtype)

    def forward(
        self, values: Float[jax.Array, "batch height width channels"]
    ) -> Float[jax.Array, "batch classes"]:
        """The logits of normalised images."""
        values = jax.nn.relu(self.bn1(self.conv1(values)))
        values = checkpoint_name(values, "stem")
        values = through_stages((self.layer1, self.layer2, self.layer3), values)
        values = checkpoint_name(values.mean(axis=(1, 2)), "pool")
        return self.fc(values)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that build this model again."""
        return super().options | {"shortcut": self.shortcut}

    def torch_names(self, layer: tuple[str | int, ...]) -> tuple[str, ...]:
        """What published files call a layer: chenyaofo's (torchvision's) name, then akamaster's."""
        name = ".".join(map(str, layer))
        return name, name.replace("fc", "linear").replace("downsample", "shortcut")


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a way around them, which halves the image where channels change."""

    def __init__(self, inputs: int, outputs: int, shortcut: str) -> None:
        halves = inputs != outputs
        self.conv1 = convolution(inputs, outputs, stride=2 if halves else 1)
        self.bn1 = batch_norm(outputs)
        self.conv2 = convolution(outputs, outputs)
        self.bn2 = batch_norm(outputs)
        if halves and shortcut == "B":
            projection = convolution(inputs, outputs, size=1, stride=2)
            self.downsample = nnx.List([projection, batch_norm(outputs)])
        else:
            self.downsample = None

    def __call__(
        self, values: Float[jax.Array, "batch height width inputs"]
    ) -> Float[jax.Array, "batch smaller_height smaller_width outputs"]:
        residual = jax.nn.relu(self.bn1(self.conv1(values)))
        residual = self.bn2(self.conv2(residual))
        if self.downsample is not None:
            projection, norm = self.downsample
            values = norm(projection(values))
        elif values.shape != residual.shape:
            added = residual.shape[3] - values.shape[3]
            zeros = (added // 2, added - added // 2)
            values = jnp.pad(values[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), zeros))
        return jax.nn.relu(residual + values)


def _stage(inputs: int, outputs: int, blocks: int, shortcut: str) -> list[BasicBlock]:
    widths = [inputs] + [outputs] * (blocks - 1)
    return [BasicBlock(width, outputs, shortcut) for width in widths]

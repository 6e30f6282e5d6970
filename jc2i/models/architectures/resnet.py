"""Residual networks for ImageNet, and the one of 18 layers for small images.

Source: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016), table 1;
with the stride of a bottleneck on its 3x3 convolution, as torchvision's and timm's weights have it
("v1.5"). For small images (CIFAR, Fashion-MNIST) the same stages follow a 3x3 convolution that
keeps the image's size, as is usual there; `base_filters` and `dropout` are those of Fel et al.,
"How Good is your Explanation? Algorithmic Stability Measures to Assess the Quality of Explanations
for Deep Neural Networks" (WACV 2022), appendix E.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from jc2i.checks import count, require
from jc2i.models.architectures.resnet_cifar import BasicBlock
from jc2i.models.classifier import Classifier
from jc2i.models.layers import (
    Dropout,
    batch_norm,
    compute_in,
    convolution,
    dense,
    through_stages,
)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks in each stage, by depth; those of depth 50 are bottlenecks."""


class ResNet(Classifier):
    """The ImageNet residual network of 18, 34 or 50 layers, for images of any size.

    It names its activations `stem` (after the pooling), `stage1.block0`, ..., `stage4.block{n-1}`,
    `pool`, `logits`.

    Args:
      depth: 18, 34 or 50.
      small_images: whether the stem is a 3x3 convolution of stride 1, for images of about 32
        pixels, in place of a 7x7 convolution and a pooling that leave a sixteenth of the pixels.
      classes: the number of classes.
      base_filters: the channels of the stem and the first stage; each later stage has twice those
        of the one before.
      dropout: the part of the pooled features that a step of training leaves out, in [0, 1).
        (Appendix E gives the rates and not the place; here it is before the last layer.)
      channels: the number of channels of the images.
      mean: see `Classifier`.
      std: see `Classifier`.
      normalize: see `Classifier`.
      dtype: see `Classifier`.
    """

    def __init__(
        self,
        depth: int,
        small_images: bool = False,
        *,
        classes: int,
        base_filters: int = 64,
        dropout: float = 0.0,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        normalize: bool = True,
        dtype: str = "float32",
    ) -> None:
        require(depth in BLOCKS, "depth", depth, "18, 34 or 50")
        count(base_filters=base_filters)
        super().__init__(
            f"resnet{depth}_cifar" if small_images else f"resnet{depth}",
            classes=classes,
            channels=channels,
            size=None,
            mean=mean,
            std=std,
            normalize=normalize,
            dtype=dtype,
        )
        self.small_images = small_images
        self.base_filters = int(base_filters)
        # The attributes are named as torchvision's and timm's are.
        size, stride = (3, 1) if small_images else (7, 2)
        self.conv1 = convolution(channels, base_filters, size=size, stride=stride)
        self.bn1 = batch_norm(base_filters)
        inputs, stages = base_filters, []
        for stage, blocks_there in enumerate(BLOCKS[depth]):
            width = base_filters * 2**stage
            outputs = 4 * width if depth == 50 else width
            blocks = []
            for index in range(blocks_there):
                if depth == 50:
                    stride = 2 if index == 0 and stage else 1
                    blocks.append(_Bottleneck(inputs, width, stride))
                else:
                    blocks.append(BasicBlock(inputs, outputs, shortcut="B"))
                inputs = outputs
            stages.append(nnx.List(blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.dropout = Dropout(dropout)
        self.fc = dense(inputs, classes)
        compute_in(self, dtype)

    def forward(
        self,
        values: Float[jax.Array, "batch height width channels"],
        key: jax.Array | None = None,
    ) -> Float[jax.Array, "batch classes"]:
        """The logits of normalised images."""
        values = jax.nn.relu(self.bn1(self.conv1(values)))
        if not self.small_images:
            # Flax pads with minus infinity; it takes numbers too, though its annotation says words.
            padding: Any = ((1, 1), (1, 1))
            values = nnx.max_pool(values, (3, 3), strides=(2, 2), padding=padding)
        values = checkpoint_name(values, "stem")
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        values = through_stages(stages, values)
        values = checkpoint_name(values.mean(axis=(1, 2)), "pool")
        return self.fc(self.dropout(values, key))

    @property
    def draws(self) -> bool:
        """Whether a call needs a key now: in training with dropout."""
        return self.dropout.draws

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that build this model again."""
        own = {"base_filters": self.base_filters, "dropout": self.dropout.rate}
        return super().options | own

    def torch_names(self, layer: tuple[str | int, ...]) -> tuple[str, ...]:
        """What published files call a layer: torchvision's and timm's name, which is ours.

        Or, for small images, that of kuangliu/pytorch-cifar.
        """
        name = ".".join(map(str, layer))
        if not self.small_images:
            return (name,)
        return name, name.replace("fc", "linear").replace("downsample", "shortcut")


class _Bottleneck(nnx.Module):
    """A 1x1, a 3x3 and a 1x1 convolution to four times the channels, and a way around them."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        outputs = 4 * width
        self.conv1 = convolution(inputs, width, size=1)
        self.bn1 = batch_norm(width)
        self.conv2 = convolution(width, width, stride=stride)
        self.bn2 = batch_norm(width)
        self.conv3 = convolution(width, outputs, size=1)
        self.bn3 = batch_norm(outputs)
        if inputs != outputs:
            projection = convolution(inputs, outputs, size=1, stride=stride)
            self.downsample = nnx.List([projection, batch_norm(outputs)])
        else:
            self.downsample = None

    def __call__(
        self, values: Float[jax.Array, "batch height width inputs"]
    ) -> Float[jax.Array, "batch smaller_height smaller_width outputs"]:
        residual = jax.nn.relu(self.bn1(self.conv1(values)))
        residual = jax.nn.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        if self.downsample is not None:
            projection, norm = self.downsample
            values = norm(projection(values))
        return jax.nn.relu(residual + values)

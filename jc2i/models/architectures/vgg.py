"""VGG networks, for ImageNet and for 32x32 images.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition" (ICLR 2015), table 1; for 32x32 images with the batch norm and the three dense layers
of 512 that github.com/chenyaofo/pytorch-cifar-models gave them.

The published networks drop half of the dense activations in training; these do not, since a Flax
dropout keeps the state of its random numbers among the leaves of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from jc2i.checks import positive, require
from jc2i.models.classifier import Classifier
from jc2i.models.layers import batch_norm, compute_in, convolution, dense

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five stages, each of which ends by halving the image."""

CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions in each stage, by depth."""


class _VGG(Classifier):
    """Five stages of convolutions and three dense layers.

    It names its activations `stage1.conv0`, ..., `stage1.pool`, ..., `stage5.pool`, `dense0`,
    `dense1`, `logits` (a convolution's after its batch norm, if any, and rectifier).
    """

    def __init__(
        self,
        architecture: str,
        depth: int,
        *,
        batch_norm: bool,
        size: int,
        hidden: int,
        **options: Any,
    ) -> None:
        require(depth in CONVOLUTIONS, "depth", depth, "11, 13, 16 or 19")
        require(size >= 32 and size % 32 == 0, "size", size, "a multiple of 32")
        positive(hidden=hidden)
        super().__init__(architecture, size=size, **options)
        self.batch_norm = batch_norm
        stages = []
        inputs = self.channels
        for width, count in zip(WIDTHS, CONVOLUTIONS[depth], strict=True):
            widths = [inputs] + [width] * (count - 1)
            stages.append(nnx.List([_Layer(w, width, batch_norm) for w in widths]))
            inputs = width
        self.stages = nnx.List(stages)
        pixels = (size // 32) ** 2
        self.classifier = nnx.List(
            [dense(pixels * inputs, hidden), dense(hidden, hidden), dense(hidden, self.classes)]
        )
        compute_in(self, self.dtype)

    def forward(
        self, values: Float[jax.Array, "batch size size channels"]
    ) -> Float[jax.Array, "batch classes"]:
        """The logits of normalised images."""
        for number, layers in enumerate(self.stages, start=1):
            for index, layer in enumerate(layers):
                values = checkpoint_name(layer(values), f"stage{number}.conv{index}")
            values = nnx.max_pool(values, (2, 2), strides=(2, 2))
            values = checkpoint_name(values, f"stage{number}.pool")
        # Channels first, as the published weights of the dense layer have them.
        values = values.transpose(0, 3, 1, 2).reshape(values.shape[0], -1)
        *hidden, last = self.classifier
        for index, layer in enumerate(hidden):
            values = checkpoint_name(jax.nn.relu(layer(values)), f"dense{index}")
        return last(values)

    def torch_names(self, layer: tuple[str | int, ...]) -> tuple[str, ...]:
        """What torchvision's and chenyaofo's files call a layer.

        They number batch norms, rectifiers, pools and dropouts too.
        """
        if layer[0] == "classifier":
            return (f"classifier.{3 * int(layer[1])}",)
        _, stage, index, part = layer
        before = sum(len(layers) for layers in list(self.stages)[: int(stage)]) + int(index)
        each = 3 if self.batch_norm else 2
        return (f"features.{each * before + int(stage) + (part == 'norm')}",)


class VGG(_VGG):
    """The ImageNet VGG of 11, 13, 16 or 19 layers, with batch norm or without.

    Args:
      depth: 11, 13, 16 or 19.
      batch_norm: whether a batch norm follows each convolution.
      classes: the number of classes.
      size: the height and width of the images: a multiple of 32. Published weights are for 224.
      hidden: the width of the two hidden dense layers, 4096 as published.
      channels: the number of channels of the images.
      mean: see `Classifier`.
      std: see `Classifier`.
      normalize: see `Classifier`.
      dtype: see `Classifier`.
    """

    def __init__(
        self,
        depth: int,
        batch_norm: bool,
        *,
        classes: int,
        size: int = 224,
        hidden: int = 4096,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        normalize: bool = True,
        dtype: str = "float32",
    ) -> None:
        super().__init__(
            f"vgg{depth}_bn" if batch_norm else f"vgg{depth}",
            depth,
            batch_norm=batch_norm,
            hidden=hidden,
            classes=classes,
            channels=channels,
            size=size,
            mean=mean,
            std=std,
            normalize=normalize,
            dtype=dtype,
        )
        self.hidden = hidden

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that build this model again."""
        return super().options | {"size": self.size, "hidden": self.hidden}


class VGGCifar(_VGG):
    """VGG of 11, 13, 16 or 19 layers with batch norm and dense layers of 512, for 32x32 images.

    Args:
      depth: 11, 13, 16 or 19.
      classes: the number of classes.
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
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        normalize: bool = True,
        dtype: str = "float32",
    ) -> None:
        super().__init__(
            f"vgg{depth}_bn_cifar",
            depth,
            batch_norm=True,
            hidden=512,
            classes=classes,
            channels=channels,
            size=32,
            mean=mean,
            std=std,
            normalize=normalize,
            dtype=dtype,
        )


class _Layer(nnx.Module):
    """A 3x3 convolution, batch norm or none, and rectifier."""

    def __init__(self, inputs: int, outputs: int, normed: bool) -> None:
        # A batch norm makes the bias redundant, but the published weights have one.
        self.conv = convolution(inputs, outputs, bias=True)
        self.norm = batch_norm(outputs) if normed else None

    def __call__(
        self, values: Float[jax.Array, "batch height width inputs"]
    ) -> Float[jax.Array, "batch height width outputs"]:
        values = self.conv(values)
        return jax.nn.relu(values if self.norm is None else self.norm(values))

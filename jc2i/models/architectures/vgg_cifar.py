"""VGG networks with batch norm for 32x32 images.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition" (ICLR 2015), table 1; with the batch norm and the three dense layers of 512 that
github.com/chenyaofo/pytorch-cifar-models gave them for CIFAR.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from jc2i.checks import require
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


class VGGCifar(Classifier):
    """VGG of 11, 13, 16 or 19 layers with batch norm, for 32x32 images.

    It names its activations `stage1.conv0`, ..., `stage1.pool`, ..., `stage5.pool`, `dense0`,
    `dense1`, `logits` (a convolution's after its batch norm and rectifier). The published network
    drops half of the dense activations in training; this one does not, since a Flax dropout keeps
    the state of its random numbers among the leaves of the model.

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
        require(depth in CONVOLUTIONS, "depth", depth, "11, 13, 16 or 19")
        super().__init__(
            f"vgg{depth}_bn_cifar",
            classes=classes,
            channels=channels,
            size=32,
            mean=mean,
            std=std,
            normalize=normalize,
            dtype=dtype,
        )
        stages = []
        inputs = channels
        for width, count in zip(WIDTHS, CONVOLUTIONS[depth], strict=True):
            stages.append(nnx.List([_Layer(w, width) for w in [inputs] + [width] * (count - 1)]))
            inputs = width
        self.stages = nnx.List(stages)
        self.classifier = nnx.List([dense(512, 512), dense(512, 512), dense(512, classes)])
        compute_in(self, dtype)

    def forward(
        self, values: Float[jax.Array, "batch 32 32 channels"]
    ) -> Float[jax.Array, "batch classes"]:
        """The logits of normalised images."""
        for number, layers in enumerate(self.stages, start=1):
            for index, layer in enumerate(layers):
                values = checkpoint_name(layer(values), f"stage{number}.conv{index}")
            values = nnx.max_pool(values, (2, 2), strides=(2, 2))
            values = checkpoint_name(values, f"stage{number}.pool")
        values = values.reshape(values.shape[0], -1)
        *hidden, last = self.classifier
        for index, layer in enumerate(hidden):
            values = checkpoint_name(jax.nn.relu(layer(values)), f"dense{index}")
        return last(values)

    def torch_names(self, layer: tuple[str | int, ...]) -> tuple[str, ...]:
        """What chenyaofo's files call a layer: they number rectifiers, pools and dropouts too."""
        if layer[0] == "classifier":
            return (f"classifier.{3 * int(layer[1])}",)
        _, stage, index, part = layer
        before = sum(len(layers) for layers in list(self.stages)[: int(stage)]) + int(index)
        return (f"features.{3 * before + int(stage) + (part == 'norm')}",)


class _Layer(nnx.Module):
    """A 3x3 convolution, batch norm and rectifier."""

    def __init__(self, inputs: int, outputs: int) -> None:
        # The batch norm makes the bias redundant, but the published weights have one.
        self.conv = convolution(inputs, outputs, bias=True)
        self.norm = batch_norm(outputs)

    def __call__(
        self, values: Float[jax.Array, "batch height width inputs"]
    ) -> Float[jax.Array, "batch height width outputs"]:
        return jax.nn.relu(self.norm(self.conv(values)))

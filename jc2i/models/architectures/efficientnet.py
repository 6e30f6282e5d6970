"""EfficientNet, and EfficientNet-Lite without what small devices do badly.

Sources: Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"
(ICML 2019), table 1 and equation 3; and for Lite, which has rectifiers clipped at 6 in place of
swish, no squeeze-and-excitation, and a stem and head of one width for all,
github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.

The published networks drop activations and whole blocks in training; these do not, since a Flax
dropout keeps the state of its random numbers among the leaves of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from jc2i.checks import one_of, positive
from jc2i.models.classifier import Classifier
from jc2i.models.layers import batch_norm, compute_in, convolution, dense, through_stages

# Of each stage of B0: kernel size, stride of the first block, expansion, channels out, blocks.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)

SCALES = {"b0": (1.0, 1.0), "lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""By how much each variant is wider and deeper than B0."""


class EfficientNet(Classifier):
    """EfficientNet-B0 or EfficientNet-Lite0, 1 or 2, for images of any size.

    It names its activations `stem`, `stage1.block0`, ..., `stage7.block{n-1}`, `head`, `pool`,
    `logits`. Published weights are for images of 224 (B0, Lite0), 240 (Lite1) and 260 pixels
    (Lite2).

    Two lines of weights differ in what no file records. TensorFlow's, from which all those of Lite
    and Hugging Face's of B0 come, want `padding="same", epsilon=1e-3`; those of torchvision and of
    timm's `efficientnet_b0` want `padding="symmetric", epsilon=1e-5`.

    Args:
      variant: `"b0"`, `"lite0"`, `"lite1"` or `"lite2"`.
      classes: the number of classes.
      padding: `"symmetric"` (default for B0) pads every convolution alike on all sides; `"same"`
        (default for Lite), TensorFlow's, pads one of stride 2 less at the top and left.
      epsilon: what is added to the variance in a batch norm: 1e-5 by default for B0, 1e-3 for Lite.
      channels: the number of channels of the images.
      mean: see `Classifier`.
      std: see `Classifier`.
      normalize: see `Classifier`.
      dtype: see `Classifier`.
    """

    def __init__(
        self,
        variant: str,
        *,
        classes: int,
        padding: str | None = None,
        epsilon: float | None = None,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        normalize: bool = True,
        dtype: str = "float32",
    ) -> None:
        one_of("variant", variant, tuple(SCALES))
        lite = variant != "b0"
        self.lite = lite
        self.padding = padding or ("same" if lite else "symmetric")
        one_of("padding", self.padding, ("symmetric", "same"))
        self.epsilon = (1e-3 if lite else 1e-5) if epsilon is None else float(epsilon)
        positive(epsilon=self.epsilon)
        super().__init__(
            f"efficientnet_{variant}",
            classes=classes,
            channels=channels,
            size=None,
            mean=mean,
            std=std,
            normalize=normalize,
            dtype=dtype,
        )
        width, depth = SCALES[variant]
        stem, head = (32, 1280) if lite else (_rounded(32 * width), _rounded(1280 * width))
        self.stem = convolution(channels, stem, stride=2, padding=self.padding)
        self.stem_norm = batch_norm(stem, epsilon=self.epsilon)
        inputs, stages = stem, []
        for index, (size, stride, expansion, outputs, blocks) in enumerate(_STAGES):
            outputs = _rounded(outputs * width)
            ends = index in (0, len(_STAGES) - 1)
            blocks = blocks if lite and ends else math.ceil(blocks * depth)
            stage = []
            for block in range(blocks):
                stage.append(
                    _Block(
                        inputs,
                        outputs,
                        size=size,
                        stride=stride if block == 0 else 1,
                        expansion=expansion,
                        lite=lite,
                        padding=self.padding,
                        epsilon=self.epsilon,
                    )
                )
                inputs = outputs
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)
        self.head = convolution(inputs, head, size=1)
        self.head_norm = batch_norm(head, epsilon=self.epsilon)
        self.classifier = dense(head, classes)
        compute_in(self, dtype)

    def forward(
        self, values: Float[jax.Array, "batch height width channels"]
    ) -> Float[jax.Array, "batch classes"]:
        """The logits of normalised images."""
        activation = _activation(self.lite)
        values = checkpoint_name(activation(self.stem_norm(self.stem(values))), "stem")
        values = through_stages(self.stages, values)
        values = checkpoint_name(activation(self.head_norm(self.head(values))), "head")
        values = checkpoint_name(values.mean(axis=(1, 2)), "pool")
        return self.classifier(values)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that build this model again."""
        return super().options | {"padding": self.padding, "epsilon": self.epsilon}

    def torch_names(self, layer: tuple[str | int, ...]) -> tuple[str, ...]:
        """What published files call a layer: torchvision's, timm's, then lukemelas's name.

        The last is also that of efficientnet-lite-pytorch.
        """
        if layer[0] != "stages":
            return _OUTSIDE[str(layer[0])]
        stage, index, part = int(layer[1]), int(layer[2]), str(layer[3])
        before = sum(len(blocks) for blocks in list(self.stages)[:stage]) + index
        # A block that does not expand numbers its parts from the next one.
        step = 0 if self.stages[stage][index].expand is not None else 1
        place, norm, timm, lukemelas = _INSIDE[part]
        if norm:
            timm = f"bn{int(timm[2:]) - step}"
        elif step and part == "project":
            timm = "conv_pw"
        torchvision = place.format(*(number - step for number in range(4)))
        return (
            f"features.{stage + 1}.{index}.block.{torchvision}",
            f"blocks.{stage}.{index}.{timm}",
            f"_blocks.{before}.{lukemelas}",
        )


_OUTSIDE = {
    "stem": ("features.0.0", "conv_stem", "_conv_stem"),
    "stem_norm": ("features.0.1", "bn1", "_bn0"),
    "head": ("features.8.0", "conv_head", "_conv_head"),
    "head_norm": ("features.8.1", "bn2", "_bn1"),
    "classifier": ("classifier.1", "classifier", "_fc"),
}

# Of each part of a block that expands: torchvision's name, whether it is a batch norm, timm's and
# lukemelas's names.
_INSIDE = {
    "expand": ("{0}.0", False, "conv_pw", "_expand_conv"),
    "expand_norm": ("{0}.1", True, "bn1", "_bn0"),
    "depthwise": ("{1}.0", False, "conv_dw", "_depthwise_conv"),
    "depthwise_norm": ("{1}.1", True, "bn2", "_bn1"),
    "squeeze": ("{2}.fc1", False, "se.conv_reduce", "_se_reduce"),
    "excite": ("{2}.fc2", False, "se.conv_expand", "_se_expand"),
    "project": ("{3}.0", False, "conv_pwl", "_project_conv"),
    "project_norm": ("{3}.1", True, "bn3", "_bn2"),
}


class _Block(nnx.Module):
    """Expands the channels, convolves each by itself, weighs them, and projects them back."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int,
        stride: int,
        expansion: int,
        lite: bool,
        padding: str,
        epsilon: float,
    ) -> None:
        width = inputs * expansion
        self.lite = lite
        self.skips = stride == 1 and inputs == outputs
        if expansion > 1:
            self.expand = convolution(inputs, width, size=1)
            self.expand_norm = batch_norm(width, epsilon=epsilon)
        else:
            self.expand = None
        self.depthwise = convolution(
            width, width, size=size, stride=stride, depthwise=True, padding=padding
        )
        self.depthwise_norm = batch_norm(width, epsilon=epsilon)
        if not lite:
            squeezed = inputs // 4
            self.squeeze = convolution(width, squeezed, size=1, bias=True)
            self.excite = convolution(squeezed, width, size=1, bias=True)
        self.project = convolution(width, outputs, size=1)
        self.project_norm = batch_norm(outputs, epsilon=epsilon)

    def __call__(
        self, values: Float[jax.Array, "batch height width inputs"]
    ) -> Float[jax.Array, "batch smaller_height smaller_width outputs"]:
        activation = _activation(self.lite)
        residual = values
        if self.expand is not None:
            residual = activation(self.expand_norm(self.expand(residual)))
        residual = activation(self.depthwise_norm(self.depthwise(residual)))
        if not self.lite:
            means = residual.mean(axis=(1, 2), keepdims=True)
            residual *= jax.nn.sigmoid(self.excite(activation(self.squeeze(means))))
        residual = self.project_norm(self.project(residual))
        return residual + values if self.skips else residual


def _activation(lite: bool) -> Callable[[jax.Array], jax.Array]:
    return _relu6 if lite else jax.nn.silu


def _relu6(values: jax.Array) -> jax.Array:
    # jax.nn.relu6 shares the gradient out at 0 and 6, which takes longer than all its forward pass.
    return jax.lax.clamp(jnp.zeros((), values.dtype), values, jnp.full((), 6, values.dtype))


def _rounded(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest

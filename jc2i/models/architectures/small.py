"""A small network that trains on two CPU cores in about a minute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from jc2i.checks import require
from jc2i.models.classifier import Classifier
from jc2i.models.layers import compute_in, convolution, dense


class Small(Classifier):
    """Two blocks of convolution, rectifier and pooling, then a dense head; no batch norm.

    It names its activations `block0`, `block1`, `dense`, `logits` (a block's after pooling).

    Args:
      classes: the number of classes.
      size: the height and width of the images: a multiple of 4.
      widths: the channels of the blocks.
      hidden: the width of the dense layer.
      channels: the number of channels of the images.
      mean: see `Classifier`.
      std: see `Classifier`.
      normalize: see `Classifier`.
      dtype: see `Classifier`.
    """

    def __init__(
        self,
        *,
        classes: int,
        size: int = 16,
        widths: Sequence[int] = (16, 32),
        hidden: int = 64,
        channels: int = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        normalize: bool = True,
        dtype: str = "float32",
    ) -> None:
        halvings = 2 ** len(widths)
        require(
            size >= halvings and size % halvings == 0, "size", size, f"a multiple of {halvings}"
        )
        super().__init__(
            "small",
            classes=classes,
            channels=channels,
            size=size,
            mean=mean,
            std=std,
            normalize=normalize,
            dtype=dtype,
        )
        self.widths = tuple(widths)
        self.hidden = hidden
        inputs = (channels, *self.widths[:-1])
        self.blocks = nnx.List(
            [convolution(i, o, bias=True) for i, o in zip(inputs, self.widths, strict=True)]
        )
        self.dense = dense((size // halvings) ** 2 * self.widths[-1], hidden)
        self.head = dense(hidden, classes)
        compute_in(self, dtype)

    def forward(
        self, values: Float[jax.Array, "batch size size channels"]
    ) -> Float[jax.Array, "batch classes"]:
        """The logits of normalised images."""
        for index, block in enumerate(self.blocks):
            values = nnx.max_pool(jax.nn.relu(block(values)), (2, 2), strides=(2, 2))
            values = checkpoint_name(values, f"block{index}")
        values = values.reshape(values.shape[0], -1)
        values = checkpoint_name(jax.nn.relu(self.dense(values)), "dense")
        return self.head(values)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that build this model again."""
        own = {"size": self.size, "widths": self.widths, "hidden": self.hidden}
        return super().options | own

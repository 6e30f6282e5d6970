"""Layers as the architectures use them: blank weights, PyTorch's padding and constants.

They compute plain convolutions: `jc2i.tracing.prepared` puts in what is faster on a backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jc2i.checks import invalid, number

# The layers start blank: an initialiser that draws compiles once for each shape of kernel, seconds
# that a model read from a file need not spend.
_BLANK = nnx.initializers.zeros


class _NoKeys:
    """Where blank layers get their keys from: to count keys takes longer than all else of them."""

    def params(self) -> None:
        """No key, which a blank initialiser does not look at."""


_NO_KEYS: Any = _NoKeys()


def convolution(
    inputs: int,
    outputs: int,
    *,
    size: int = 3,
    stride: int = 1,
    bias: bool = False,
    depthwise: bool = False,
    padding: str = "symmetric",
) -> nnx.Conv:
    """A blank square convolution.

    Args:
      inputs: the number of channels that come in.
      outputs: the number that go out.
      size: height and width of the kernel.
      stride: by how many pixels it moves.
      bias: whether a number is added to each channel.
      depthwise: whether each channel has a kernel of its own (`inputs` is `outputs` then).
      padding: `"symmetric"`, `size // 2` zeros on every side as PyTorch's, or `"same"`,
        TensorFlow's, which pads a stride of 2 on one side only.

    Returns:
      The layer.
    """
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding="SAME" if padding == "same" else ((size // 2, size // 2),) * 2,
        feature_group_count=inputs if depthwise else 1,
        use_bias=bias,
        kernel_init=_BLANK,
        rngs=_NO_KEYS,
    )


def batch_norm(channels: int, *, epsilon: float = 1e-5) -> nnx.BatchNorm:
    """A batch norm in evaluation mode, with PyTorch's epsilon (by default) and momentum."""
    return nnx.BatchNorm(
        channels, use_running_average=True, epsilon=epsilon, momentum=0.9, rngs=_NO_KEYS
    )


def patch_embedding(inputs: int, outputs: int, size: int) -> nnx.Conv:
    """A blank convolution over squares of `size` pixels that tile the image."""
    window = (size, size)
    return nnx.Conv(
        inputs, outputs, window, window, padding="VALID", kernel_init=_BLANK, rngs=_NO_KEYS
    )


def layer_norm(channels: int, epsilon: float) -> nnx.LayerNorm:
    """A layer norm over the last axis, its statistics always in float32."""
    # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
    return nnx.LayerNorm(channels, epsilon=epsilon, use_fast_variance=False, rngs=_NO_KEYS)


def dense(inputs: int, outputs: int) -> nnx.Linear:
    """A blank dense layer."""
    return nnx.Linear(inputs, outputs, kernel_init=_BLANK, rngs=_NO_KEYS)


class Dropout(nnx.Module):
    """Leaves out values at random in training, and scales the others up so that the mean stays.

    Its key is an argument of the call: a state of random numbers would be leaves of the model.

    Args:
      rate: the part of the values that is left out, in [0, 1).

    Raises:
      ValueError: for a rate out of range.
    """

    def __init__(self, rate: float) -> None:
        self.rate = number("dropout", rate, "a number in [0, 1)", lambda rate: 0 <= rate < 1)
        self.deterministic = True  # as nnx calls what `train()` and `eval()` switch

    @property
    def draws(self) -> bool:
        """Whether a call needs a key now."""
        return self.rate > 0 and not self.deterministic

    def __call__(self, values: jax.Array, key: jax.Array | None) -> jax.Array:
        if not self.draws:
            return values
        if key is None:
            raise invalid("key", None, "a jax.random.key, in training with dropout")
        kept = jax.random.bernoulli(key, 1 - self.rate, values.shape)
        return jnp.where(kept, values / (1 - self.rate), jnp.zeros((), values.dtype))


def through_stages(
    stages: Iterable[Iterable[Callable[[jax.Array], jax.Array]]], values: jax.Array
) -> jax.Array:
    """Values behind stages of blocks, each block's named `stage{n}.block{i}`."""
    for stage, blocks in enumerate(stages, start=1):
        for index, block in enumerate(blocks):
            values = checkpoint_name(block(values), f"stage{stage}.block{index}")
    return values


def compute_in(model: nnx.Module, dtype: str) -> None:
    """Makes every layer below a module cast its inputs and weights to a type before it computes."""
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Conv | nnx.Linear | nnx.BatchNorm | nnx.LayerNorm):
            layer.dtype = jnp.dtype(dtype)

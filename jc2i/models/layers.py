"""Layers as the architectures use them: blank weights, PyTorch's padding and constants."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

# The layers start blank: an initialiser that draws compiles once for each shape of kernel, seconds
# that a model read from a file need not spend.
_BLANK = nnx.initializers.zeros


def convolution(
    inputs: int, outputs: int, *, size: int = 3, stride: int = 1, bias: bool = False
) -> nnx.Conv:
    """A blank square convolution, padded by `size // 2` on every side as PyTorch's are."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        # "SAME" would pad a stride of 2 on one side only.
        padding=((size // 2, size // 2),) * 2,
        use_bias=bias,
        kernel_init=_BLANK,
        rngs=nnx.Rngs(0),
    )


def batch_norm(channels: int) -> nnx.BatchNorm:
    """A batch norm in evaluation mode, with PyTorch's epsilon and momentum."""
    return nnx.BatchNorm(
        channels, use_running_average=True, epsilon=1e-5, momentum=0.9, rngs=nnx.Rngs(0)
    )


def patch_embedding(inputs: int, outputs: int, size: int) -> nnx.Conv:
    """A blank convolution over squares of `size` pixels that tile the image."""
    window = (size, size)
    return nnx.Conv(
        inputs, outputs, window, window, padding="VALID", kernel_init=_BLANK, rngs=nnx.Rngs(0)
    )


def layer_norm(channels: int, epsilon: float) -> nnx.LayerNorm:
    """A layer norm over the last axis, its statistics always in float32."""
    # The fast variance, E[x^2] - E[x]^2, loses digits where the mean is large.
    return nnx.LayerNorm(channels, epsilon=epsilon, use_fast_variance=False, rngs=nnx.Rngs(0))


def dense(inputs: int, outputs: int) -> nnx.Linear:
    """A blank dense layer."""
    return nnx.Linear(inputs, outputs, kernel_init=_BLANK, rngs=nnx.Rngs(0))


def compute_in(model: nnx.Module, dtype: str) -> None:
    """Makes every layer below a module cast its inputs and weights to a type before it computes."""
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Conv | nnx.Linear | nnx.BatchNorm | nnx.LayerNorm):
            layer.dtype = jnp.dtype(dtype)

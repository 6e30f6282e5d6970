"""Convolutions whose gradients are fast on CPU.

XLA:CPU computes JAX's own input gradient of a convolution, whose kernel is in a transposed layout,
with a generic loop about ten times slower than a convolution once it stands inside `scan` or
`while`. Here the gradient is written as an ordinary convolution of the cotangent with the flipped,
transposed kernel.

JAX's gradient by the kernel is a convolution with a kernel as large as the image. XLA:CPU reaches 5
to 20 GFLOP/s on a core with it where channels are few (16 to 52 at 28 or 14 pixels, 128 images),
against 60 to 110 for the convolution itself. Here it is a matrix product for each entry of the
kernel, over a few images at a time, which stay in the cache: 25 to 80 GFLOP/s. That is for training
alone: an explainer does not need it, and should not wait until it is traced.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jc2i.checks import Array

CACHED = 2**19
"""Bytes of the images or of the cotangent that are multiplied at a time."""

MOST_ENTRIES = 49
"""Of a kernel whose gradient is written as products: each is an operation of the program."""


def convolution(
    parameters: dict[str, Any], images: Array, kernel: Array, by_kernel: bool = False
) -> Array | None:
    """A convolution with a fast gradient by its images.

    Args:
      parameters: of a `conv_general_dilated` equation.
      images: what it convolves, in any layout.
      kernel: what it convolves them with.
      by_kernel: whether the gradient by the kernel is to be fast, too.

    Returns:
      Its value, with the same derivatives (reverse mode only); None where the gradient cannot be
      written so: grouped or transposed convolutions, other layouts for what goes in and comes out.
    """
    numbers = parameters["dimension_numbers"]
    plain = (
        parameters["feature_group_count"] == parameters["batch_group_count"] == 1
        and all(dilation == 1 for dilation in parameters["lhs_dilation"])
        and numbers.lhs_spec == numbers.out_spec
    )
    entries = math.prod(kernel.shape[axis] for axis in numbers.rhs_spec[2:])
    by_kernel = by_kernel and entries <= MOST_ENTRIES
    return _convolution(tuple(parameters.items()), by_kernel)(images, kernel) if plain else None


# One function for all convolutions of the same kind, so that JAX traces its gradient once a shape.
@functools.lru_cache(maxsize=1024)
def _convolution(
    items: tuple[tuple[str, Any], ...], fast_by_kernel: bool
) -> Callable[[Array, Array], Array]:
    parameters = dict(items)

    def convolve(images: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated_p.bind(images, kernel, **parameters)

    def forward(images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return convolve(images, kernel), (images, kernel)

    def backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        images, kernel = residuals
        if fast_by_kernel:
            by_kernel = _kernel_gradient(parameters, images, kernel.shape, cotangent)
        else:
            by_kernel = jax.vjp(lambda kernel: convolve(images, kernel), kernel)[1](cotangent)[0]
        by_images = _input_gradient(parameters, images.shape, kernel, cotangent)
        return by_images.astype(images.dtype), by_kernel.astype(kernel.dtype)

    fast = jax.custom_vjp(convolve)
    fast.defvjp(forward, backward)
    return fast


def _input_gradient(
    parameters: dict[str, Any], shape: tuple[int, ...], kernel: Array, cotangent: Array
) -> Array:
    """The transpose of a convolution as a convolution with stride 1."""
    if any(stride > 1 for stride in parameters["window_strides"]):
        return _strided_input_gradient(parameters, shape, kernel, cotangent)
    numbers = parameters["dimension_numbers"]
    out_axis, in_axis, *kernel_axes = numbers.rhs_spec
    padding = []
    for i, axis in enumerate(numbers.lhs_spec[2:]):
        extent = (kernel.shape[kernel_axes[i]] - 1) * parameters["rhs_dilation"][i] + 1
        before = extent - 1 - parameters["padding"][i][0]
        after = shape[axis] - cotangent.shape[axis] - before + extent - 1
        padding.append((before, after))
    flipped = jnp.swapaxes(jax.lax.rev(kernel, kernel_axes), out_axis, in_axis)
    return jax.lax.conv_general_dilated_p.bind(
        cotangent, flipped, **parameters | {"padding": tuple(padding)}
    )


def _strided_input_gradient(
    parameters: dict[str, Any], shape: tuple[int, ...], kernel: Array, cotangent: Array
) -> Array:
    """The transpose of a convolution with strides s, all s remainders of a position at once.

    Input position q s + r meets every s-th tap of the kernel: K[r + padding - o s] comes with the
    cotangent at q + o. So the taps, cut into rows of s, are the kernel of a convolution with stride
    1 whose output channels are the remainders, which are then interleaved (Shi et al. 2016 call it
    a sub-pixel convolution). Dilating the cotangent instead would convolve zeros for the most part.
    """
    numbers, strides = parameters["dimension_numbers"], parameters["window_strides"]
    out_axis, in_axis, *kernel_axes = numbers.rhs_spec
    batch_axis, channel_axis, *axes = numbers.lhs_spec
    rank, channels = len(axes), shape[channel_axis]
    kernel = kernel.transpose(*kernel_axes, out_axis, in_axis)
    taps, rows, ends, lengths = [], [], [], []
    for i, (axis, stride) in enumerate(zip(axes, strides, strict=True)):
        dilation, before = parameters["rhs_dilation"][i], parameters["padding"][i][0]
        extent = (kernel.shape[i] - 1) * dilation + 1
        first, last = -((extent - 1 - before) // stride), (before + stride - 1) // stride
        count = last - first + 1
        lead = last * stride - before
        taps.append((lead, count * stride - extent - lead, dilation - 1))
        rows += [count, stride]
        lengths.append(-(-shape[axis] // stride))
        ends.append((-first, lengths[i] + last - cotangent.shape[axis]))
    zero = jnp.zeros((), kernel.dtype)
    kernel = jax.lax.pad(kernel, zero, [*taps, (0, 0, 0), (0, 0, 0)])
    kernel = kernel.reshape(*rows, *kernel.shape[rank:])
    counts, remainders = range(0, 2 * rank, 2), range(1, 2 * rank, 2)
    kernel = jax.lax.rev(kernel, tuple(counts))
    kernel = kernel.transpose(*counts, 2 * rank, *remainders, 2 * rank + 1)
    kernel = kernel.reshape(*kernel.shape[: rank + 1], -1)
    spatial = tuple(range(1, rank + 1))
    canonical = {
        "window_strides": (1,) * rank,
        "rhs_dilation": (1,) * rank,
        "padding": tuple(ends),
        "dimension_numbers": jax.lax.ConvDimensionNumbers(
            (0, rank + 1, *spatial), (rank + 1, rank, *range(rank)), (0, rank + 1, *spatial)
        ),
    }
    last_channels = cotangent.transpose(batch_axis, *axes, channel_axis)
    gradient = jax.lax.conv_general_dilated_p.bind(
        last_channels, kernel, **parameters | canonical
    ).reshape(-1, *lengths, *strides, channels)
    together = [axis for i in spatial for axis in (i, rank + i)]
    gradient = gradient.transpose(0, *together, 2 * rank + 1)
    whole = [length * stride for length, stride in zip(lengths, strides, strict=True)]
    gradient = gradient.reshape(-1, *whole, channels)
    gradient = gradient[(slice(None), *(slice(shape[axis]) for axis in axes))]
    return gradient.transpose(np.argsort((batch_axis, *axes, channel_axis)))


def _kernel_gradient(
    parameters: dict[str, Any], images: Array, shape: tuple[int, ...], cotangent: Array
) -> Array:
    """What each entry of the kernel sees of the images, times the cotangent; a few images at once.

    Entry k of the kernel meets pixel o s + k d - p of the padded image on its way to place o of the
    output, for strides s, dilations d and padding p.
    """
    numbers = parameters["dimension_numbers"]
    out_axis, in_axis, *kernel_axes = numbers.rhs_spec
    batch_axis, channel_axis, *axes = numbers.lhs_spec
    last = (batch_axis, *axes, channel_axis)
    images, cotangent = images.transpose(last), cotangent.transpose(last)
    places, size = cotangent.shape[1:-1], [shape[axis] for axis in kernel_axes]
    margins, reached = [(0, 0, 0)], []
    for i, stride in enumerate(parameters["window_strides"]):
        dilation, before = parameters["rhs_dilation"][i], parameters["padding"][i][0]
        reach = (places[i] - 1) * stride + 1
        after = reach + (size[i] - 1) * dilation - images.shape[1 + i] - before
        margins.append((before, after, 0))
        reached.append((dilation, reach, stride))
    zero = jnp.zeros((), images.dtype)

    def of(images: Array, cotangent: Array) -> Array:
        padded = jax.lax.pad(images, zero, [*margins, (0, 0, 0)])
        rows = cotangent.reshape(-1, cotangent.shape[-1])
        products = []
        for entry in np.ndindex(*size):
            window = tuple(
                slice(k * dilation, k * dilation + reach, stride)
                for k, (dilation, reach, stride) in zip(entry, reached, strict=True)
            )
            seen = padded[(slice(None), *window)].reshape(len(rows), -1)
            product = jax.lax.dot_general(
                seen,
                rows,
                (((0,), (0,)), ((), ())),
                precision=parameters["precision"],
                preferred_element_type=jnp.promote_types(rows.dtype, jnp.float32),
            )
            products.append(product)
        return jnp.stack(products)

    total = _summed(of, images, cotangent)
    total = total.reshape(*size, *total.shape[1:])
    return total.transpose(np.argsort((*kernel_axes, in_axis, out_axis)))


def _summed(of: Callable[[Array, Array], Array], images: Array, cotangent: Array) -> Array:
    """The sum of a function over the batch, a few images at a time."""
    batch = len(images)
    largest = max(values.size * values.dtype.itemsize for values in (images, cotangent)) // batch
    steps = -(-batch // max(CACHED // max(largest, 1), 1))
    if steps == 1:
        return of(images, cotangent)
    together = -(-batch // steps)
    # The images of a step are `steps` apart: on several devices, each takes its share of them.
    parts = []
    for values in (images, cotangent):
        rest = [(0, 0, 0)] * (values.ndim - 1)
        zero = jnp.zeros((), values.dtype)
        whole = jax.lax.pad(values, zero, [(0, together * steps - batch, 0), *rest])
        parts.append(whole.reshape(together, steps, *values.shape[1:]))

    def add(total: Array, step: Array) -> tuple[Array, None]:
        some = (jax.lax.dynamic_index_in_dim(part, step, 1, keepdims=False) for part in parts)
        return total + of(*some), None

    start = jax.eval_shape(of, parts[0][:, 0], parts[1][:, 0])
    return jax.lax.scan(add, jnp.zeros(start.shape, start.dtype), jnp.arange(steps))[0]

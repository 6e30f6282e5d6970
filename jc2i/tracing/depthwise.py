"""Depthwise convolution, each channel by itself, that is fast on every backend.

On CPU a grouped convolution is XLA's slowest: 10 to 30 times slower than the same sum written out,
one shifted and scaled copy of the images for each pixel of the kernel. There the sum is written
out, and so is its gradient by the images, which automatic differentiation would pad once for each
pixel of the kernel. Other backends have a convolution made for it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jc2i.checks import Array

Padding = tuple[tuple[int, int], tuple[int, int]]


def depthwise_convolution(
    images: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns 1 channels"],
    strides: Sequence[int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> Float[jax.Array, "batch smaller_height smaller_width channels"]:
    """Convolves every channel with a kernel of its own.

    out[b, y, x, c] = sum_ij kernel[i, j, 0, c] padded[b, y strides[0] + i, x strides[1] + j, c]

    Args:
      images: values of any range.
      kernel: one a channel, laid out as `lax.conv_general_dilated` takes it.
      strides: by how many pixels the kernel moves down and across.
      padding: `"SAME"`, `"VALID"`, or zeros before and after, for rows and for columns (negative:
        that many are cut off).

    Returns:
      What `lax.conv_general_dilated` returns with `feature_group_count=channels`, to rounding. On
      CPU it can be differentiated in reverse mode only.
    """
    images, kernel = jnp.asarray(images), jnp.asarray(kernel)
    strides = (int(strides[0]), int(strides[1]))
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
    (top, bottom), (left, right) = padding
    if jax.default_backend() == "cpu":
        return _written_out(images, kernel, strides, ((top, bottom), (left, right)))
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=images.shape[3],
    )


def _shifted_sum(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding
) -> jax.Array:
    shifts = _shifts(images, kernel, strides, padding)
    return functools.reduce(operator.add, (values * kernel[i, j, 0] for i, j, values in shifts))


def _shifts(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding
) -> Iterator[tuple[int, int, jax.Array]]:
    """For each pixel of the kernel, the pixel of the images that it meets at every output."""
    padded = _pad(images, padding)
    rows, columns = kernel.shape[:2]
    height = (padded.shape[1] - rows) // strides[0] + 1
    width = (padded.shape[2] - columns) // strides[1] + 1
    for i in range(rows):
        for j in range(columns):
            yield (
                i,
                j,
                jax.lax.slice(
                    padded,
                    (0, i, j, 0),
                    (len(images), i + (height - 1) * strides[0] + 1)
                    + (j + (width - 1) * strides[1] + 1, images.shape[3]),
                    (1, *strides, 1),
                ),
            )


_differentiable = jax.custom_vjp(_shifted_sum, nondiff_argnums=(2, 3))
# A network is traced several times and repeats its layers: each shape is written out once.
_written_out = jax.jit(_differentiable, static_argnums=(2, 3))


def _forward(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shifted_sum(images, kernel, strides, padding), (images, kernel)


def _backward(
    strides: tuple[int, int],
    padding: Padding,
    residuals: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    images, kernel = residuals
    by_images = _image_gradient(images.shape, kernel, strides, padding, cotangent)
    # Written out too: JAX's own takes seconds to trace for a network.
    by_kernel = [
        jnp.sum(values * cotangent, axis=(0, 1, 2))
        for _, _, values in _shifts(images, kernel, strides, padding)
    ]
    return by_images, jnp.stack(by_kernel).reshape(kernel.shape)


_differentiable.defvjp(_forward, _backward)


def _image_gradient(
    shape: tuple[int, ...],
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: Padding,
    cotangent: jax.Array,
) -> jax.Array:
    """The transpose, pixel by pixel: image row q stride + r meets only every stride-th kernel row.

    So each remainder r, and likewise of the columns, is a convolution with stride 1 of the
    cotangent with a part of the kernel, and the remainders are interleaved.
    """
    phases = []
    for axis in (0, 1):
        size, stride, before = shape[1 + axis], strides[axis], padding[axis][0]
        # For each remainder, the pixels of the kernel it meets and the output that each belongs to.
        meets = [
            [
                (i, (r + before - i) // stride)
                for i in range(kernel.shape[axis])
                if (r + before - i) % stride == 0
            ]
            for r in range(stride)
        ]
        phases.append((-(-size // stride), meets))
    (height, row_phases), (width, column_phases) = phases
    ends = []
    for axis, (length, meets) in enumerate(phases):
        offsets = [offset for phase in meets for _, offset in phase]
        after = length + max(offsets) - cotangent.shape[1 + axis]
        ends.append((-min(offsets), after))
    padded = _pad(cotangent, (ends[0], ends[1]))

    def part(rows: list[tuple[int, int]], columns: list[tuple[int, int]]) -> jax.Array:
        total = jnp.zeros((shape[0], height, width, shape[3]), cotangent.dtype)
        for i, down in rows:
            for j, across in columns:
                y, x = down + ends[0][0], across + ends[1][0]
                end = (shape[0], y + height, x + width, shape[3])
                total += jax.lax.slice(padded, (0, y, x, 0), end) * kernel[i, j, 0]
        return total

    interleaved = jnp.stack(
        [jnp.stack([part(rows, columns) for columns in column_phases], 3) for rows in row_phases], 2
    )
    whole = interleaved.reshape(shape[0], height * strides[0], width * strides[1], shape[3])
    return whole[:, : shape[1], : shape[2]]


def _pad(images: jax.Array, padding: Padding) -> jax.Array:
    zeros = [(0, 0, 0), *((before, after, 0) for before, after in padding), (0, 0, 0)]
    return jax.lax.pad(images, jnp.zeros((), images.dtype), zeros)

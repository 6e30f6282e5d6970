"""The evaluator: one walk over a model's jaxpr in which chosen primitives get another meaning.

`evaluate` runs a jaxpr equation by equation; a table of rules, keyed by primitive name, replaces
the equations it names. It descends into `jit` and `remat` calls and leaves every other equation,
loops and custom derivatives included, as it stands. `fast_gradients` is its first use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jc2i.checks import Array
from jc2i.depthwise import depthwise_convolution

Rule = Callable[..., Sequence[Array]]
"""A rule takes the equation's parameters and its inputs, and returns its outputs."""

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}
"""Primitives that only call an inner jaxpr, with the parameter that holds it."""

REMATERIALIZED = ("checkpoint", "remat2")
"""Those of them whose values a gradient computes anew."""


def trace(function: Callable, *arguments: Any) -> tuple[jex.ClosedJaxpr, Any]:
    """The jaxpr of a function at these arguments, and the tree structure of its result."""
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return closed, jax.tree.structure(shape)


def evaluate(
    jaxpr: jex.Jaxpr, constants: Sequence[Any], rules: Mapping[str, Rule], *arguments: Any
) -> list[Any]:
    """Evaluates a jaxpr with some primitives replaced.

    Args:
      jaxpr: the open jaxpr.
      constants: values of its constant variables.
      rules: by primitive name, a function `(parameters, *inputs) -> outputs`.
      *arguments: values of its input variables, flat.

    Returns:
      The values of its outputs, flat.
    """
    values: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    values.update(zip(jaxpr.constvars, constants, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        outputs = _evaluate_equation(equation, rules, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _evaluate_equation(
    equation: jex.JaxprEqn, rules: Mapping[str, Rule], inputs: list[Any]
) -> Sequence[Any]:
    primitive, parameters = equation.primitive, equation.params
    if primitive.name in rules:
        return rules[primitive.name](parameters, *inputs)
    if primitive.name in CALLS:
        return _evaluate_call(primitive.name, parameters, rules, inputs)
    outputs = primitive.bind(*inputs, **primitive.get_bind_params(parameters))
    return outputs if primitive.multiple_results else [outputs]


def _evaluate_call(
    name: str, parameters: dict[str, Any], rules: Mapping[str, Rule], inputs: list[Any]
) -> Sequence[Any]:
    call = body(name, parameters, rules)
    if name in REMATERIALIZED:
        call = jax.checkpoint(
            call, prevent_cse=parameters["prevent_cse"], policy=parameters["policy"]
        )
    return call(*inputs)


def body(name: str, parameters: Mapping[str, Any], rules: Mapping[str, Rule]) -> Callable:
    """What a call of `CALLS` computes, with some primitives replaced: inputs -> outputs."""
    inner = parameters[CALLS[name]]
    constants = ()
    if isinstance(inner, jex.ClosedJaxpr):
        inner, constants = inner.jaxpr, inner.consts
    return lambda *arguments: evaluate(inner, constants, rules, *arguments)


def fast_gradients(model: Callable) -> Callable:
    """The same model with convolutions whose input gradient stays fast inside a loop on CPU.

    XLA:CPU computes JAX's own input gradient of a convolution, whose kernel is in a transposed
    layout, with a generic loop about ten times slower than a convolution once it stands inside
    `scan` or `while`. Here the gradient is written as an ordinary convolution of the cotangent with
    the flipped, transposed kernel. A depthwise convolution, slow there even outside
    a loop, becomes `depthwise_convolution`. On other backends the model is returned as is.

    Args:
      model: images -> scores, any JAX function.

    Returns:
      A function with equal values and, to rounding, equal gradients; reverse mode only.
    """
    if jax.default_backend() != "cpu":
        return model

    def evaluated(images: Array) -> Any:
        closed, structure = trace(model, images)
        rules = {"conv_general_dilated": _canonical_convolution}
        outputs = evaluate(closed.jaxpr, closed.consts, rules, images)
        return jax.tree.unflatten(structure, outputs)

    return evaluated


def _canonical_convolution(
    parameters: dict[str, Any], images: Array, kernel: Array
) -> Sequence[Array]:
    def convolve(images: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated_p.bind(images, kernel, **parameters)

    if _is_depthwise(parameters, kernel):
        strides, padding = parameters["window_strides"], parameters["padding"]
        return [depthwise_convolution(images, kernel, strides, padding)]
    numbers = parameters["dimension_numbers"]
    plain = (
        parameters["feature_group_count"] == parameters["batch_group_count"] == 1
        and all(dilation == 1 for dilation in parameters["lhs_dilation"])
        and numbers.lhs_spec == numbers.out_spec
    )
    if not plain:
        return [convolve(images, kernel)]
    convolution = jax.custom_vjp(convolve)

    def forward(images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
        return convolve(images, kernel), (images, kernel)

    def backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
        images, kernel = residuals
        by_kernel = jax.vjp(lambda kernel: convolve(images, kernel), kernel)[1]
        by_images = _input_gradient(parameters, images.shape, kernel, cotangent)
        return by_images.astype(images.dtype), by_kernel(cotangent)[0]

    convolution.defvjp(forward, backward)
    return [convolution(images, kernel)]


def _is_depthwise(parameters: dict[str, Any], kernel: Array) -> bool:
    """Whether each channel has one kernel, and all is laid out as `depthwise_convolution` is."""
    return (
        parameters["dimension_numbers"] == _CHANNELS_LAST
        and kernel.shape[2:] == (1, parameters["feature_group_count"])
        and parameters["feature_group_count"] > 1
        and parameters["batch_group_count"] == 1
        and set(parameters["lhs_dilation"] + parameters["rhs_dilation"]) == {1}
        and parameters["preferred_element_type"] in (None, kernel.dtype)
    )


_CHANNELS_LAST = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


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

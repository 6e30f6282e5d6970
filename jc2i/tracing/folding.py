"""A convolution or product and the affine arithmetic behind it, as one linear map with one bias.

A batch normalisation in evaluation mode is an affine map of each channel, which a network writes in
several ways: (x - mean) * rsqrt(variance + epsilon) * scale + bias, x * scale + shift, or already
within the convolution. Rules for the linear part of a network (layer-wise relevance propagation,
DeepLIFT) must not depend on which.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jc2i.checks import Array
from jc2i.tracing.interpreter import (
    CALLS,
    ENTER,
    OTHERS,
    Operation,
    bind,
    evaluate,
    rewritten,
    trace,
)


def folded(model: Callable) -> Callable:
    """The same model with every affine chain as one linear map and one bias.

    A chain starts with a convolution or a product with weights, and goes on through sums with and
    products by what does not depend on the image and is the same for all outputs of a kernel, as
    long as no other equation (a name among them) reads the values between. Calls are entered, and
    no longer rematerialised; loops, branches and custom derivatives stay as they are.

    Args:
      model: images -> scores, any JAX function.

    Returns:
      A function with equal values, to rounding, in which nothing but one sum stands behind a
      linear map.
    """

    def flat(images: Any) -> Any:
        return rewritten(model, dict.fromkeys(CALLS, ENTER))(images)

    def together(images: Any) -> Any:
        closed, structure = trace(flat, images)
        outputs = evaluate(closed, _RULES, *jax.tree.leaves(images))
        return jax.tree.unflatten(structure, map(_plain, outputs))

    return together


@dataclasses.dataclass(frozen=True)
class _Linear:
    """linear(inputs) * scale + bias, not computed yet, as it may go on."""

    equation: jex.JaxprEqn
    inputs: tuple[Any, ...]
    kernel: int
    """Which of the inputs is the kernel."""
    axes: dict[int, int]
    """The output's axes that the kernel alone makes, each with the kernel's axis."""
    scale: Any = None
    bias: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        aval: Any = self.equation.outvars[0].aval
        return aval.shape

    def times(self, factor: Any) -> _Linear:
        scale = factor if self.scale is None else self.scale * factor
        bias = None if self.bias is None else self.bias * factor
        return dataclasses.replace(self, scale=scale, bias=bias)

    def plus(self, term: Any) -> _Linear:
        return dataclasses.replace(self, bias=term if self.bias is None else self.bias + term)

    def value(self) -> Any:
        inputs = list(self.inputs)
        if self.scale is not None:
            kernel = inputs[self.kernel]
            inputs[self.kernel] = kernel * self._scale_of_kernel(kernel).astype(kernel.dtype)
        (value,) = bind(self.equation, *inputs)
        return value if self.bias is None else value + self.bias

    def _scale_of_kernel(self, kernel: Array) -> jax.Array:
        wide = [n if axis in self.axes else 1 for axis, n in enumerate(self.shape)]
        places = [self.axes[axis] for axis in sorted(self.axes)]
        scale = jnp.broadcast_to(self.scale, wide).reshape([kernel.shape[i] for i in places])
        others = [axis for axis in range(kernel.ndim) if axis not in places]
        return jnp.expand_dims(scale.transpose(np.argsort(places)), others)


@dataclasses.dataclass(frozen=True)
class _Wide:
    """A broadcast value that does not depend on the image, and what it was before."""

    value: Any
    narrow: Any


def _plain(value: Any) -> Any:
    if isinstance(value, _Linear):
        return value.value()
    return value.value if isinstance(value, _Wide) else value


def _as_it_stands(operation: Operation, *inputs: Any) -> Sequence[Any]:
    return bind(operation.equation, *map(_plain, inputs))


def _goes_on(operation: Operation, chain: _Linear) -> Sequence[Any]:
    """A chain whose value two equations read ends, for they would both compute it."""
    return [chain if operation.uses == (1,) else chain.value()]


def _start(operation: Operation, *inputs: Any) -> Sequence[Any]:
    parameters, output = operation.parameters, operation.equation.outvars[0]
    aval: Any = output.aval
    if sum(operation.dependent) != 1 or not jnp.issubdtype(aval.dtype, jnp.floating):
        return _as_it_stands(operation, *inputs)
    kernel = operation.dependent.index(False)
    if operation.equation.primitive.name == "conv_general_dilated":
        if kernel == 0:
            return _as_it_stands(operation, *inputs)
        numbers = parameters["dimension_numbers"]
        axes = {numbers.out_spec[1]: numbers.rhs_spec[0]}
    else:
        contracted, batch = parameters["dimension_numbers"]
        free = [
            [axis for axis in range(jnp.ndim(_plain(value))) if axis not in (*summed, *shared)]
            for value, summed, shared in zip(inputs, contracted, batch, strict=True)
        ]
        first = len(batch[0]) + kernel * len(free[0])
        axes = {first + i: axis for i, axis in enumerate(free[kernel])}
    values = tuple(map(_plain, inputs))
    return _goes_on(operation, _Linear(operation.equation, values, kernel, axes))


def _chain(operation: Operation, inputs: Sequence[Any]) -> tuple[_Linear, Any, bool] | None:
    """The chain among two inputs, the other one if it is fixed, and whether the chain is first."""
    if sum(operation.dependent) != 1:
        return None
    first = operation.dependent[0]
    chain, other = inputs if first else reversed(inputs)
    if not isinstance(chain, _Linear):
        return None
    return chain, other.narrow if isinstance(other, _Wide) else other, first


def _sum(sign: int, operation: Operation, *inputs: Any) -> Sequence[Any]:
    found = _chain(operation, inputs)
    if found is None:
        return _as_it_stands(operation, *inputs)
    chain, other, first = found
    if sign == -1:
        chain, other = (chain, -other) if first else (chain.times(-1), other)
    return _goes_on(operation, chain.plus(other))


def _product(function: Callable, operation: Operation, *inputs: Any) -> Sequence[Any]:
    found = _chain(operation, inputs)
    if found is None:
        return _as_it_stands(operation, *inputs)
    chain, other, first = found
    shape = jnp.shape(other)
    by_kernel = all(n == 1 or axis in chain.axes for axis, n in enumerate(shape))
    if not by_kernel or not (first or function is operator.mul):
        return _as_it_stands(operation, *inputs)
    return _goes_on(operation, chain.times(function(1, other)))


def _negative(operation: Operation, value: Any) -> Sequence[Any]:
    if not isinstance(value, _Linear):
        return _as_it_stands(operation, value)
    return _goes_on(operation, value.times(-1))


def _broadcast(operation: Operation, value: Any, *shape: Any) -> Sequence[Any]:
    outputs = _as_it_stands(operation, value, *shape)
    if any(operation.dependent):
        return outputs
    value, narrow = _plain(value), [1] * jnp.ndim(outputs[0])
    for axis, n in zip(operation.parameters["broadcast_dimensions"], jnp.shape(value), strict=True):
        narrow[axis] = n
    return [_Wide(outputs[0], jnp.reshape(value, narrow))]


_RULES = {
    OTHERS: _as_it_stands,
    "scan": _as_it_stands,
    "broadcast_in_dim": _broadcast,
    "conv_general_dilated": _start,
    "dot_general": _start,
    "neg": _negative,
    "add": functools.partial(_sum, 1),
    "sub": functools.partial(_sum, -1),
    "mul": functools.partial(_product, operator.mul),
    "div": functools.partial(_product, operator.truediv),
}

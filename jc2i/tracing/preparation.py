"""A model prepared for the backend it runs on: equal scores and gradients, sooner."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex

from jc2i.checks import Array
from jc2i.tracing import fast_gradients
from jc2i.tracing.depthwise import depthwise_convolution
from jc2i.tracing.interpreter import KEEP, LEAVE, Operation, Step, bind, equations, rewritten


def prepared(model: Callable, training: bool = False) -> Callable:
    """The same model with what is faster on this backend in place of its convolutions.

    On CPU a convolution gets an input gradient that stays fast inside a loop
    (`jc2i.tracing.fast_gradients`), a depthwise one becomes shifted multiply-adds
    (`jc2i.tracing.depthwise`), and a 1x1 one a matrix product, in whichever `jit`, rematerialised
    call or scan of the model they stand. Models on other backends, and models that are prepared
    already, are returned as they are.

    Args:
      model: images -> scores, any JAX function.
      training: whether the gradients by a convolution's kernel are to be fast, too.

    Returns:
      A function with equal values and, to rounding, equal gradients; reverse mode only. It is a
      pytree whose leaves are the model's.
    """
    if jax.default_backend() != "cpu" or isinstance(model, _Prepared):
        return model
    return _Prepared(model, training)


def as_written(model: Any) -> Any:
    """The model that was prepared, or the same one: its operations are those of its author."""
    return model.model if isinstance(model, _Prepared) else model


def apply(equation: jex.JaxprEqn, *inputs: Any) -> Any:
    """The output of a convolution or product, as a prepared model computes it."""
    rule = _RULES.get(equation.primitive.name) if jax.default_backend() == "cpu" else None
    if rule is not None:
        found = rule(Operation(equation, (True,) * len(inputs), (1,)), *inputs)
        if not isinstance(found, Step):
            return found[0]
    return bind(equation, *inputs)[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Prepared:
    model: Callable
    training: bool = dataclasses.field(default=False, metadata={"static": True})

    def __call__(self, images: Any) -> Any:
        return rewritten(self.model, _TRAINING_RULES if self.training else _RULES)(images)


def _convolution(
    operation: Operation, images: Array, kernel: Array, training: bool = False
) -> Sequence[Array] | Step:
    parameters = operation.parameters
    if _is_depthwise(parameters, kernel):
        strides, padding = parameters["window_strides"], parameters["padding"]
        return [depthwise_convolution(images, kernel, strides, padding)]
    if _is_pointwise(parameters, kernel):
        return [_matrix_product(parameters, images, kernel)]
    value = fast_gradients.convolution(parameters, images, kernel, by_kernel=training)
    return LEAVE if value is None else [value]


def _scan(operation: Operation, *inputs: Array) -> Step:
    inside = equations(operation.parameters["jaxpr"].jaxpr)
    return KEEP if any(inner.primitive.name == _CONVOLUTION for inner in inside) else LEAVE


_CONVOLUTION = "conv_general_dilated"
_RULES = {_CONVOLUTION: _convolution, "scan": _scan}
_TRAINING_RULES = _RULES | {_CONVOLUTION: functools.partial(_convolution, training=True)}


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


def _is_pointwise(parameters: dict[str, Any], kernel: Array) -> bool:
    """Whether every output pixel is a product of a matrix and one input pixel's channels."""
    return (
        parameters["dimension_numbers"] == _CHANNELS_LAST
        and kernel.shape[:2] == (1, 1)
        and parameters["feature_group_count"] == parameters["batch_group_count"] == 1
        and set(parameters["lhs_dilation"]) == {1}
        and set(parameters["padding"]) == {(0, 0)}
    )


def _matrix_product(parameters: dict[str, Any], images: Array, kernel: Array) -> Array:
    # XLA:CPU's matrix product takes two thirds of the time of its 1x1 convolution.
    down, across = parameters["window_strides"]
    return jax.lax.dot_general(
        images[:, ::down, ::across],
        kernel[0, 0],
        (((3,), (0,)), ((), ())),
        precision=parameters["precision"],
        preferred_element_type=parameters["preferred_element_type"],
    )


_CHANNELS_LAST = jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))

"""Guided backpropagation and deconvnet: gradients with another way back through rectifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, tracing
from jc2i.explainers.gradients.input_gradient import CHANNELS, input_gradient, reduce_channels
from jc2i.explainers.propagation.backward import Rule, back, gradient, own
from jc2i.query import Cost, explainer
from jc2i.tracing import units
from jc2i.tracing.units import Application, Unit


@explainer(cost=lambda shape, options: Cost(gradient=1), channels=CHANNELS)
def guided_backprop(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    channels: str | None = "abs_sum",
    batch_size: int | None = None,
) -> Float[Array, "batch height width *channel"]:
    """Guided backpropagation: the gradient, of which a rectifier lets only the positive part back.

    R_in = f'(x) max(R, 0) at every rectifier f (Springenberg et al. 2015); of relu, R where both
    its input and R are positive. Rectifiers are recognised however they are written: relu, relu6,
    leaky and parametric relu, elu, softplus, gelu, silu, hard swish. Sigmoids, and all else, keep
    their gradient. Cost: 1 gradient evaluation.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      channels: `"abs_sum"`, `"sum"`, `"max_abs"`, or None for one value a channel.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """

    def guided(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        positive = tuple(jnp.maximum(each, 0) for each in arriving)
        return gradient(application.function, inputs, held, positive)

    return reduce_channels(_through_rectifiers(model, images, targets, back(guided)), channels)


@explainer(cost=lambda shape, options: Cost(gradient=1), channels=CHANNELS)
def deconvnet(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    channels: str | None = "abs_sum",
    batch_size: int | None = None,
) -> Float[Array, "batch height width *channel"]:
    """Deconvnet: the gradient, with every rectifier applied on the way back instead of forward.

    R_in = max(R, 0) at every rectifier (Zeiler and Fergus 2014), recognised as
    `guided_backprop` does. Cost: 1 gradient evaluation.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      channels: `"abs_sum"`, `"sum"`, `"max_abs"`, or None for one value a channel.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """

    def rectified(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        return [jnp.maximum(each, 0) for each in arriving]

    return reduce_channels(_through_rectifiers(model, images, targets, back(rectified)), channels)


def _through_rectifiers(
    model: Callable, images: checks.Array, targets: checks.Array, rule: Rule
) -> Array:
    program = units.read(tracing.as_written(model), images, whole=_CLOSED, known=None)

    def activation(application: Application) -> Any:
        return (rule if is_rectifier(application.unit) else own)(application)

    return input_gradient(lambda images: program.evaluate({"activation": activation}, images))(
        images, targets
    )


# A derivative of a function's own stays (a softmax's that does not cancel, say).
_CLOSED = ("custom_vjp_call",)


def is_rectifier(unit: Unit) -> bool:
    """Whether an activation is a rectifier: nearly x above 0, nearly 0 below.

    It is one if it takes the greater of x and a number, chooses by x, or multiplies a function of
    x by another one (gelu, silu). A hard sigmoid, which does so to x + 3, and other functions
    between two bounds are none.

    Args:
      unit: of the kind `"activation"`.

    Returns:
      Whether it is one.
    """
    multiples = set(unit.inputs)  # of the activation's input
    inside = set(unit.inputs)
    for equation in unit.equations:
        atoms = [a for a in equation.invars if not isinstance(a, jex.Literal)]
        within = [a for a in atoms if a in inside]
        name = equation.primitive.name
        if name in ("max", "clamp", "select_n") and any(a in multiples for a in within):
            return True
        if name in ("mul", "div") and len(within) == 2 and set(within) & multiples:
            return True
        if name in ("neg", "mul", "div", "convert_element_type") and len(within) == 1:
            multiples.update(equation.outvars if within[0] in multiples else ())
        inside.update(equation.outvars)
    return False

"""DeepLIFT: how a unit's difference from its reference is shared out among its inputs'.

Each value of the program comes in two lanes: at the image and at the reference. A rule takes the
multiplier m of an output, contribution / difference, and gives the inputs', so that the sum of
multiplier x difference stays what it is. A rule for another operation is one more line of the
table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jc2i.explainers.propagation.backward import back, gradient, refusing
from jc2i.tracing.interpreter import OTHERS
from jc2i.tracing.linear import Linear
from jc2i.tracing.units import MOVEMENT, SUMS, Application, Rule

LEAST = 1e-10
"""A difference below which a quotient of differences is the gradient (as in Captum)."""


def table(reveal_cancel: bool) -> dict[str, Rule]:
    """The rules of DeepLIFT by kind of unit.

    Args:
      reveal_cancel: whether an activation right behind a linear map tells positive from negative
        contributions; else every activation is rescaled.

    Returns:
      The table, for one evaluation of a program in two lanes.
    """
    maps: dict[Any, tuple[Linear, Array]] = {}

    def linear(application: Application) -> Sequence[Any]:
        assert application.linear is not None
        maps[application.unit.outputs[0]] = application.linear, application.inputs[0]
        return _linear_as_gradient(application)

    def activation(application: Application) -> Sequence[Any]:
        before = maps.get(application.unit.inputs[0]) if reveal_cancel else None
        return _rescaled(application) if before is None else _revealed(application, *before)

    return {
        "linear": linear,
        "activation": activation,
        **dict.fromkeys(("affine", "scale", "add", "add_any", "sub"), _linear_as_gradient),
        **dict.fromkeys(sorted(SUMS), _linear_as_gradient),
        **dict.fromkeys(("mul", "conv_general_dilated", "dot_general"), _averaged),
        "div": _divided,
        "softmax": _softmax,
        **dict.fromkeys(("max", "min", "pow"), _in_both_orders),
        **dict.fromkeys(
            ("reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min"), _pooled
        ),
        **dict.fromkeys(sorted(MOVEMENT | {"select_n"}), _linear_as_gradient),
        "held": _common,
        OTHERS: refusing("deeplift"),
    }


def _in_lanes(rule: Callable[..., Sequence[Array]], function: Callable | None = None) -> Rule:
    """An entry from a rule (application, inputs, held, outputs, multiplier) in lanes.

    Args:
      rule: see above.
      function: (application, inputs, held) -> outputs, all in lanes, where it is not the unit's.
    """

    def backward(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        multipliers = tuple(each[0] for each in arriving)  # the same for both lanes: one is sent
        found = rule(application, inputs, held, outputs, multipliers)
        return [jnp.stack([each, jnp.zeros_like(each)]) for each in found]

    def forward(application: Application, inputs: tuple, held: tuple) -> tuple:
        return jax.vmap(application.function)(inputs, held)

    return back(backward, function or forward)


def _at(values: tuple, lane: int) -> tuple:
    return tuple(each[lane] for each in values)


def _difference(values: Array) -> Array:
    return values[0] - values[1]


def _quotient(above: Array, below: Array, otherwise: Array) -> Array:
    """Above / below, and what is otherwise where the difference below is next to nothing."""
    near = jnp.abs(below) < LEAST
    return jnp.where(near, otherwise, above / jnp.where(near, 1, below))


@_in_lanes
def _linear_as_gradient(
    application: Application, inputs: tuple, held: tuple, outputs: tuple, multipliers: tuple
) -> Sequence[Array]:
    """m_i = sum_j m_j dy_j/dx_i of a linear y."""
    return gradient(application.function, _at(inputs, 0), _at(held, 0), multipliers)


def _rescale(
    application: Application, inputs: tuple, held: tuple, outputs: tuple, multipliers: tuple
) -> Sequence[Array]:
    """m_i = m (y - y_r) / (x - x_r): the rescale rule."""
    (found,) = gradient(application.function, _at(inputs, 0), _at(held, 0), multipliers)
    change = multipliers[0] * _difference(outputs[0])
    return [_quotient(change, _difference(inputs[0]), found)]


_rescaled = _in_lanes(_rescale)


@_in_lanes
def _averaged(
    application: Application, inputs: tuple, held: tuple, outputs: tuple, multipliers: tuple
) -> Sequence[Array]:
    """m_a = m (b + b_r) / 2 of a product a b, whose change is that of both parts exactly."""
    middle = tuple(each.mean(axis=0) for each in inputs)
    return gradient(application.function, middle, _at(held, 0), multipliers)


@_in_lanes
def _divided(
    application: Application, inputs: tuple, held: tuple, outputs: tuple, multipliers: tuple
) -> Sequence[Array]:
    """The quotient a / b as a times 1 / b, rescaled."""
    (m,) = multipliers
    above, below = application.unit.equation.invars
    by = dict(zip(application.unit.inputs, inputs, strict=True))
    if len(inputs) == 1:
        return _rescale(application, inputs, held, outputs, multipliers)
    a, b = by[above], by[below]
    inverse = 1 / b
    slope = -inverse[0] * inverse[1]  # (1/b - 1/b_r) / (b - b_r), without the quotient
    found = {above: m * inverse.mean(axis=0), below: m * a.mean(axis=0) * slope}
    return [found[variable] for variable in application.unit.inputs]


def _softmax_rule(
    application: Application, inputs: tuple, held: tuple, outputs: tuple, multipliers: tuple
) -> Sequence[Array]:
    """exp(x - ln sum exp x), rescaled: complete, and without the quotient of two tiny sums."""
    (x,), (m,) = inputs, multipliers
    axes = tuple(axis + 1 for axis in application.unit.axes)
    counts = jnp.isfinite(x).all(axis=0)  # a masked value is -inf in both lanes
    x = jnp.where(counts, x, 0)
    total = jax.nn.logsumexp(x, axis=axes, where=counts, keepdims=True)
    log_share = x - total
    own = jnp.where(counts, m * jnp.exp(log_share[0]), 0)
    through = _quotient(
        jnp.where(counts, m * _difference(jnp.exp(log_share)), 0), _difference(log_share), own
    )
    # Of the sum of exponentials, shifted alike in both lanes.
    shifted = jnp.where(counts, jnp.exp(x - total.max(axis=0, keepdims=True)), 0)
    slope = _quotient(
        _difference(total),
        _difference(shifted.sum(axis=axes, keepdims=True)),
        jnp.ones_like(total[0]),
    )
    weight = slope * _quotient(_difference(shifted), _difference(x), shifted[0])
    return [through - weight * through.sum(axis=application.unit.axes, keepdims=True)]


def _softmax_in_lanes(application: Application, inputs: tuple, held: tuple) -> tuple:
    # Each lane with its own shift: with one for both, all of a lane can fall below the least float.
    axes = tuple(axis + 1 for axis in application.unit.axes)
    return (jax.nn.softmax(inputs[0], axis=axes),)


_softmax = _in_lanes(_softmax_rule, _softmax_in_lanes)


@_in_lanes
def _in_both_orders(
    application: Application, inputs: tuple, held: tuple, outputs: tuple, multipliers: tuple
) -> Sequence[Array]:
    """What each of two parts adds when it changes first, and last, in the mean (Shapley)."""
    if len(inputs) == 1:
        return _rescale(application, inputs, held, outputs, multipliers)
    own = gradient(application.function, _at(inputs, 0), _at(held, 0), multipliers)

    def value(first: int, second: int) -> Array:
        return application.function((inputs[0][first], inputs[1][second]), _at(held, 0))[0]

    both = [
        value(0, 0) - value(1, 0) + value(0, 1) - value(1, 1),
        value(0, 0) - value(0, 1) + value(1, 0) - value(1, 1),
    ]
    return [
        _quotient(multipliers[0] * part / 2, _difference(x), found)
        for part, x, found in zip(both, inputs, own, strict=True)
    ]


@_in_lanes
def _pooled(
    application: Application, inputs: tuple, held: tuple, outputs: tuple, multipliers: tuple
) -> Sequence[Array]:
    """The change of a maximum, at the image's largest input and at the reference's.

    With c = max(y, y_r), c - y_r goes to the image's place and y - c to the reference's (the
    authors' of DeepSHAP; Captum). The gradient's one place would not be complete.
    """
    (x,), (y,), (m,) = inputs, outputs, multipliers
    sign = -1 if application.unit.equation.primitive.name.endswith("_min") else 1
    cross = sign * jnp.maximum(sign * y[0], sign * y[1])
    parts = [m * (cross - y[1]), m * (y[0] - cross)]
    at_image, at_reference = (
        gradient(application.function, (x[lane],), _at(held, lane), (parts[lane],))[0]
        for lane in (0, 1)
    )
    (own,) = gradient(application.function, (x[0],), _at(held, 0), (m,))
    return [_quotient(at_image + at_reference, _difference(x), own)]


def _common(application: Application) -> Sequence[Any]:
    """What has no gradient, the shift of a softmax for one, is the same in both lanes."""
    outputs = jax.vmap(application.function)(application.inputs, application.held)
    return [
        jnp.broadcast_to(each.max(axis=0), each.shape)
        if jnp.issubdtype(each.dtype, jnp.floating)
        else each
        for each in map(jax.lax.stop_gradient, outputs)
    ]


def _revealed(application: Application, layer: Linear, x: Array) -> Sequence[Any]:
    """The linear map and the activation behind it, by the reveal-cancel rule.

    The positive and the negative contributions to z, D+ and D-, have each a multiplier, the mean
    of their effect before and after the other: m+ = (f(r + D+) - f(r) + f(r + D+ + D-) -
    f(r + D-)) / 2 D+ (Shrikumar et al. 2017, section 3.5.2).
    """

    def function(application: Application, inputs: tuple, held: tuple) -> tuple:
        return jax.vmap(lambda x, held: application.function((layer(x),), held))(inputs[0], held)

    def rule(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        (x,), m = inputs, arriving[0][0]
        kept = _at(held, 0)
        change, kernel = _difference(x), layer.kernel
        up, down = jnp.maximum(kernel, 0), jnp.minimum(kernel, 0)
        more, less = jnp.maximum(change, 0), jnp.minimum(change, 0)
        positive = layer.product(more, up) + layer.product(less, down)
        negative = layer.product(more, down) + layer.product(less, up)
        start = layer(x[1])

        def f(z: Array) -> Array:
            return application.function((z,), kept)[0]

        at = {(p, n): f(start + p * positive + n * negative) for p in (0, 1) for n in (0, 1)}
        (slope,) = gradient(application.function, (start + positive + negative,), kept, (m,))
        above = (at[1, 0] - at[0, 0] + at[1, 1] - at[0, 1]) / 2
        below = (at[0, 1] - at[0, 0] + at[1, 1] - at[1, 0]) / 2
        m_up = _quotient(m * above, positive, slope)
        m_down = _quotient(m * below, negative, slope)

        def to(kernel: Array, multiplier: Array) -> Array:
            return jax.vjp(lambda v: layer.product(v, kernel), change)[1](multiplier)[0]

        rising = to(up, m_up) + to(down, m_down)
        falling = to(down, m_up) + to(up, m_down)
        found = jnp.where(
            change > 0, rising, jnp.where(change < 0, falling, (rising + falling) / 2)
        )
        return [jnp.stack([found, jnp.zeros_like(found)])]

    together = dataclasses.replace(application, inputs=(x,))
    return back(rule, function)(together)

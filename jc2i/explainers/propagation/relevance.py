"""Layer-wise relevance propagation: what share of its relevance each input of a unit receives.

`table` is the rules by kind of unit (`jc2i.tracing.units`), `LINEAR` those of linear maps by name.
A rule for another operation is one more line of the table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jc2i.explainers.propagation.backward import back, gradient, own, refusing
from jc2i.tracing.interpreter import OTHERS
from jc2i.tracing.linear import Linear
from jc2i.tracing.units import MOVEMENT, REDUCTIONS, SUMS, Application, Rule, Unit


class Settings(NamedTuple):
    """The numbers of the rules, each as `lrp` explains it."""

    epsilon: Any
    relative: bool
    gamma: Any
    alpha: Any
    bias: bool
    bounds: Callable[[Unit], tuple[Array, Array]]
    """Of the first linear map: the least and the largest value of each of its inputs."""

    def stabilized(self, values: Array) -> Array:
        """The sums with epsilon added away from zero, so that they can be divided by.

        Nothing is shared of a sum that is still zero: it stays finite.
        """
        size = self.epsilon
        if self.relative:
            size = size * jnp.sqrt(jnp.mean(jnp.square(values), axis=-1, keepdims=True))
        sign = jnp.where(values >= 0, 1, -1).astype(values.dtype)
        result = values + sign * jnp.asarray(size, values.dtype)
        return jnp.where(result == 0, 1, result)


Term = tuple[Any, Any, Any]
"""Values, kernel and bias: their products and their sum are shares of a denominator."""


def _shared(layer: Linear, terms: Sequence[Term], relevance: Array, settings: Settings) -> Array:
    """Sum over terms of x w^T (R / sum over terms of (w x + b))."""
    products, backs = zip(
        *(jax.vjp(lambda v, k=kernel: layer.product(v, k), values) for values, kernel, _ in terms),
        strict=True,
    )
    total = functools.reduce(jnp.add, products)
    for *_, bias in terms:
        if bias is not None and settings.bias:
            total = total + bias.astype(total.dtype)
    share = relevance / settings.stabilized(total)
    shares = [values * way(share)[0] for (values, *_), way in zip(terms, backs, strict=True)]
    return functools.reduce(jnp.add, shares)


def _positive(value: Any) -> Any:
    return None if value is None else jnp.maximum(value, 0)


def _negative(value: Any) -> Any:
    return None if value is None else jnp.minimum(value, 0)


def _epsilon(layer: Linear, x: Array, relevance: Array, settings: Settings, unit: Unit) -> Array:
    return _shared(layer, [(x, layer.kernel, layer.bias)], relevance, settings)


def _split(unit: Unit, x: Array, positive: tuple[Any, Any], negative: Any) -> list[Term]:
    """Values above zero with a kernel and a bias, and those below with another kernel, if any."""
    if unit.nonnegative:
        return [(x, *positive)]
    return [(_positive(x), *positive), (_negative(x), negative, None)]


def _supporting(layer: Linear, x: Array, unit: Unit) -> list[Term]:
    """What adds to the outputs: positive values by positive weights, negative by negative."""
    positive = _positive(layer.kernel), _positive(layer.bias)
    return _split(unit, x, positive, _negative(layer.kernel))


def _opposing(layer: Linear, x: Array, unit: Unit) -> list[Term]:
    """What takes from the outputs."""
    negative = _negative(layer.kernel), _negative(layer.bias)
    return _split(unit, x, negative, _positive(layer.kernel))


def _z_plus(layer: Linear, x: Array, relevance: Array, settings: Settings, unit: Unit) -> Array:
    return _shared(layer, _supporting(layer, x, unit), relevance, settings)


def _alpha_beta(layer: Linear, x: Array, relevance: Array, settings: Settings, unit: Unit) -> Array:
    alpha = jnp.asarray(settings.alpha, x.dtype)
    supporting = _shared(layer, _supporting(layer, x, unit), relevance, settings)
    opposing = _shared(layer, _opposing(layer, x, unit), relevance, settings)
    return alpha * supporting - (alpha - 1) * opposing


def _gamma(layer: Linear, x: Array, relevance: Array, settings: Settings, unit: Unit) -> Array:
    """As zennit's generalised rule: outputs above zero favour what supports them, others the rest.

    Of values that are not negative it is w + gamma max(w, 0) where the output is positive.
    """
    gamma = jnp.asarray(settings.gamma, x.dtype)
    output = layer(x)

    def more(value: Any, part: Callable) -> Any:
        return None if value is None else value + gamma * part(value)

    def terms(same: Callable, other: Callable) -> list[Term]:
        positive = more(layer.kernel, same), more(layer.bias, same)
        return _split(unit, x, positive, more(layer.kernel, other))

    above = jnp.where(output > 0, relevance, 0)
    below = jnp.where(output < 0, relevance, 0)
    return _shared(layer, terms(_positive, _negative), above, settings) + _shared(
        layer, terms(_negative, _positive), below, settings
    )


def _by_weight(layer: Linear, x: Array, kernel: Array, bias: Any, R: Array, settings: Settings):
    return _shared(layer, [(jnp.ones_like(x), kernel, bias)], R, settings)


def _w_square(layer: Linear, x: Array, relevance: Array, settings: Settings, unit: Unit) -> Array:
    bias = None if layer.bias is None else jnp.square(layer.bias)
    return _by_weight(layer, x, jnp.square(layer.kernel), bias, relevance, settings)


def _flat(layer: Linear, x: Array, relevance: Array, settings: Settings, unit: Unit) -> Array:
    return _by_weight(layer, x, jnp.ones_like(layer.kernel), None, relevance, settings)


def _z_box(layer: Linear, x: Array, relevance: Array, settings: Settings, unit: Unit) -> Array:
    low, high = settings.bounds(unit)
    terms: list[Term] = [
        (x, layer.kernel, None),
        (-low, _positive(layer.kernel), None),
        (-high, _negative(layer.kernel), None),
    ]
    return _shared(layer, terms, relevance, settings)


LINEAR: dict[str, Callable[..., Array]] = {
    "epsilon": _epsilon,
    "z_plus": _z_plus,
    "alpha_beta": _alpha_beta,
    "gamma": _gamma,
    "w_square": _w_square,
    "flat": _flat,
    "z_box": _z_box,
}
"""The rules of linear maps: (map, its input, relevance of its output, settings, unit)."""


def table(rule_of: Callable[[Unit, Linear], str], settings: Settings) -> dict[str, Rule]:
    """The rules of layer-wise relevance propagation by kind of unit.

    Args:
      rule_of: the name in `LINEAR` of a linear map's rule.
      settings: the rules' numbers.

    Returns:
      The table.
    """

    def linear(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        assert application.linear is not None
        rule = LINEAR[rule_of(application.unit, application.linear)]
        return [rule(application.linear, *inputs, *arriving, settings, application.unit)]

    def passed(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        """R_in = R: a function of one value at each place."""
        return arriving

    def shared(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        """R_i = x_i dy/dx_i R / y of a sum y: residuals, averages, differences."""
        (output,), (relevance,) = outputs, arriving
        share = (relevance / settings.stabilized(output),)
        found = gradient(application.function, inputs, held, share)
        return [x * way for x, way in zip(inputs, found, strict=True)]

    def affine(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        """R_in = R a x / (a x + b), but for the image's own normalisation, which takes nothing."""
        if application.unit.first:
            return arriving
        (output,), (relevance,) = outputs, arriving
        zeros = tuple(map(jnp.zeros_like, inputs))
        (constant,) = application.function(zeros, held)
        return [(output - constant) * relevance / settings.stabilized(output)]

    def halved(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        """Half of what `shared` gives: a product of two parts (AttnLRP, proposition 3.3)."""
        parts = sum(v in application.unit.inputs for v in application.unit.equation.invars)
        part = tuple(relevance / parts for relevance in arriving)
        return shared(application, inputs, held, outputs, part)

    def gate(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        """R_a = R_b = R / 2 of a product a b at each place (AttnLRP, proposition 3.2)."""
        return [arriving[0] / len(inputs)] * len(inputs)

    def numerator(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        """All to a of a / b, whose b is a normalisation's (AttnLRP, proposition 3.4)."""
        above = application.unit.equation.invars[0]
        return [
            arriving[0] if variable is above else jnp.zeros_like(value)
            for variable, value in zip(application.unit.inputs, inputs, strict=True)
        ]

    def softmax(application: Application, inputs: Any, held: Any, outputs: Any, arriving: Any):
        """R_i = x_i (R_i - s_i sum_j R_j) (AttnLRP, proposition 3.1); a masked x_i has none."""
        (x,), (s,), (relevance,) = inputs, outputs, arriving
        total = relevance.sum(axis=application.unit.axes, keepdims=True)
        return [jnp.where(s > 0, x, 0) * (relevance - s * total)]

    return {
        "linear": back(linear),
        "activation": back(passed),
        "affine": back(affine),
        "scale": back(passed),
        "softmax": back(softmax),
        **dict.fromkeys(("add", "add_any", "sub"), back(shared)),
        **dict.fromkeys(sorted(SUMS), back(shared)),
        **dict.fromkeys(("conv_general_dilated", "dot_general"), back(halved)),
        "mul": back(gate),
        "div": back(numerator),
        # The winner takes all; what is moved is moved back.
        **dict.fromkeys(("max", "min", "select_n", "clamp"), own),
        **dict.fromkeys(sorted(REDUCTIONS - SUMS), own),
        **dict.fromkeys(sorted(MOVEMENT), own),
        "held": own,
        OTHERS: refusing("lrp"),
    }

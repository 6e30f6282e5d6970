"""How much memory a gradient takes, told from a model's program before it is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.extend.core as jex
from jaxtyping import Float

from jc2i.checks import Array
from jc2i.tracing.interpreter import trace
from jc2i.tracing.preparation import prepared


def bytes_of_gradient(
    model: Callable, images: Float[Array, "batch ..."] | jax.ShapeDtypeStruct
) -> int:
    """About how many bytes the gradient of one image's scores by its pixels needs at its peak.

    What the forward pass keeps for the backward pass, each value once, and the largest value
    twice: a layer's cotangent in and out. Values that depend on the weights alone do not count, as
    there is one of each however many images there are. XLA computes some of what is kept again,
    and lays out the rest; it was within a factor of 2 of what it allocated for an image.

    Args:
      model: images -> scores[batch, classes], any JAX function.
      images: images that the model accepts, of which the first counts.

    Returns:
      Bytes an image.
    """
    image = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    model = prepared(model)

    def kept(image: Any) -> list[Any]:
        return jax.tree.leaves(jax.vjp(model, image)[1])

    jaxpr = trace(kept, image)[0].jaxpr
    dependent = set(jaxpr.invars)
    largest = 0
    for equation in jaxpr.eqns:
        if not dependent.isdisjoint(_variables(equation.invars)):
            dependent.update(equation.outvars)
            largest = max(largest, *(_bytes(variable) for variable in equation.outvars))
    # The image itself is there anyway.
    found = dependent & _variables(jaxpr.outvars) - set(jaxpr.invars)
    return 2 * largest + sum(map(_bytes, found))


def _variables(atoms: Iterable[Any]) -> set[Any]:
    return {atom for atom in atoms if not isinstance(atom, jex.Literal)}


def _bytes(variable: Any) -> int:
    return math.prod(variable.aval.shape) * variable.aval.dtype.itemsize

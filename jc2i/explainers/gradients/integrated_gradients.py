"""Integrated gradients: the gradient averaged along a path from a reference to the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, removal, streaming
from jc2i.explainers.gradients.input_gradient import CHANNELS, reduce_channels, repeated_gradient
from jc2i.options import OneOf
from jc2i.query import Cost, explainer

METHODS = (
    "riemann_right",
    "riemann_left",
    "riemann_middle",
    "trapezoid",
    "gauss_legendre",
)
NAMED_REFERENCES = {"black": 0.0, "white": 1.0}


class References:
    """One reference image or several: words, numbers, a colour, arrays that fit one image."""

    takes = "black, white, a number, one a channel or an array that fits {}, or several of these"

    def read(self, name: str, value: object, images: Array) -> checks.Array:
        """The references as one array [references, height, width, channel], or of ones there."""
        shape = images.shape[1:]
        numbers = (
            isinstance(value, tuple | list)
            and len(value) > 0
            and all(isinstance(entry, int | float | np.number) for entry in value)
        )
        # Numbers alone are a colour, as for every `baseline=`.
        listed = value if isinstance(value, tuple | list) and not numbers else (value,)
        checks.require(len(listed) > 0, name, "none", "at least one reference")
        found = [self._one(name, entry, images) for entry in listed]
        # On the host where they are known: each operation on a device is a program to compile.
        numpy = np if all(isinstance(reference, np.ndarray) for reference in found) else jnp
        if all(reference.ndim == 0 for reference in found):
            return numpy.stack(found).reshape(-1, 1, 1, 1)
        return numpy.stack([numpy.broadcast_to(each, shape) for each in found])

    def _one(self, name: str, value: object, images: Array) -> Array | np.ndarray:
        if isinstance(value, str):
            checks.one_of(name, value, tuple(NAMED_REFERENCES))
            value = NAMED_REFERENCES[value]
        shape = images.shape[1:]
        takes = self.takes.format(list(shape))
        return removal.fitting(name, value, takes, images.dtype, shape)


@explainer(
    cost=lambda shape, options: Cost(gradient=options["steps"] * number_of(options["references"])),
    depends_on_scores=False,
    references=References(),
    method=OneOf(*METHODS),
    channels=CHANNELS,
)
def integrated_gradients(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    steps: int = 30,
    references: tuple | str | float | checks.Array = ("black", "white"),
    method: str = "riemann_right",
    channels: str | None = "abs_sum",
    batch_size: int | None = None,
) -> Float[Array, "batch height width *channel"]:
    """Integrated gradients, averaged over reference images.

    S(x)_i = (x_i - r_i) sum_k w_k dF(r + a_k (x - r))_c / dx_i. C2I supplement, equation (4), is
    `method="riemann_right"` (a_k = k/m, w_k = 1/m); Sundararajan et al. 2017. Cost: `steps` x
    number of references gradient evaluations; memory does not grow with either.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      steps: gradient evaluations a reference, at least 1 (trapezoid: at least 2).
      references: `"black"` (0), `"white"` (1), a number, a tuple of one number a channel, an array
        that fits one image, or a tuple of words and arrays, over which the maps' attributions are
        averaged (C2I section 4.2: both).
      method: quadrature rule: `"riemann_right"`, `"riemann_left"`, `"riemann_middle"`,
        `"trapezoid"` (weights 1/(steps-1), halved at the ends; MeGe) or `"gauss_legendre"`.
      channels: `"abs_sum"`, `"sum"`, `"max_abs"`, or None for one value a channel.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    points, weights = (jnp.asarray(v, images.dtype) for v in quadrature(method, steps))
    starts = jnp.asarray(references)  # [references, height, width, channel]
    count = steps * len(starts)

    def add(total: Array, index: Array, counted: Array) -> Array:
        start, step = starts[index // steps][None], index % steps
        path = images[:, None] - start  # [batch, chunk, height, width, channel]
        variants = start + points[step][None, :, None, None, None] * path
        gradients = repeated_gradient(model, variants, targets)
        weight = weights[step] * counted.astype(weights.dtype)
        return total + jnp.einsum("k,bkhwc,bkhwc->bhwc", weight, path, gradients)

    chunk = streaming.per_step(images.shape[0], batch_size)
    total = streaming.fold(add, jnp.zeros_like(images), count, chunk)
    return reduce_channels(total / len(starts), channels)


def number_of(references: Any) -> int:
    """How many references there are: read already, or as a caller of `Method.cost` gave them."""
    several = isinstance(references, tuple | list) or getattr(references, "ndim", 0) == 4
    return len(references) if several else 1


def quadrature(method: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in [0, 1] and weights that sum to 1 of a quadrature rule.

    Args:
      method: the rule's name.
      steps: the number of points.

    Returns:
      The points and their weights.

    Raises:
      ValueError: for another method, or too few steps for it.
    """
    checks.one_of("method", method, METHODS)
    least = 2 if method == "trapezoid" else 1
    checks.require(steps >= least, "steps", steps, f"a whole number from {least}")
    if method == "gauss_legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return (points + 1) / 2, weights / 2
    if method == "trapezoid":
        weights = np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps), weights
    offset = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
    return (np.arange(steps) + offset) / steps, np.full(steps, 1 / steps)

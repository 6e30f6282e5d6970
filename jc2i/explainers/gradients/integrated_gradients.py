"""Integrated gradients: the gradient averaged along a path from a reference to the image."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, streaming
from jc2i.boundary import public
from jc2i.explainers.gradients.input_gradient import reduce_channels, repeated_gradient

METHODS = (
    "riemann_right",
    "riemann_left",
    "riemann_middle",
    "trapezoid",
    "gauss_legendre",
)
NAMED_REFERENCES = {"black": 0.0, "white": 1.0}


@public
def integrated_gradients(
    model: Callable,
    images: Float[Array, "batch height width channel"],
    targets: Int[Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    steps: int = 30,
    references: tuple | str | float | Array = ("black", "white"),
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
      references: `"black"` (0), `"white"` (1), a number, an array that fits one image, or a tuple
        of these, over which the maps' attributions are averaged (C2I section 4.2: both).
      method: quadrature rule: `"riemann_right"`, `"riemann_left"`, `"riemann_middle"`,
        `"trapezoid"` (weights 1/(steps-1), halved at the ends; MeGe) or `"gauss_legendre"`.
      channels: `"abs_sum"`, `"sum"`, `"max_abs"`, or None for one value a channel.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    del key
    points, weights = (jnp.asarray(v, images.dtype) for v in quadrature(method, steps))
    starts = _reference_images(references, images)

    def summed(index: Array) -> Array:
        start, step = starts[index // steps], index % steps
        path = images[:, None] - start  # [batch, chunk, height, width, channel]
        variants = start + points[step][:, None, None, None] * path
        gradients = repeated_gradient(model, variants, targets)
        return jnp.einsum("k,bkhwc,bkhwc->bhwc", weights[step], path, gradients)

    chunk = streaming.per_step(images.shape[0], batch_size)
    total = streaming.accumulate(summed, steps * len(starts), chunk)
    return reduce_channels(total / len(starts), channels)


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
    checks.require(
        isinstance(steps, int) and steps >= least, "steps", steps, f"a whole number from {least}"
    )
    if method == "gauss_legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return (points + 1) / 2, weights / 2
    if method == "trapezoid":
        weights = np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
        return np.linspace(0, 1, steps), weights
    offset = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
    return (np.arange(steps) + offset) / steps, np.full(steps, 1 / steps)


def _reference_images(references: object, images: Array) -> Array:
    listed = references if isinstance(references, tuple | list) else (references,)
    checks.require(len(listed) > 0, "references", "none", "at least one reference")
    starts = []
    for reference in listed:
        if isinstance(reference, str):
            checks.one_of("references", reference, tuple(NAMED_REFERENCES))
            reference = NAMED_REFERENCES[reference]
        value = jnp.asarray(reference, images.dtype)
        shape = images.shape[1:]
        fits = value.ndim <= 3 and all(
            a in (1, b) for a, b in zip(value.shape[::-1], shape[::-1], strict=False)
        )
        takes = f"black, white, a number or an array that fits {list(shape)}"
        checks.require(fits, "references", checks.describe(value), takes)
        starts.append(jnp.broadcast_to(value, shape))
    return jnp.stack(starts)

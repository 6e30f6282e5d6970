"""Weights of bounded norm: power iteration, Björck's iteration, and convolutions' factors.

They are functions of arrays that gradients go through, as deel-lip's layers have them (Serrurier et
al., "Achieving robustness in classification using optimal transport with hinge regularization",
CVPR 2021; github.com/deel-ai/deel-lip).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jc2i.checks import one_of

NORMALIZATIONS = ("operator", "kernel", "average")
"""What a convolution's kernel may be scaled by, once its matrix is orthonormal."""


def largest_singular_value(
    apply: Callable[[Array, Array], Array], weights: Array, vector: Array, steps: int
) -> tuple[Float[Array, ""], Array]:
    r"""Estimates how much a linear map can stretch its input, by power iteration from a vector.

    .. math:: v \leftarrow A^T A v / \|A^T A v\|, \qquad \sigma = \|A v\|

    The estimate is from below, and near once the vector has settled: it is handed back, to go on
    from when the weights have moved a little. The gradient is that of :math:`\|A v\|` for this
    :math:`v`, which is that of the largest singular value where the vector has settled.

    Args:
      apply: (weights, vector) -> A vector, linear in the vector.
      weights: what A is made of.
      vector: where to start, not zero.
      steps: of the iteration, 0 or more.

    Returns:
      The estimate, and the vector, of length 1.
    """
    fixed = jax.lax.stop_gradient(weights)

    def forward(vector: Array) -> Array:
        return apply(fixed, vector)

    backward = jax.linear_transpose(forward, vector)
    vector = _unit(vector)
    for _ in range(steps):
        vector = _unit(backward(forward(vector))[0])
    vector = jax.lax.stop_gradient(vector)
    stretched = apply(weights, vector)
    return jnp.sqrt(jnp.square(stretched).sum() + _TINY), vector


# Below it a weight's square is nothing in float32; blank weights divide by it and not by zero.
_TINY = 1e-30


def _unit(vector: Array) -> Array:
    return vector * jax.lax.rsqrt(jnp.square(vector).sum() + _TINY)


def orthonormalized(
    matrix: Float[Array, "rows columns"], steps: int
) -> Float[Array, "rows columns"]:
    r"""Björck's iteration, which takes all singular values of a matrix to 1.

    .. math:: W \leftarrow \tfrac{3}{2} W - \tfrac{1}{2} W W^T W

    A singular value s in (0, 1] becomes 3/2 s - s^3 / 2, which is larger and at most 1: in 15 steps
    one of 1/150 becomes 0.97. Björck and Bowie, "An Iterative Algorithm for Computing the Best
    Estimate of an Orthogonal Matrix" (SIAM J. Numer. Anal. 8, 1971), of order 1; beta is 1/2 in
    deel-lip. All steps but the first and last product are of the smaller side: W times a polynomial
    of W^T W.

    Args:
      matrix: its largest singular value is near 1, and below sqrt(3) at any rate.
      steps: of the iteration, 0 or more.

    Returns:
      The matrix after the last step.
    """
    if not steps:
        return matrix
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    with jax.default_matmul_precision("highest"):
        gram = tall.T @ tall
        identity = jnp.eye(len(gram), dtype=gram.dtype)
        product = identity
        for step in range(steps):
            factor = 1.5 * identity - 0.5 * gram
            product = product @ factor
            if step + 1 < steps:
                gram = factor @ (gram @ factor)
        tall = tall @ product
    return tall if tall.shape == matrix.shape else tall.T


def average_coefficient(kernel: Sequence[int], size: Sequence[int]) -> float:
    r"""deel-lip's factor for a convolution of stride 1 whose kernel's matrix has norm 1.

    .. math:: \sqrt{\frac{h w}{(k_h h - r_h (r_h + 1)) (k_w w - r_w (r_w + 1))}},
       \qquad r = (k - 1) / 2

    One over the root of how many entries of the kernel see a pixel *on average* over an image
    padded with zeros. It bounds no operator: a pixel inside is seen by all of them, and a kernel of
    equal entries stretches an image that is bright inside by 1.020 at 16x16.

    Args:
      kernel: height and width.
      size: height and width of the image.

    Returns:
      The factor, above 1 / sqrt(height width) of the kernel.
    """
    seen = [k * n - (k - 1) / 2 * ((k - 1) / 2 + 1) for k, n in zip(kernel, size, strict=True)]
    return math.sqrt(math.prod(size) / math.prod(seen))


def coefficient(normalization: str, kernel: Sequence[int], size: int) -> float:
    """What makes a convolution of a kernel of norm 1 roughly 1-Lipschitz, without looking at it.

    Args:
      normalization: `"average"`, see `average_coefficient`; `"kernel"` for 1 / sqrt(height width),
        a bound whatever the kernel; 1 for `"operator"`, which is to be measured.
      kernel: height and width.
      size: height and width of the image, which is square.

    Returns:
      The factor.
    """
    one_of("normalization", normalization, NORMALIZATIONS)
    if normalization == "average":
        return average_coefficient(kernel, (size, size))
    return 1 / math.sqrt(math.prod(kernel)) if normalization == "kernel" else 1.0

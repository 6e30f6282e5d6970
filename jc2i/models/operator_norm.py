"""How much linear layers can stretch their input, by sound upper bounds, on the host in float64."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jaxtyping import Float

from jc2i.checks import Array, array, describe, require, whole

_TIGHTNESS = 1e-5
"""How far above the estimate of the squared norm a bound is first tried."""

# A Cholesky factorisation that succeeds proves A + E positive, E of at most (b + 2)^2 units in the
# last place for b diagonals (Higham, "Accuracy and Stability of Numerical Algorithms", theorem
# 10.3): 5e-10 of the norm for 2,000 diagonals, of which this is twenty times.
_ROUNDING = 1e-8


def matrix_norm_bound(matrix: Float[Array, "rows columns"]) -> float:
    """An upper bound of a matrix's largest singular value, 1e-8 above it.

    Args:
      matrix: finite numbers.

    Returns:
      The bound, from a singular value decomposition in float64.
    """
    values = np.asarray(matrix, np.float64)
    return float(np.linalg.norm(values, 2)) * (1 + _ROUNDING)


MOST_BYTES = 2**34
"""Of memory, 16 GiB."""


def convolution_norm_bound(kernel: Float[Array, "height width inputs outputs"], size: int) -> float:
    r"""An upper bound of what a convolution can stretch a square image by, about 1e-5 above it.

    It is of the operator A itself, at this size and with this padding, not of the kernel's matrix,
    whose norm is up to sqrt(height width) times smaller, and not of the convolution of an endless
    image, which stretches more.

    The largest eigenvalue :math:`\theta` of :math:`A^T A` is *estimated* by Lanczos's iteration,
    from below. That :math:`\|A\|^2 \le (1 + \epsilon)\theta` is then *proven*: :math:`(1 +
    \epsilon)\theta I - A^T A` has a Cholesky factor, so that it is positive definite;
    :math:`\epsilon` grows until it is. What rounding may do to the factor is in the bound.

    Args:
      kernel: of odd height and width.
      size: height and width of the image that comes in, in pixels; as many come out, since the
        image is padded with zeros, and the stride is 1. Memory is about 16 size^3 inputs^2
        `height` / 2 bytes: 110 MB for 14 pixels and 48 channels, and a second of time.

    Returns:
      The bound.

    Raises:
      ValueError: for another kernel, or a size below 1.
    """
    takes = "finite floats[odd height, odd width, inputs, outputs]"
    values = np.asarray(array("kernel", kernel, takes, shape=(None,) * 4)).astype(np.float64)
    fits = values.shape[0] % 2 == values.shape[1] % 2 == 1
    fits = fits and values.size > 0 and np.isfinite(values).all()
    require(fits, "kernel", describe(kernel), takes)
    size = whole("size", size, most=2**14)
    diagonals = ((values.shape[0] - 1) * size + values.shape[1]) * values.shape[2]
    fits = 8 * diagonals * size**2 * values.shape[2] <= MOST_BYTES
    require(fits, "size", size, f"one for which {MOST_BYTES} bytes of memory are enough")
    scale = np.abs(values).max() or 1.0  # so that no square underflows
    gram = _banded_gram(values / scale, size)
    if not gram.any():  # of zeros, or where no pixel sees another entry
        return 0.0
    estimate = _largest_eigenvalue(gram)
    tightness = _TIGHTNESS
    while not _is_above(estimate * (1 + tightness), gram):
        tightness *= 4
    return float(scale * np.sqrt(estimate * (1 + tightness) * (1 + _ROUNDING)))


def _banded_gram(kernel: np.ndarray, size: int) -> np.ndarray:
    """The diagonals of A^T A from the main one down, as LAPACK stores them: [diagonals, values].

    Pixels i and j of the image meet where a place of the output sees both: in block (i, j) of the
    matrix stands the sum of K[a] K[b]^T over these places, which see i through the kernel's entry
    a, and j through b.
    """
    height, width, inputs, _ = kernel.shape
    blocks = np.einsum("abio,cdjo->abcdij", kernel, kernel, optimize=True)
    diagonals = ((height - 1) * size + width) * inputs + 1
    gram = np.zeros((diagonals, size * size * inputs), order="F")
    # In memory, entry (row, column) is number `row - column` of the diagonals at the column.
    # So a block's rows are one apart and its columns `diagonals - 1`.
    strides = (size * inputs * diagonals, inputs * diagonals, diagonals - 1, 1)
    for a, b, c, d in np.ndindex(height, width, height, width):
        below = (a - c) * size + b - d  # by how many pixels i is behind j
        if below < 0:
            continue
        block = blocks[a, b, c, d].T
        rows, from_row = _seen(a, c, height // 2, size)
        columns, from_column = _seen(b, d, width // 2, size)
        if not rows or not columns:
            continue
        start = from_row * strides[0] + from_column * strides[1] + below * inputs
        view = np.lib.stride_tricks.as_strided(
            gram.reshape(-1, order="F")[start:],
            (rows, columns, inputs, inputs),
            [stride * gram.itemsize for stride in strides],
        )
        # Of the main blocks only one triangle is stored; zeros change nothing elsewhere.
        view += np.triu(block) if below == 0 else block
    return gram


def _seen(one: int, other: int, reach: int, size: int) -> tuple[int, int]:
    """How many places see a pixel through both entries of the kernel; the first such pixel."""
    first = max(0, reach - one, reach - other)
    last = min(size, size + reach - one, size + reach - other)
    return max(last - first, 0), first + other - reach


def _largest_eigenvalue(gram: np.ndarray) -> float:
    from scipy.linalg import get_blas_funcs
    from scipy.sparse import linalg

    sparse: Any = linalg  # its stubs know neither `matvec` nor a tolerance
    diagonals, values = gram.shape
    if values < 3:
        return float(np.linalg.eigvalsh(_dense(gram))[-1])
    product: Any = get_blas_funcs("sbmv", (gram,))
    multiply = functools.partial(product, diagonals - 1, 1.0, gram, lower=1)
    operator = sparse.LinearOperator((values, values), matvec=multiply, dtype=gram.dtype)
    start = np.random.default_rng(0).standard_normal(values)
    found = sparse.eigsh(operator, k=1, which="LA", v0=start, tol=1e-6, return_eigenvectors=False)
    return float(found[0])


def _dense(gram: np.ndarray) -> np.ndarray:
    lower = sum(np.diag(row[: row.size - k], -k) for k, row in enumerate(gram) if k < row.size)
    return lower + np.tril(lower, -1).T


def _is_above(bound: float, gram: np.ndarray) -> bool:
    """Whether a number is proven to be above every eigenvalue."""
    from scipy.linalg import LinAlgError, cholesky_banded

    difference = -gram
    difference[0] += bound
    try:
        cholesky_banded(difference, overwrite_ab=True, lower=True, check_finite=False)
    except LinAlgError:
        return False
    return True

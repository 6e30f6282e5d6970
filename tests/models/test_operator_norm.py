"""Bounds of linear layers against singular values of their matrices, made of the identity."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from jc2i import models
from jc2i.models.operator_norm import matrix_norm_bound
from jc2i.models.orthonormal import average_coefficient


def operator(kernel, size):
    """The matrix of a convolution of stride 1 padded with zeros: what it makes of each pixel."""
    inputs = kernel.shape[2]
    pixels = np.eye(size * size * inputs).reshape(-1, size, size, inputs)
    padding = [(side // 2,) * 2 for side in kernel.shape[:2]]
    with jax.enable_x64(True):
        made = jax.lax.conv_general_dilated(
            pixels,
            np.asarray(kernel, np.float64),
            (1, 1),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    return np.asarray(made).reshape(len(pixels), -1)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 3, 2, 5), 5),
        ((3, 3, 4, 2), 4),
        ((5, 3, 2, 3), 6),
        ((1, 1, 3, 4), 4),
        ((3, 3, 2, 2), 1),
        ((5, 5, 1, 2), 2),
        ((3, 3, 1, 1), 1),
        ((7, 7, 1, 2), 3),
    ],
)
def test_convolutions_are_bounded_closely(shape, size):
    kernel = np.random.default_rng(sum(shape)).standard_normal(shape)
    norm = np.linalg.norm(operator(kernel, size), 2)
    assert norm < models.convolution_norm_bound(kernel, size) < norm * (1 + 1e-5)


@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.floats(0, 1))
@hypothesis.settings(max_examples=25)
def test_no_convolution_is_above_its_bound(seed, size, channels, coarseness):
    random = np.random.default_rng(seed)
    kernel = random.standard_normal((3, 3, channels, 2))
    kernel = np.where(random.random(kernel.shape) < coarseness, np.round(kernel), kernel)
    norm = np.linalg.norm(operator(kernel, size), 2)
    assert norm <= models.convolution_norm_bound(kernel, size) <= norm * (1 + 1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_kernel_of_equal_entries_exceeds_the_average_factor(scale):
    # A path of 16 pixels has the eigenvalues 1 + 2 cos(k pi / 17), and a square their products.
    stretch = (1 + 2 * np.cos(np.pi / 17)) ** 2
    ones = scale * np.ones((3, 3, 1, 1))
    bound = models.convolution_norm_bound(ones, 16)
    assert bound == pytest.approx(scale * stretch, rel=1e-5)
    # Its matrix, 9 entries of 1, has norm 3.
    factor = average_coefficient((3, 3), (16, 16)) / 3
    assert factor * stretch == pytest.approx(1.020, abs=5e-4)
    assert stretch / 9 < 1  # by the root of the number of its pixels, a bound whatever the kernel


def test_matrices_and_zeros():
    matrix = np.random.default_rng(0).standard_normal((7, 4))
    norm = np.linalg.norm(matrix, 2)
    assert norm < matrix_norm_bound(matrix) < norm * (1 + 1e-7)
    assert models.convolution_norm_bound(np.zeros((3, 3, 2, 2)), 4) == 0


@pytest.mark.parametrize(
    ("kernel", "size", "message"),
    [
        (np.ones((2, 3, 1, 1)), 4, r"kernel: got float64\[2, 3, 1, 1\], takes finite floats\[odd"),
        (np.full((1, 1, 1, 1), np.nan), 4, "kernel: got .*, takes finite floats"),
        (np.ones((3, 3, 1, 1)), 0, "size: got 0, takes a whole number above 0"),
    ],
)
def test_refusals(untyped, kernel, size, message):
    with pytest.raises(ValueError, match=message):
        models.convolution_norm_bound(kernel, size)

"""Power iteration and Björck's iteration against singular values and deel-torchlip."""

from __future__ import annotations

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i.models.orthonormal import (
    average_coefficient,
    coefficient,
    largest_singular_value,
    orthonormalized,
)

SCRIPT = Path(__file__).parents[1] / "golden" / "models_deel_torchlip.py"
MAKE = runpy.run_path(str(SCRIPT))
GOLDEN = np.load(SCRIPT.with_suffix(".npz"))
DRAWN = MAKE["drawn"]()


def matrix_of(name):
    return jnp.float32(DRAWN[name].T)


def settled(matrix, steps=300):
    start = jnp.ones(matrix.shape[1])
    return largest_singular_value(jnp.matmul, matrix, start, steps)


@pytest.mark.parametrize("name", MAKE["MATRICES"])
def test_both_iterations_equal_deel_torchlip(name):
    matrix = matrix_of(name)
    stretch, _ = settled(matrix)
    assert float(stretch) == pytest.approx(float(GOLDEN[f"{name} stretch"]), rel=1e-5)
    for steps, golden in ((3, "three steps"), (MAKE["STEPS"], "orthonormal")):
        made = orthonormalized(matrix / stretch, steps)
        np.testing.assert_allclose(made, GOLDEN[f"{name} {golden}"].T, atol=1e-5)
    np.testing.assert_array_equal(orthonormalized(matrix, 0), matrix)


@pytest.mark.parametrize("name", MAKE["MATRICES"])
def test_singular_values_go_to_one_as_the_formula_says(name):
    matrix = np.asarray(matrix_of(name)) / np.linalg.norm(matrix_of(name), 2)
    values = np.linalg.svd(matrix, compute_uv=False)
    for steps in (1, 5, 15):
        expected = values
        for _ in range(steps):
            expected = 1.5 * expected - 0.5 * expected**3
        found = np.linalg.svd(orthonormalized(jnp.asarray(matrix), steps), compute_uv=False)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.min() > 0.97 and found.max() < 1 + 1e-5


def test_gradients_are_those_of_the_largest_singular_value_and_of_the_plain_iteration():
    matrix = matrix_of("tall")
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    _, vector = settled(matrix)
    gradient = jax.grad(lambda m: largest_singular_value(jnp.matmul, m, vector, 1)[0])(matrix)
    np.testing.assert_allclose(gradient, np.outer(left[:, 0], right[0]), atol=1e-4)

    def plain(matrix):
        for _ in range(4):
            matrix = 1.5 * matrix - 0.5 * matrix @ matrix.T @ matrix
        return jnp.sin(3 * matrix).sum()

    unit = matrix / np.linalg.norm(matrix, 2)
    found = jax.grad(lambda m: jnp.sin(3 * orthonormalized(m, 4)).sum())(unit)
    np.testing.assert_allclose(found, jax.grad(plain)(unit), atol=1e-4)
    wide = jax.grad(lambda m: jnp.sin(3 * orthonormalized(m, 4)).sum())(unit.T)
    np.testing.assert_allclose(wide, jax.grad(plain)(unit).T, atol=1e-4)


def test_iteration_goes_on_from_where_it_was():
    matrix = matrix_of("square")
    exact, vector = np.linalg.norm(matrix, 2), jnp.ones(6)
    found = []
    for _ in range(60):
        stretch, vector = largest_singular_value(jnp.matmul, matrix, vector, 1)
        found.append(float(stretch))
    assert np.all(np.diff(found) > -1e-5) and found[0] < found[-1] < exact * (1 + 1e-6)
    assert found[-1] == pytest.approx(exact, rel=1e-4)
    # Blank weights stretch nothing, and are no reason for NaN.
    stretch, vector = largest_singular_value(jnp.matmul, 0 * matrix, vector, 2)
    assert float(stretch) < 1e-10 and np.isfinite(vector).all()


@pytest.mark.parametrize("case", MAKE["KERNELS"])
def test_coefficients_equal_deel_lips(case):
    kernel, size = MAKE["KERNELS"][case]
    expected = float(GOLDEN[f"coefficient {case}"])
    assert average_coefficient(kernel, size) == pytest.approx(expected, rel=1e-12)
    assert coefficient("average", kernel, 9) == average_coefficient(kernel, (9, 9))
    assert coefficient("kernel", kernel, 9) == pytest.approx(np.prod(kernel) ** -0.5)
    assert expected > coefficient("kernel", kernel, 9)

"""Depthwise convolution against the convolution of XLA that it replaces."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i.tracing.depthwise import depthwise_convolution

CASES = {
    "3x3": ((3, 3), (1, 1), "SAME"),
    "5x5": ((5, 5), (1, 1), ((2, 2), (2, 2))),
    "3x3, stride 2, one-sided": ((3, 3), (2, 2), "SAME"),
    "5x5, stride 2": ((5, 5), (2, 2), ((2, 2), (2, 2))),
    "2x3, strides 1 and 2, unpadded": ((2, 3), (1, 2), "VALID"),
    "last pixels unread": ((2, 2), (3, 3), "VALID"),
    "kernel smaller than the stride": ((1, 2), (3, 3), ((0, 0), (1, 0))),
    "wide padding": ((3, 2), (2, 1), ((4, 5), (3, 3))),
    "negative padding": ((3, 3), (1, 2), ((-1, 0), (0, -2))),
    "kernel as large as the image": ((9, 8), (1, 1), "VALID"),
}


def random(shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


def grouped(images, kernel, strides, padding):
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=images.shape[3],
    )


def with_gradients(convolution, images, kernel, strides, padding):
    @jax.jit
    def evaluate(images, kernel):
        values, backward = jax.vjp(lambda x, k: convolution(x, k, strides, padding), images, kernel)
        return values, backward(jnp.cos(values))

    return evaluate(images, kernel)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_a_grouped_convolution(case):
    size, strides, padding = CASES[case]
    images, kernel = random((2, 9, 8, 3)), random((*size, 1, 3), 1)
    ours = with_gradients(depthwise_convolution, images, kernel, strides, padding)
    expected = with_gradients(grouped, images, kernel, strides, padding)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, expected
    )


def test_the_gradient_can_be_differentiated_again():
    images, kernel, direction = (
        random((1, 5, 6, 2)),
        random((3, 3, 1, 2), 1),
        random((1, 5, 6, 2), 2),
    )

    def slope(convolution):
        def loss(images):
            return jnp.sin(convolution(images, kernel, (2, 2), "SAME")).sum()

        return jax.grad(lambda images: (jax.grad(loss)(images) * direction).sum())(images)

    np.testing.assert_allclose(slope(depthwise_convolution), slope(grouped), rtol=1e-4, atol=1e-5)


def test_under_vmap_over_kernels():
    images, kernels = random((1, 5, 6, 2)), random((3, 3, 3, 1, 2), 1)
    together = jax.vmap(lambda kernel: depthwise_convolution(images, kernel))(kernels)
    apart = jnp.stack([depthwise_convolution(images, kernel) for kernel in kernels])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)


def test_bfloat16_stays_bfloat16():
    images, kernel = (random(s).astype(jnp.bfloat16) for s in ((1, 5, 6, 2), (3, 3, 1, 2)))
    values, (by_images, by_kernel) = with_gradients(
        depthwise_convolution, images, kernel, (1, 1), "SAME"
    )
    assert values.dtype == by_images.dtype == by_kernel.dtype == jnp.bfloat16

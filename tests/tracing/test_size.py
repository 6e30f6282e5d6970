"""The memory that a gradient is told to take, beside what XLA allocates for it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jc2i.tracing.size import bytes_of_gradient

KERNELS = [
    jnp.float32(np.random.default_rng(0).standard_normal((3, 3, inputs, 16)))
    for inputs in (3, 16, 16, 16, 16)
]


def network(images):
    values = images
    for kernel in KERNELS:
        values = jax.lax.conv_general_dilated(
            values, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        values = jax.nn.relu(values)
    return values.mean(axis=(1, 2))


def test_within_a_factor_of_two_of_what_is_allocated_for_an_image():
    def allocated(batch):
        images = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
        gradient = jax.jit(jax.grad(lambda images: network(images)[:, 0].sum()))
        memory = gradient.lower(images).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    told = bytes_of_gradient(network, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    an_image = (allocated(4) - allocated(2)) / 2  # what there is once, whatever the batch, cancels
    assert 0.5 < told / an_image < 2


def test_counts_what_is_kept_of_one_image_and_no_weights():
    def model(images):
        values = images.reshape(len(images), -1)
        for width in (500, 1000, 2):
            weights = jnp.ones((values.shape[1], width))
            values = jnp.sin(values @ (2 * weights))
        return values

    images = jax.ShapeDtypeStruct((5, 2, 2, 3), jnp.float32)
    # The cosines of each layer, and twice the largest layer at work.
    assert bytes_of_gradient(model, images) == 4 * (500 + 1000 + 2 + 2 * 1000)

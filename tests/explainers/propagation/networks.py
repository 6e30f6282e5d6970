"""The small network of golden/explainers_propagation.py, and random arrays."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

with np.load(Path(__file__).parents[2] / "golden" / "explainers_propagation.npz") as archive:
    GOLDEN = dict(archive)
"""The arrays of golden/explainers_propagation.py by name."""


def random(shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


def captums_network(activation):
    """The network, `"relu"` or `"elu"` behind its dense layer."""
    last = {"relu": jax.nn.relu, "elu": jax.nn.elu}[activation]

    def convolved(x, number):
        layout = ("NHWC", "HWIO", "NHWC")
        kernel, bias = GOLDEN[f"kernel{number}"], GOLDEN[f"bias{number}"]
        return (
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout) + bias
        )

    def model(images):
        x = jax.nn.relu(convolved(images, 1))
        x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        x = jax.nn.relu(convolved(x, 2)) + x
        x = last(x.mean(axis=(1, 2)) @ GOLDEN["dense1"] + GOLDEN["bias3"])
        return x @ GOLDEN["dense2"] + GOLDEN["bias4"]

    return model

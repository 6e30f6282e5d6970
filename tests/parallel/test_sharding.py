"""A loop inside a method keeps the images where they are: each device computes its own."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest

from jc2i import explainers, parallel
from jc2i.query import image_keys

IMAGES = 64


@pytest.mark.parametrize(
    ("explain", "options"),
    [
        (explainers.sensitivity, {"batch_size": 16}),
        (explainers.occlusion, {"window": 4, "stride": 4, "batch_size": 32}),
        (explainers.meaningful_perturbation, {"steps": 2, "mask_size": 4, "batch_size": 32}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_part_of_the_batch_is_computed_by_every_device(convnet, explain, options):
    """Under a user's own jit: an eighth of the work a device, and no image sent to another."""
    mesh = parallel.mesh()
    inputs = {
        "images": jnp.zeros((IMAGES, 8, 8, 3)),
        "targets": jnp.zeros(IMAGES, int),
        "key": image_keys(jax.random.key(0), IMAGES),
    }

    def compiled(inputs, network):
        def maps(network, inputs):
            return explain(network, **inputs, **options)

        return jax.jit(maps).lower(network, inputs).compile()

    whole = compiled(inputs, convnet())
    part = compiled(parallel.shard(inputs, mesh), parallel.replicate(convnet(), mesh))
    share = part.cost_analysis()["flops"] / whole.cost_analysis()["flops"]
    assert share < 1.3 / mesh.size
    assert not re.findall(r"= \S+ (all-gather|all-reduce|all-to-all)\(", part.as_text())

"""Memory is bounded by the model evaluations in flight, not by the number of masks or steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jc2i import explainers


def temporary_bytes(convnet, explain, **options):
    images, targets = jnp.zeros((2, 16, 16, 3)), jnp.zeros(2, int)

    def maps(model, images, targets, key):
        return explain(model, images, targets, key=key, **options)

    compiled = jax.jit(maps).lower(convnet(), images, targets, jax.random.key(0)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("explain", "option", "few", "many", "others"),
    [
        (explainers.rise, "masks", 64, 4000, {"batch_size": 32}),
        (explainers.meaningful_perturbation, "steps", 6, 600, {}),
        (explainers.integrated_gradients, "steps", 8, 256, {"batch_size": 8}),
        (explainers.smoothgrad, "samples", 8, 256, {"batch_size": 8}),
    ],
)
def test_does_not_grow_with_masks_or_steps(convnet, explain, option, few, many, others):
    little, much = (temporary_bytes(convnet, explain, **others, **{option: n}) for n in (few, many))
    # A constant or a counter may differ by a few bytes; one more mask would be 1024.
    assert 0 < much < 1.02 * little + 512


@pytest.mark.parametrize("explain", [explainers.rise, explainers.occlusion])
def test_grows_with_the_evaluations_in_flight(convnet, explain):
    options = {"masks": 256} if explain is explainers.rise else {"window": 4, "stride": 1}
    little, much = (
        temporary_bytes(convnet, explain, batch_size=size, **options) for size in (4, 64)
    )
    assert 4 * little < much < 20 * little

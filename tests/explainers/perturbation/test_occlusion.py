from __future__ import annotations

import jax
import numpy as np
import pytest

from jc2i.explainers import occlusion

WINDOWS = {
    "5_2": {"window": 5, "stride": 2},
    "4_3": {"window": 4, "stride": 3},
    "2x3_1x2": {"window": (2, 3), "stride": (1, 2)},
    "9x10": {"window": (9, 10), "stride": 1},
}


@pytest.mark.parametrize("name", WINDOWS)
def test_equals_captums(explained, captum, name):
    network, images, targets, expected = explained("relu")
    maps = occlusion(
        network,
        images,
        targets,
        baseline=captum["reference"],
        **WINDOWS[name],
    )
    np.testing.assert_allclose(maps, expected[f"occlusion/{name}"][..., 0], rtol=1e-5, atol=1e-6)


def test_a_single_pixel_window_of_a_linear_model_gives_its_terms(linear):
    model = linear()
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 2))
    targets = np.array([1, 2])
    maps = occlusion(model, images, targets, window=1, stride=1)
    weights = np.moveaxis(np.asarray(model.weights), -1, 0)[targets]
    np.testing.assert_allclose(maps, (weights * images).sum(-1), rtol=1e-3, atol=1e-5)


def test_every_evaluation_is_one_window_or_the_image_itself(linear):
    evaluated = []

    def counted(images):
        jax.debug.callback(lambda shape=images.shape: evaluated.append(shape[0]))
        return linear()(images)

    images = np.full((2, 8, 8, 2), 0.5, np.float32)
    occlusion(counted, images, np.array([0, 1]), window=5, stride=2).block_until_ready()
    jax.effects_barrier()
    # ceil((8 - 5) / 2) + 1 = 3 windows an axis.
    assert sum(evaluated) == 2 * (9 + 1)

"""Extremal perturbation against TorchRay's: its parts, and whole runs on the same weights."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i.explainers import extremal_perturbation
from jc2i.explainers.perturbation import extremal_perturbation as module

GOLDEN = dict(np.load(Path(__file__).parents[2] / "golden" / "explainers_torchray.npz"))
GENERATOR = module.MaskGenerator((64, 57), 7, 21)
IMAGE, TARGET = GOLDEN["image"], GOLDEN["target"]


def network(images):
    """The network of tests/golden/explainers_torchray.py."""
    values = images
    for layer in "12":
        values = jax.lax.conv_general_dilated(
            values,
            jnp.asarray(GOLDEN["kernel" + layer], images.dtype),
            (2, 2),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        values = jax.nn.relu(values + GOLDEN["bias" + layer].astype(images.dtype))
    return values.mean((1, 2)) @ GOLDEN["dense"].astype(images.dtype)


def plain(coarse, size, cell=7, sigma=21):
    """The smooth maximum of one mask, pixel by pixel over all cells, in float64."""
    radius, padding = 1 + -(-sigma // cell), 1 + -(-2 * sigma // cell)
    tall, wide = size
    padded = np.pad(coarse.astype(float), ((2 * padding, 9),) * 2)
    mask = np.zeros((tall, wide))
    for y in range(tall):
        for x in range(wide):
            i = y // cell + np.arange(2 * radius + 1) - padding
            j = x // cell + np.arange(2 * radius + 1) - padding
            distance = np.hypot((y - sigma - cell * i)[:, None], x - sigma - cell * j)
            kernel = np.exp(-2 * np.maximum(distance / sigma - 0.5, 0) ** 2)
            values = kernel * padded[np.ix_(i + 2 * padding, j + 2 * padding)]
            weights = np.exp(20 * values)
            mask[y, x] = (values * weights).sum() / weights.sum()
    return mask


def test_the_blur_pyramid_is_torchrays():
    levels = module.pyramid(IMAGE, 8, 20)[:, 0]
    np.testing.assert_allclose(levels[:, ::3, ::3], GOLDEN["pyramid"], atol=1e-5)


def test_smooth_masks_are_torchrays():
    mask = GENERATOR(jnp.asarray(GOLDEN["coarse"]))
    assert mask.shape[1:] == GENERATOR.outer
    np.testing.assert_allclose(mask[:, ::3, ::3], GOLDEN["mask"], atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "cell", "sigma"), [((5, 9), 2, 3), ((4, 3), 3, 1), ((7, 3), 7, 10), ((9, 4), 12, 2)]
)
def test_smooth_masks_of_other_sizes_are_those_of_a_plain_loop(shape, cell, sigma):
    generator = module.MaskGenerator(shape, cell, sigma)
    coarse = np.random.default_rng(0).uniform(size=(1, *generator.cells)).astype(np.float32)
    mask = generator(jnp.asarray(coarse))
    expected = plain(coarse[0], generator.outer, cell, sigma)
    np.testing.assert_allclose(mask[0], expected, atol=1e-6)
    assert generator.cropped(mask).shape[1:] == shape


def test_the_areas_loss_and_its_gradient_are_torchrays():
    def loss(coarse):
        return module.area_loss(GENERATOR(coarse), jnp.float32([0.1])).sum()

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(GOLDEN["coarse"]))
    np.testing.assert_allclose(value, GOLDEN["area_loss"][0], rtol=1e-5)
    scale = np.abs(GOLDEN["area_gradient"]).max()
    np.testing.assert_allclose(gradient / scale, GOLDEN["area_gradient"] / scale, atol=1e-5)


@pytest.mark.parametrize("area", [0.0, 0.004, 0.1, 0.5, 1.0])
def test_the_largest_values_are_those_of_a_stable_sort(area):
    """With ties, zeros and ones among them."""
    values = np.float32(np.random.default_rng(0).integers(0, 9, (3, 250)) / 8)
    areas = jnp.full(3, area, jnp.float32)
    order = np.argsort(values, axis=1, kind="stable")
    reference = np.zeros(250)
    reference[int(250 * (1 - area)) :] = 1
    sorted_values = np.take_along_axis(values, order, 1)
    expected = ((sorted_values - reference) ** 2).mean(1)
    masks = jnp.asarray(values).reshape(3, 25, 10)
    np.testing.assert_allclose(module.area_loss(masks, areas), expected, rtol=1e-5)
    gradient = jax.grad(lambda masks: module.area_loss(masks, areas).sum())(masks)
    slope = np.zeros_like(values)
    np.put_along_axis(slope, order, np.float32(2 * (sorted_values - reference) / 250), 1)
    np.testing.assert_allclose(gradient.reshape(3, 250), slope, atol=1e-7)


def test_what_a_mask_leaves_of_the_image_is_torchrays():
    mask = GENERATOR.cropped(GENERATOR(jnp.asarray(GOLDEN["coarse"])))[None]
    perturb = module._perturbation(jnp.asarray(IMAGE), 8, 20, "blur")
    np.testing.assert_allclose(perturb(mask)[0, :, ::3, ::3], GOLDEN["seen"], atol=1e-5)


def explain(steps, **options):
    return np.asarray(extremal_perturbation(network, IMAGE, TARGET, steps=steps, **options))[0]


def score_of(mask):
    perturb = module._perturbation(jnp.asarray(IMAGE), 8, 20, "blur")
    return float(network(perturb(jnp.asarray(mask)[None, None])[0])[0, TARGET[0]])


# At the start all pixels inside are equal: which of them are the largest 10 % is decided by
# rounding in TorchRay, and moves a few cells by a step of 0.03. More steps make up for it.


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_maps_and_their_scores_are_torchrays(steps):
    maps, expected = explain(steps), GOLDEN[f"{steps + 1}/map"]
    assert np.corrcoef(maps.ravel(), expected.ravel())[0, 1] > (0.9999 if steps < 100 else 0.99)
    assert np.abs(maps - expected).mean() < (1e-3 if steps < 100 else 1e-2)
    # The last reward is that of the mask that is returned.
    reward = GOLDEN[f"{steps + 1}/reward"][0, -1]
    assert score_of(maps) == pytest.approx(reward, abs=0.02)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("delete", {"variant": "delete"}),
        ("contrastive", {"reward": "contrastive"}),
        ("fade", {"baseline": 0.0, "flip": False}),
        ("areas", {"areas": (0.05, 0.3)}),
    ],
)
def test_variants_are_torchrays(name, options):
    maps, expected = explain(10, **options), GOLDEN[f"{name}/map"]
    assert np.abs(maps - expected).mean() < 2e-3
    # And not those of the defaults.
    assert np.abs(maps - GOLDEN["11/map"]).mean() > 5e-3

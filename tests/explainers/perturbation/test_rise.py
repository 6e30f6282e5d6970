from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i.explainers import rise
from jc2i.explainers.perturbation.rise import SETTLING_MASKS, random_masks
from jc2i.query import image_keys

KEY = jax.random.key(5)
SHAPE = (8, 10)
TARGETS = np.array([2, 0])


def images_of(channels, batch=2):
    return jax.random.uniform(jax.random.key(1), (batch, *SHAPE, channels))


def masks_of(count, grid=4, keep=0.6, clip=True, batch=2, shape=SHAPE):
    """The masks [batch, count, height, width] that `rise` draws for these images."""
    draw = functools.partial(random_masks, shape=shape, grid=grid, keep=keep, clip=clip)
    return jax.jit(jax.vmap(draw, (0, None)))(image_keys(KEY, batch), jnp.arange(count))


@pytest.mark.parametrize("clip", [True, False])
def test_a_linear_models_map_is_the_second_moment_of_its_masks_times_its_terms(linear, clip):
    model, images = linear((*SHAPE, 2)), images_of(2)
    maps = rise(model, images, TARGETS, key=KEY, masks=37, grid=4, clip=clip)
    masks = np.asarray(masks_of(37, clip=clip), float).reshape(2, 37, -1)
    moment = np.einsum("bki,bkj->bij", masks, masks) / 37
    weights = np.moveaxis(np.asarray(model.weights, float), -1, 0)[TARGETS]
    terms = (weights * images).sum(-1).reshape(2, -1)
    expected = np.einsum("bij,bj->bi", moment, terms).reshape(2, *SHAPE) / 0.6
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalization", ["expectation", "coverage"])
def test_any_models_map_is_the_plain_sum_over_the_masks(convnet, normalization):
    network, images, grey = convnet(), images_of(3), np.array([0.2, 0.5, 0.7], np.float32)
    masks = np.asarray(masks_of(21, keep=0.4))
    options = {"masks": 21, "grid": 4, "keep": 0.4, "baseline": grey, "batch_size": 8}
    maps = rise(network, images, TARGETS, key=KEY, normalization=normalization, **options)
    total, coverage = np.zeros((2, *SHAPE)), np.zeros((2, *SHAPE))
    for k in range(21):
        visible = masks[:, k, :, :, None]
        scores = np.asarray(network(images * visible + grey * (1 - visible)))
        total += scores[np.arange(2), TARGETS][:, None, None] * masks[:, k]
        coverage += masks[:, k]
    expected = total / (coverage if normalization == "coverage" else 21 * 0.4)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)


def test_coverage_of_a_constant_score_is_flat_and_never_divides_by_zero():
    def constant(images):
        return jnp.full((len(images), 3), 0.7)

    flat = rise(constant, images_of(1), TARGETS, key=KEY, masks=40, normalization="coverage")
    np.testing.assert_allclose(flat, 0.7, rtol=1e-5)
    # One mask of few cells leaves pixels that no mask has shown.
    options = {"masks": 1, "grid": 8, "keep": 0.1, "normalization": "coverage"}
    maps = rise(constant, images_of(1), TARGETS, key=KEY, **options)
    assert np.isfinite(maps).all() and (np.asarray(maps) == 0).any()


@pytest.mark.parametrize("clip", [True, False])
def test_masks_are_crops_of_the_upsampled_grid(clip):
    """The whole grid resized by jax.image.resize and cropped, as Petsiuk et al. describe."""
    key, grid = jax.random.key(9), 4
    cells = (2, 3)  # ceil(8 / 4), ceil(10 / 4)
    draw = jax.jit(jax.random.uniform, static_argnums=1)
    resize = jax.jit(jax.image.resize, static_argnums=(1, 2))
    masks = random_masks(key, jnp.arange(12), shape=SHAPE, grid=grid, keep=0.6, clip=clip)
    shifts = set()
    for k, mask in enumerate(np.asarray(masks)):
        uniform = np.asarray(draw(jax.random.fold_in(key, k), (grid * grid + 2,)))
        kept = (uniform[:-2] < 0.6).reshape(grid, grid).astype(np.float32)
        whole = np.asarray(resize(kept, tuple((grid + 1) * cell for cell in cells), "cubic"))
        top, left = (int(value * cell) for value, cell in zip(uniform[-2:], cells, strict=True))
        shifts.add((top, left))
        crop = whole[top : top + SHAPE[0], left : left + SHAPE[1]]
        np.testing.assert_allclose(mask, np.clip(crop, 0, 1) if clip else crop, atol=1e-5)
    assert len(shifts) > 3


def test_statistics_of_the_masks():
    clipped, free = (masks_of(2000, keep=0.6, clip=clip, batch=1)[0] for clip in (True, False))
    assert clipped.min() >= 0 and clipped.max() <= 1
    assert free.min() < -0.05 and free.max() > 1.05
    # Each pixel's mean is the probability: its deviation is below 4 sigma of 2000 draws.
    assert np.abs(free.mean(axis=0) - 0.6).max() < 4 * np.sqrt(0.6 * 0.4 * 1.3 / 2000)
    # Clipping moves it a little.
    assert abs(clipped.mean() - 0.6) < 0.02
    assert np.array_equal(masks_of(3, keep=1.0, batch=1) > 0.999, np.ones((1, 3, *SHAPE), bool))


def test_masks_depend_on_the_images_key_and_their_index_alone():
    assert np.array_equal(masks_of(9)[:, :4], masks_of(4))
    assert np.array_equal(masks_of(4)[:1], masks_of(4, batch=1))
    assert not np.array_equal(masks_of(4)[0], masks_of(4)[1])


def test_a_run_that_never_settles_equals_the_plain_one(convnet):
    network, images = convnet(), images_of(3)
    options = {"key": KEY, "masks": 300, "grid": 4, "batch_size": 64, "normalization": "coverage"}
    plain = rise(network, images, TARGETS, **options)
    never = rise(network, images, TARGETS, settled=1e-9, **options)
    np.testing.assert_allclose(never, plain, rtol=1e-4, atol=1e-5)


def test_images_settle_one_by_one():
    """Each image keeps the map it had when 256 more masks first changed it little enough."""

    def model(images):
        seen = images[:, 3, 3]  # the visibility of one pixel: a different fraction of masks each
        return jnp.concatenate([seen, -seen], axis=1)

    images = jnp.ones((6, *SHAPE, 1))
    blocks, targets = 5, np.zeros(6, int)
    masks = np.asarray(masks_of(blocks * SETTLING_MASKS, batch=6), float)
    numbers = SETTLING_MASKS * np.arange(1, blocks + 1)
    weighted = masks[:, :, 3, 3, None, None] * masks
    maps = np.stack([weighted[:, :n].mean(1) / 0.6 for n in numbers])  # [blocks, batch, ...]
    norms = np.linalg.norm(maps[1:], axis=(2, 3))
    changes = np.linalg.norm(np.diff(maps, axis=0), axis=(2, 3)) / norms
    settled = float(np.median(changes[:2]))
    below = np.concatenate([changes <= settled, np.full((1, 6), True)])
    stops = np.minimum(below.argmax(0) + 1, blocks - 1)
    assert len(set(stops)) > 1  # the images stop at different blocks
    early = rise(
        model,
        images,
        targets,
        key=KEY,
        masks=blocks * SETTLING_MASKS,
        grid=4,
        settled=settled,
        batch_size=192,
    )
    np.testing.assert_allclose(early, maps[stops, np.arange(6)], rtol=1e-4, atol=1e-5)

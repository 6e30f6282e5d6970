from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import removal
from jc2i.explainers import meaningful_perturbation

SHAPE = (6, 8, 2)
IMAGES = np.random.default_rng(0).uniform(size=(2, *SHAPE))
TARGETS = np.array([2, 0])


def bilinear(size, length):
    """Half-pixel-centred linear interpolation as a matrix, edges repeated."""
    matrix = np.zeros((length, size))
    for i in range(length):
        position = np.clip((i + 0.5) * size / length - 0.5, 0, size - 1)
        low = min(int(position), size - 2)
        matrix[i, low : low + 2] = [1 - (position - low), position - low]
    return matrix


def total_variation_gradient(mask, axis, power, mean):
    """Of sum or mean |step|^power; the subgradient of |0| is 0."""
    steps = np.diff(mask, axis=axis)
    slope = power * np.abs(steps) ** (power - 1) * np.sign(steps)
    gradient = np.zeros_like(mask)
    after, before = [slice(None)] * 2, [slice(None)] * 2
    after[axis], before[axis] = slice(1, None), slice(None, -1)
    gradient[tuple(after)] += slope
    gradient[tuple(before)] -= slope
    return gradient / (steps.size if mean else 1)


def by_hand(
    weights, image, fill, steps, mask_size, reduction, power, area=0.1, variation=0.4, at_one=0.0
):
    """Meaningful Perturbation of one image under sum(weights * image), in float64."""
    height, width, _ = image.shape
    shape = (height, width) if mask_size is None else (min(mask_size, height, width),) * 2
    rows, columns = bilinear(shape[0], height), bilinear(shape[1], width)
    evidence = (weights * (image - fill)).sum(-1)  # the score's gradient by the full-size mask
    mask, first, second = np.ones(shape), np.zeros(shape), np.zeros(shape)
    mean = reduction == "mean"
    for step in range(1, steps + 1):
        gradient = rows.T @ evidence @ columns
        gradient -= np.where(mask < 1, 1, at_one) * area / (mask.size if mean else 1)
        for axis in (0, 1):
            gradient += variation * total_variation_gradient(mask, axis, power, mean)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9**step), second / (1 - 0.999**step)
        mask = mask - 0.1 * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        mask = np.clip(mask, 0, 1)
    return 1 - rows @ mask @ columns.T


@pytest.mark.parametrize(
    ("reduction", "power", "mask_size", "at_one"),
    [("mean", 1, 4, 1.0), ("sum", 1, None, 0.0), ("mean", 3, 5, 0.0), ("sum", 3, 4, 1.0)],
)
def test_first_ten_steps_of_a_linear_model_worked_by_hand(
    linear, reduction, power, mask_size, at_one
):
    model = linear(SHAPE)
    options = {
        "mask_size": mask_size,
        "reduction": reduction,
        "tv_power": float(power),
        "area_subgradient": at_one,
    }
    # In float64: after Adam's first step neighbours differ by 1e-8 or less, and the sign of that
    # difference is total variation's gradient. In float32 it is rounding.
    with jax.enable_x64(True):
        maps = np.asarray(
            meaningful_perturbation(model, IMAGES, TARGETS, steps=10, baseline=0.0, **options)
        )
    weights = np.asarray(model.weights, float)
    for i, target in enumerate(TARGETS):
        expected = by_hand(
            weights[..., target],
            IMAGES[i],
            0.0,
            10,
            mask_size,
            reduction,
            float(power),
            at_one=at_one,
        )
        np.testing.assert_allclose(maps[i], expected, atol=1e-6)
    assert 0.05 < np.mean(maps) < 0.95  # neither untouched nor all removed


def test_baselines(linear):
    """Each form of `baseline` gives what the image array it stands for gives by hand."""
    model, images = linear(SHAPE), jnp.float32(IMAGES)
    weights = np.asarray(model.weights, float)[..., TARGETS[1]]
    random = np.random.default_rng(1)
    image, batch = random.uniform(size=SHAPE), random.uniform(size=(2, *SHAPE))
    forms = {
        "number": (0.5, np.full(SHAPE, 0.5)),
        "channels": ([0.2, 0.9], np.broadcast_to([0.2, 0.9], SHAPE)),
        "image": (jnp.float32(image), image),
        "batch": (jnp.float32(batch), batch[1]),
        "blur": ("blur", np.asarray(removal.gaussian_blur(images), float)[1]),
    }
    for name, (baseline, fill) in forms.items():
        maps = meaningful_perturbation(
            model, images, TARGETS, steps=10, mask_size=3, tv_weight=0.0, baseline=baseline
        )
        expected = by_hand(weights, IMAGES[1], fill, 10, 3, "mean", 1.0, variation=0.0)
        np.testing.assert_allclose(maps[1], expected, atol=2e-5, err_msg=name)


def test_weights_and_learning_rate_reach_the_loss(linear):
    model = linear(SHAPE)
    options = {"area_weight": 5.0, "tv_weight": 2.0, "mask_size": 4, "baseline": 0.0}
    with jax.enable_x64(True):
        maps = np.asarray(meaningful_perturbation(model, IMAGES, TARGETS, steps=10, **options))
    weights = np.asarray(model.weights, float)[..., TARGETS[0]]
    expected = by_hand(weights, IMAGES[0], 0.0, 10, 4, "mean", 1.0, area=5.0, variation=2.0)
    np.testing.assert_allclose(maps[0], expected, atol=1e-6)
    # Adam's first step is its learning rate, whatever the gradient's size.
    first = meaningful_perturbation(
        model, jnp.float32(IMAGES), TARGETS, steps=1, learning_rate=0.03, mask_size=None
    )
    assert np.all(np.isclose(first, 0.03, atol=1e-4) | (first == 0))


def test_only_the_evidence_is_removed():
    """On a score that reads four pixels, the converged mask removes these and keeps the rest."""

    def model(images):
        score = images[:, 2:4, 2:4].mean((1, 2))
        return jnp.concatenate([score, -score], axis=1)

    images = jnp.ones((1, 8, 8, 1))
    maps = meaningful_perturbation(
        model, images, np.array([0]), steps=100, mask_size=None, tv_weight=0.0, baseline=0.0
    )
    evidence = np.zeros((8, 8), bool)
    evidence[2:4, 2:4] = True
    np.testing.assert_allclose(maps[0][evidence], 1, atol=1e-3)
    np.testing.assert_allclose(maps[0][~evidence], 0, atol=1e-3)


def test_a_mirrored_problem_has_the_mirrored_map(linear):
    """Where the mask is flat the total variation pulls to no side, at the borders neither."""
    model = linear(SHAPE)
    weights = model.weights.at[:, :, :, 0].set(0.0).at[2:4, 3:5, :, 0].set(0.01)
    images = jnp.ones((1, *SHAPE))
    options = {"steps": 30, "mask_size": None, "tv_weight": 2.0, "baseline": 0.0}

    def explain(weights):
        return meaningful_perturbation(type(model)(weights), images, np.array([0]), **options)

    shifted = jnp.roll(weights, (1, 2), axis=(0, 1))
    mirrored = explain(shifted[::-1, ::-1])[:, ::-1, ::-1]
    np.testing.assert_allclose(explain(shifted), mirrored, atol=1e-5)


def test_a_mask_of_one_cell_is_finite(linear):
    images = jax.random.uniform(jax.random.key(0), (1, *SHAPE))
    maps = meaningful_perturbation(linear(SHAPE), images, np.array([1]), steps=2, mask_size=1)
    assert np.isfinite(maps).all() and np.ptp(maps) == 0


@pytest.mark.parametrize(("at_one", "moves"), [(1.0, False), (0.0, True)])
def test_a_score_that_barely_falls_moves_the_mask_only_without_the_areas_slope(
    linear, at_one, moves
):
    model = linear(SHAPE)
    faint = type(model)(1e-5 * jnp.abs(model.weights))
    maps = meaningful_perturbation(
        faint, IMAGES, TARGETS, steps=3, baseline=0.0, area_subgradient=at_one
    )
    assert bool((maps > 0).any()) == moves

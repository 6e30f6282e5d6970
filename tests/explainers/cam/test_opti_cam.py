"""Opti-CAM against its formulas in NumPy, a grid search and the released procedure in PyTorch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from jc2i.explainers import opti_cam
from jc2i.explainers.cam.opti_cam import as_masks, select

GOLDEN = Path(__file__).parents[2] / "golden"
NETWORK = np.load(GOLDEN / "explainers_cam.npz")
RELEASED = np.load(GOLDEN / "explainers_opti_cam.npz")
RANDOM = np.random.default_rng(0)
IMAGES, TARGETS = RANDOM.uniform(0.1, 1, (3, 6, 8, 3)), np.array([1, 0, 3])
MIX, READOUT = RANDOM.standard_normal((3, 5)), RANDOM.standard_normal((6, 8, 3, 4))


def features(images):
    """Five features [batch, 3, 4, features]: each of some of the colours, every other pixel."""
    return (abs(images[:, ::2, ::2] @ MIX.astype(images.dtype)) + images[:, ::2, 1::2, :1]) ** 2


def readout(xp, images):
    return xp.tanh(xp.einsum("bhwc,hwck->bk", images * images, READOUT.astype(images.dtype)))


def network(images):
    named = checkpoint_name(features(images), "layer")
    return readout(jnp, images) + 0 * named.sum()


def masks_by_hand(maps, normalization):
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    if normalization == "min_max":
        return (maps - low) / (high - low)
    return maps / high if normalization == "max" else 1 / (1 + np.exp(-maps))


def select_by_hand(scores, selector):
    rows = np.arange(len(scores))
    if selector == "log_probability":
        return np.log(np.exp(scores)[rows, TARGETS] / np.exp(scores).sum(1))
    others = scores.copy()
    others[rows, TARGETS] = -np.inf
    return scores[rows, TARGETS] - (others.max(1) if selector == "margin" else 0)


def map_by_hand(u):
    weights = np.exp(u) / np.exp(u).sum(1, keepdims=True)
    return np.einsum("bhwk,bk->bhw", features(IMAGES), weights)


def upsample(maps):
    # JAX's bilinear resize has its pixel centres at half-integers.
    rows, columns = (np.asarray(jax.image.resize(np.eye(n), (2 * n, n), "linear")) for n in (3, 4))
    return np.float64(rows) @ maps @ np.float64(columns).T


def objective_by_hand(u, objective, normalization, selector, fill):
    masks = masks_by_hand(upsample(map_by_hand(u)), normalization)[..., None]

    def g(keep):
        return select_by_hand(readout(np, IMAGES * keep + fill * (1 - keep)), selector)

    inside, outside, clean = g(masks), g(1 - masks), g(np.ones_like(masks))
    return {
        "mask": inside,
        "diff": -abs(clean - inside),
        "iomask": inside - outside,
        "iodiff": -abs(clean - inside) + abs(clean - outside),
    }[objective]


def by_hand(steps, rate, **options):
    """Adam in NumPy on central differences; -> u after so many steps."""
    u, first, second = np.zeros((3, 5)), np.zeros((3, 5)), np.zeros((3, 5))
    for step in range(1, steps + 1):
        gradient = np.zeros_like(u)
        for k, direction in enumerate(1e-5 * np.eye(5)):
            up, down = (objective_by_hand(u + s * direction, **options) for s in (1, -1))
            gradient[:, k] = (up - down) / 2e-5
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        scale = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        u = u + rate * first / (1 - 0.9**step) / scale
    return u


@pytest.mark.parametrize(
    ("objective", "normalization", "selector", "fill"),
    [
        ("mask", "min_max", "score", 0.0),
        ("mask", "max", "margin", 0.3),
        ("diff", "sigmoid", "score", 0.0),
        ("diff", "min_max", "log_probability", 0.5),
        ("iomask", "sigmoid", "margin", 0.0),
        ("iodiff", "min_max", "score", 0.2),
    ],
)
def test_three_steps_worked_by_hand(objective, normalization, selector, fill):
    options = {"objective": objective, "normalization": normalization, "selector": selector}
    expected = map_by_hand(by_hand(3, 0.1, **options, fill=fill))
    with jax.enable_x64(True):
        maps = opti_cam(
            network, IMAGES, TARGETS, steps=3, keep="last", resize=False, baseline=fill, **options
        )
    np.testing.assert_allclose(maps, expected, rtol=1e-6)


def golden_model(images):
    """The network of tests/golden/explainers_cam.py."""
    values = images
    for stride, layer in ((1, "1"), (2, "2")):
        values = jax.lax.conv_general_dilated(
            values,
            jnp.asarray(NETWORK["kernel" + layer], values.dtype),
            (stride,) * 2,
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        values = jax.nn.relu(values + NETWORK["bias" + layer].astype(values.dtype))
        values = checkpoint_name(values, f"layer{layer}")
    values = values.reshape(len(images), -1) @ NETWORK["dense"].astype(values.dtype)
    return values + NETWORK["bias3"].astype(values.dtype)


@pytest.mark.parametrize(
    ("layer", "normalization", "loss", "steps", "tolerance"),
    [
        ("layer1", "min_max", "plain", 1, 1e-5),
        ("layer1", "min_max", "plain", 10, 1e-4),
        ("layer2", "min_max", "norm", 10, 1e-4),
        ("layer2", "max", "plain", 10, 1e-4),
        ("layer2", "sigmoid", "plain", 100, 1e-4),
    ],
)
def test_equal_to_the_released_procedure(layer, normalization, loss, steps, tolerance):
    maps = opti_cam(
        golden_model,
        NETWORK["images"],
        NETWORK["targets"],
        layer=layer,
        normalization=normalization,
        objective="mask" if loss == "plain" else "diff",
        steps=steps,
        keep="last",
        tolerance=0.0,
    )
    expected = RELEASED[f"{layer}/{normalization}/{loss}/{steps}"]
    np.testing.assert_allclose(as_masks(maps, normalization), expected, atol=tolerance)


def test_a_hundred_steps_in_double_precision_equal_the_released_procedure():
    """In float32 both amplify rounding: the masks then differ by up to .16 after as many."""
    options = {"layer": "layer1", "steps": 100, "keep": "last", "tolerance": 0.0}
    with jax.enable_x64(True):
        images = NETWORK["images"].astype(float)
        maps = opti_cam(golden_model, images, NETWORK["targets"], **options)
        masks = np.asarray(as_masks(maps))
    np.testing.assert_allclose(masks, RELEASED["layer1/min_max/plain/100"], atol=1e-8)


def objective_of(model, images, targets, maps):
    scores = np.asarray(model(jnp.float32(images) * as_masks(maps)[..., None]))
    return scores[np.arange(len(images)), targets]


def test_the_best_step_is_never_below_the_start():
    images, targets = NETWORK["images"], NETWORK["targets"]
    explain = functools.partial(opti_cam, golden_model, images, targets, layer="layer1")
    start = explain(steps=1, learning_rate=1e-30)
    wild = {"steps": 7, "learning_rate": 20.0}
    first, best, last = (
        objective_of(golden_model, images, targets, maps)
        for maps in (start, explain(**wild), explain(**wild, keep="last"))
    )
    assert (best >= first - 1e-5).all() and (best >= last - 1e-5).all()
    assert (last < best - 1e-3).any() and (best > first + 1e-3).any()


def test_weights_of_two_features_are_those_of_a_grid_search():
    random = np.random.default_rng(3)
    images = random.uniform(0.2, 1, (2, 6, 6, 2)).astype(np.float32)
    wanted = np.float32(random.uniform(0, 1, (6, 6, 2)))

    def model(images):
        named = checkpoint_name(images[:, ::2, ::2], "layer")
        score = -((images - wanted) ** 2).sum((1, 2, 3))
        return jnp.stack([score, 0 * named.sum((1, 2, 3))], axis=1)

    maps = opti_cam(model, images, np.zeros(2, int), steps=300, resize=False)
    for found, image in zip(np.asarray(maps), images, strict=True):
        pair = image[::2, ::2]
        weights = np.linalg.lstsq(pair.reshape(-1, 2), found.ravel(), rcond=None)[0]
        grid = np.linspace(0, 1, 1001)
        mixes = np.float32(
            grid[:, None, None] * pair[..., 0] + (1 - grid)[:, None, None] * pair[..., 1]
        )
        masks = masks_by_hand(
            np.asarray(jax.image.resize(mixes, (1001, 6, 6), "linear")), "min_max"
        )
        scores = -((masks[..., None] * image - wanted) ** 2).sum((1, 2, 3))
        assert abs(weights[0] / weights.sum() - grid[scores.argmax()]) < 0.02


def test_each_image_stops_alone():
    """A change below the tolerance freezes one image; the others and its own map do not notice."""
    images, targets = jnp.float32(IMAGES), TARGETS
    # The score of a dark image hardly changes.
    images = images.at[1].multiply(0.03)
    options = {"layer": "layer", "keep": "last", "resize": False}
    one = opti_cam(network, images, targets, steps=1, **options)
    many = opti_cam(network, images, targets, steps=9, tolerance=0.0, **options)
    stopped = opti_cam(network, images, targets, steps=9, tolerance=3e-4, **options)
    np.testing.assert_array_equal(stopped[1], one[1])
    np.testing.assert_array_equal(stopped[::2], many[::2])
    assert not np.allclose(one[1], many[1], rtol=1e-3)
    # At one shape, alone is the same to the bit.
    for i in range(3):
        alone = opti_cam(
            network, images[jnp.full(3, i)], targets[[i] * 3], steps=9, tolerance=3e-4, **options
        )
        np.testing.assert_array_equal(alone[0], stopped[i])


def test_features_of_two_layers_share_one_softmax_and_start():
    images, targets = NETWORK["images"], NETWORK["targets"]
    both = ["layer1", "layer2"]
    start = np.random.default_rng(1).standard_normal((3, 10)).astype(np.float32)
    still = {"steps": 1, "learning_rate": 1e-30}
    maps = opti_cam(golden_model, images, targets, layer=both, start=start, **still)
    weights = np.exp(start) / np.exp(start).sum(1, keepdims=True)
    # One layer alone, from the same start, gives its share of the sum.
    expected = 0
    for layer, part in zip(both, (slice(0, 4), slice(4, 10)), strict=True):
        alone = opti_cam(golden_model, images, targets, layer=layer, start=start[:, part], **still)
        expected += alone * weights[:, part].sum(1)[:, None, None]
    np.testing.assert_allclose(maps, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="^resize: got False, takes True, or layers of"):
        opti_cam(golden_model, images, targets, layer=both, resize=False)
    with pytest.raises(ValueError, match="^start: got 4 an image, takes a number, or one for each"):
        opti_cam(golden_model, images, targets, layer=both, start=start[:, :4])
    wrongs: tuple[Any, ...] = (np.nan, np.zeros((2, 10)), "zero", np.zeros(10, int))
    for wrong in wrongs:
        with pytest.raises(ValueError, match="^start: got "):
            opti_cam(golden_model, images, targets, start=wrong)


@pytest.mark.parametrize("normalization", ["min_max", "max", "sigmoid"])
@pytest.mark.parametrize("scale", [1e-25, 0.7, 1.0, 1e25])
def test_masks_and_their_gradients_at_any_scale(normalization, scale):
    """The gradient is that of a map of ordinary size, divided by the scale."""
    maps = np.random.default_rng(0).uniform(0.1, 1, (2, 3, 4))
    scaled = jnp.float32(maps * scale)
    expected = masks_by_hand(np.float64(scaled), normalization)
    np.testing.assert_allclose(as_masks(scaled, normalization), expected, atol=1e-6)
    if normalization == "sigmoid":
        return
    readout = jnp.float32(np.random.default_rng(1).standard_normal((2, 3, 4)))

    def total(maps):
        return (as_masks(maps, normalization) * readout).sum()

    usual = jax.grad(total)(jnp.float32(maps))
    np.testing.assert_allclose(jax.grad(total)(scaled) * scale, usual, rtol=1e-4, atol=1e-5)


def test_a_constant_map_is_finite():
    images = np.ones((1, 6, 8, 3), np.float32)
    maps = opti_cam(network, images, np.array([0]), steps=2)
    assert np.isfinite(maps).all() and np.ptp(maps) < 1e-6


@pytest.mark.parametrize("selector", ["score", "margin", "log_probability"])
def test_what_is_selected_of_bfloat16_scores_is_computed_in_float32(selector):
    scores = jnp.bfloat16([[9, 1.5, -3], [4, 6, 5]])
    found = select(scores, jnp.array([0, 2]), selector)
    expected = select(scores.astype(jnp.float32), jnp.array([0, 2]), selector)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)

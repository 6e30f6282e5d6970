"""An image's map depends on the model, the image, its target, its key and the options alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i import explainers, parallel
from jc2i.boundary import image_keys
from jc2i.calibrators import Temperature

# Every explainer, in the forms that take another path through the code. The optimised one runs
# ten steps: beyond, Adam amplifies rounding (see the last tests).
CASES = {
    "sensitivity": (explainers.sensitivity, {}),
    "gradient_x_input": (explainers.gradient_x_input, {}),
    "integrated_gradients": (explainers.integrated_gradients, {"steps": 5}),
    "smoothgrad": (explainers.smoothgrad, {"samples": 3, "relative": True}),
    "occlusion": (explainers.occlusion, {"window": 4, "stride": 3, "baseline": "blur"}),
    "rise": (explainers.rise, {"masks": 10, "grid": 4, "batch_size": None}),
    "rise, settling": (
        explainers.rise,
        {"masks": 1000, "grid": 2, "settled": 0.03, "normalization": "coverage"},
    ),
    "meaningful_perturbation": (
        explainers.meaningful_perturbation,
        {"steps": 10, "mask_size": 4, "area_weight": 0.01, "tv_weight": 0.01},
    ),
    "grad_cam": (explainers.grad_cam, {"layer": "layer2"}),
    "hires_cam": (explainers.hires_cam, {"layer": "layer1"}),
    "random_map": (explainers.random_map, {}),
}
# Those that evaluate several variants of each image at once, if they may.
STREAMING = ["integrated_gradients", "smoothgrad", "occlusion", "rise"]
BATCH = 8


def assert_equal_maps(explain, maps, expected):
    # Total variation's gradient is the sign of steps that may be as small as rounding; ten such
    # signs move a mask in [0, 1] by less than this.
    optimised = explain is explainers.meaningful_perturbation
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=2e-3 if optimised else 2e-6)


def test_no_explainer_is_left_out():
    assert {f.__name__ for f, _ in CASES.values()} == set(explainers.__all__)


@pytest.fixture(scope="module")
def score(convnet):
    return jc2i.probabilities(convnet(), Temperature(jnp.float32(0.7)))


@pytest.fixture(scope="module")
def inputs():
    images = jax.random.uniform(jax.random.key(1), (BATCH, 8, 9, 3))
    return images, jnp.arange(BATCH) % 4, image_keys(jax.random.key(2), BATCH)


@pytest.fixture(scope="module", params=CASES)
def case(request, score, inputs):
    """An explainer, its options, and the maps of the whole batch at once."""
    explain, options = CASES[request.param]
    images, targets, _ = inputs
    maps = explain(score, images, targets, key=jax.random.key(2), **options)
    assert maps.shape == images.shape[:3] and np.isfinite(maps).all()
    # Where removing pixels only raises the score, Meaningful Perturbation's map is zero.
    assert (np.std(maps, axis=(1, 2)) > 0).sum() >= BATCH // 2
    return explain, options, np.asarray(maps)


def test_alone_equals_in_the_batch(case, score, inputs):
    explain, options, maps = case
    for i in (0, 5):
        alone = explain(
            *(score, *(x[i : i + 1] for x in inputs[:2])), key=inputs[2][i : i + 1], **options
        )
        assert_equal_maps(explain, alone[0], maps[i])


def test_fewer_in_flight_than_images(case, score, inputs):
    explain, options, maps = case
    chunked = explain(score, *inputs[:2], key=inputs[2], **{**options, "batch_size": 3})
    assert_equal_maps(explain, chunked, maps)


@pytest.mark.parametrize("case", STREAMING, indirect=True)
def test_several_variants_of_each_image_in_flight(case, score, inputs):
    explain, options, maps = case
    chunked = explain(score, *inputs[:2], key=inputs[2], **{**options, "batch_size": 20})
    assert_equal_maps(explain, chunked, maps)


def test_eight_devices_equal_one(case, score, inputs):
    explain, options, maps = case
    mesh = parallel.mesh()
    assert mesh.size == 8
    images, targets, keys = parallel.shard(inputs, mesh)
    sharded = explain(parallel.replicate(score, mesh), images, targets, key=keys, **options)
    assert len(sharded.sharding.device_set) == 8
    assert_equal_maps(explain, sharded, maps)


def test_inside_jit_and_vmap_over_calibrators(case, score, inputs):
    """Compiled from outside, for two temperatures at once: each as alone."""
    explain, options, maps = case
    images, targets, keys = inputs

    @jax.jit
    def both(calibrators):
        def one(calibrator):
            calibrated = jc2i.probabilities(score.logits.model, calibrator)
            return explain(calibrated, images, targets, key=keys, **options)

        return jax.vmap(one)(calibrators)

    stacked = both(Temperature(jnp.float32([0.7, 2.0])))
    assert_equal_maps(explain, stacked[0], maps)
    if explain is not explainers.random_map:
        assert not np.allclose(stacked[1], maps, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("case", [c for c in CASES if c != "rise, settling"], indirect=True)
def test_compiled_equals_eager(case, score, inputs):
    explain, options, maps = case
    images, targets, keys = (x[:1] for x in inputs)
    with jax.disable_jit():
        eager = explain(score, images, targets, key=keys, **options)
    assert_equal_maps(explain, eager, maps[:1])


def test_optimised_maps_agree_to_the_bit_at_one_inner_batch_shape(score, inputs):
    """In full, whatever the data set's length and the neighbours, as `map_batches` runs them."""
    images, targets = map(np.asarray, inputs[:2])

    def explain(images, targets):
        options = {"steps": 60, "mask_size": None, "area_weight": 0.01}
        return explainers.meaningful_perturbation(score, images, targets, **options)

    whole = parallel.map_batches(explain, (images, targets), 4, progress=False)
    assert (np.std(whole, axis=(1, 2)) > 0).sum() >= BATCH // 2
    order = np.array([6, 1, 3, 0, 7])
    some = parallel.map_batches(explain, (images[order], targets[order]), 4, progress=False)
    np.testing.assert_array_equal(some, whole[order])


def test_batch_size_pads_to_one_inner_batch_shape(score, inputs):
    images, targets, _ = inputs

    def explain(part):
        options = {"steps": 60, "mask_size": None, "batch_size": 3}
        return explainers.meaningful_perturbation(score, images[part], targets[part], **options)

    np.testing.assert_array_equal(explain(np.arange(8))[:5], explain(np.arange(5)))

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jc2i import explainers, metrics, parallel
from jc2i.metrics import lipschitz, max_sensitivity

SHAPE = (6, 5, 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Smooth:
    """Class scores tanh(x A) B: gradients that change from image to image."""

    hidden: jax.Array
    output: jax.Array

    def __call__(self, images):
        return jnp.tanh(images.reshape(len(images), -1) @ self.hidden) @ self.output


@pytest.fixture(scope="module")
def model():
    random = np.random.default_rng(0)
    hidden = random.normal(size=(int(np.prod(SHAPE)), 7)) * 0.3
    return Smooth(jnp.float32(hidden), jnp.float32(random.normal(size=(7, 3))))


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(1).random((8, *SHAPE)), jnp.float32)


TARGETS = jnp.arange(8) % 3
KEY = jax.random.key(7)


def plain(images):
    return images.mean((1, 2)) + jnp.zeros(3)


def first_channel(model, images, targets, *, key, scale=1.0):
    return scale * images[..., 0]


@pytest.mark.parametrize("scale", [0.25, 3.0, -40.0])
def test_lipschitz_of_a_multiple_is_the_factor(scale):
    """map = a x on one channel: |map(x) - map(x')| = |a| |x - x'| for every neighbour."""
    # Pixels of the neighbours' own order of size, so that a x is not lost in float32's rounding.
    images = jnp.float32(np.random.default_rng(2).random((4, 8, 8, 1)) * 0.1)
    got = lipschitz(
        first_channel, plain, images, TARGETS[:4], key=KEY, normalize=False, scale=scale
    )
    np.testing.assert_allclose(got, abs(scale), rtol=1e-4)


def test_normalised_maps_do_not_depend_on_scale(model, images):
    one, other = (
        lipschitz(first_channel, model, images, TARGETS, key=KEY, neighbours=4, scale=scale)
        for scale in (1.0, 8.0)
    )
    np.testing.assert_allclose(one, other, rtol=1e-3)
    assert (one > 0).all()


def test_neighbours_are_uniform_in_distance_up_to_the_radius(model, images):
    seen = []

    def watched(model, images, targets, *, key):
        jax.debug.callback(lambda x: seen.extend(np.asarray(x)), images)
        return images[..., 0]

    lipschitz(watched, model, images, TARGETS, key=KEY, neighbours=30, radius=0.2)
    jax.effects_barrier()
    near = np.stack(seen).reshape(len(seen), -1)
    clean = np.asarray(images).reshape(8, -1)
    # Each neighbour belongs to the image nearest to it.
    distance = np.linalg.norm(near[:, None] - clean, axis=2).min(axis=1)
    neighbours = distance[distance > 0]
    assert len(seen) == 8 * 31 and len(neighbours) == 8 * 30
    assert neighbours.max() <= 0.2 * (1 + 1e-5)
    assert stats.kstest(neighbours, "uniform", (0, 0.2)).pvalue > 1e-3


def test_is_the_largest_ratio_over_its_neighbours(model, images):
    """More neighbours of the same key only add to what the maximum is taken over."""

    def estimate(neighbours):
        return np.asarray(
            lipschitz(
                explainers.sensitivity, model, images, TARGETS, key=KEY, neighbours=neighbours
            )
        )

    few, many = estimate(4), estimate(8)
    assert (many >= few * (1 - 1e-5)).all() and (many > few).any()


def test_shared_key_leaves_out_the_explainers_own_noise(model, images):
    def estimate(**options):
        return np.asarray(
            lipschitz(
                explainers.random_map, model, images, TARGETS, key=KEY, neighbours=4, **options
            )
        )

    np.testing.assert_array_equal(estimate(shared_key=True), 0)
    assert (estimate() > 1).all()


def test_a_deterministic_explainer_is_the_same_with_a_shared_key(model, images):
    fresh, shared = (
        lipschitz(
            explainers.sensitivity,
            model,
            images,
            TARGETS,
            key=KEY,
            neighbours=4,
            shared_key=shared_key,
        )
        for shared_key in (False, True)
    )
    np.testing.assert_array_equal(fresh, shared)


def test_a_neighbour_that_rounds_to_its_image_says_nothing(model):
    """Below float32's resolution every neighbour is the image itself: no change, not 0 / 0."""
    ones = jnp.ones((2, *SHAPE))
    got = lipschitz(first_channel, model, ones, TARGETS[:2], key=KEY, neighbours=4, radius=1e-12)
    np.testing.assert_array_equal(got, 0)


def test_a_map_that_is_not_finite_is_nan_alone(model, images):
    def broken(model, images, targets, *, key):
        return jnp.where(targets[:, None, None] == 1, jnp.nan, images[..., 0])

    got = np.asarray(lipschitz(broken, model, images, TARGETS, key=KEY, neighbours=4))
    np.testing.assert_array_equal(np.isnan(got), np.asarray(TARGETS) == 1)


@pytest.mark.parametrize("broken", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    "metric", [max_sensitivity, partial(lipschitz, normalize=False)], ids=["sensitivity", "slope"]
)
def test_a_neighbours_map_that_is_not_finite_is_nan_too(model, images, metric, broken):
    one = images[:1]

    def sound_at_the_image(model, images, targets, *, key):
        own = (jnp.abs(images - one) < 1e-7).all(axis=(1, 2, 3))
        return jnp.where(own[:, None, None], images[..., 0], broken)

    assert np.isnan(metric(sound_at_the_image, model, one, TARGETS[:1], key=KEY))


@pytest.mark.parametrize("metric", [max_sensitivity, lipschitz])
@pytest.mark.parametrize("fixed", [False, True], ids=["option", "partial"])
def test_options_with_one_entry_an_image_go_with_it(model, images, metric, fixed):
    """However many explanations are in flight, and wherever the option stands."""
    baseline = np.random.default_rng(2).random(images[:3].shape, np.float32)
    options = {"baseline": baseline, "window": 2, "stride": 2}
    explainer = partial(explainers.occlusion, **options) if fixed else explainers.occlusion
    count = {"samples" if metric is max_sensitivity else "neighbours": 3}

    def value(batch_size, images, explainer, **given):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(len(images)))
        given |= count | {"key": keys, "batch_size": batch_size}
        return metric(explainer, model, images, TARGETS[: len(images)], **given)

    given = {} if fixed else options
    alone = value(
        None, images[:1], partial(explainers.occlusion, **options | {"baseline": baseline[:1]})
    )
    whole = value(None, images[:3], explainer, **given)
    np.testing.assert_allclose(whole[:1], alone, rtol=1e-3)
    for batch_size in (1, 2, 6, 100):
        got = value(batch_size, images[:3], explainer, **given)
        np.testing.assert_allclose(got, whole, rtol=1e-3)


def test_chunks_are_equal(model, images):
    def estimate(batch_size):
        return lipschitz(
            explainers.random_map,
            model,
            images,
            TARGETS,
            key=KEY,
            neighbours=4,
            batch_size=batch_size,
        )

    whole = estimate(None)
    for batch_size in (3, 16):  # below the batch, and two neighbours of each image
        np.testing.assert_allclose(estimate(batch_size), whole, rtol=1e-5)


@pytest.mark.parametrize("explainer", [explainers.sensitivity, explainers.random_map])
def test_does_not_depend_on_batch_or_devices(model, images, explainer):
    def estimate(images, targets, keys):
        return lipschitz(explainer, model, images, targets, key=keys, neighbours=4)

    whole = estimate(images, TARGETS, KEY)
    for i in (0, 5):
        one = estimate(images[i : i + 1], TARGETS[i : i + 1], jax.random.fold_in(KEY, i)[None])
        np.testing.assert_allclose(one[0], whole[i], rtol=1e-3)
    mesh = parallel.mesh()
    assert mesh.size == 8
    mapped = parallel.map_batches(
        estimate, (images, np.asarray(TARGETS)), 8, key=KEY, mesh=mesh, progress=False
    )
    np.testing.assert_allclose(mapped, whole, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": None}, "key: got None, takes a jax.random.key"),
        ({"neighbours": 0}, "neighbours: got 0, takes a whole number above 0"),
        ({"radius": -0.1}, "radius: got -0.1, takes a number above 0"),
        ({"explainer": "rise"}, "explainer: got 'rise', takes an explainer function"),
    ],
)
def test_refuses_bad_input(untyped, model, images, options, message):
    arguments = {"explainer": first_channel, "key": KEY} | options
    with pytest.raises(ValueError, match=message):
        metrics.lipschitz(model=model, images=images, targets=TARGETS, **arguments)


def test_max_sensitivity_equals_quantus_with_its_noise(monkeypatch):
    """Where uniform numbers come from Quantus' recorded noise, looked up by the key."""
    golden = np.load(Path(__file__).parents[1] / "golden" / "metrics_quantus.npz")
    noise, weights = golden["noise"], jnp.asarray(golden["weights"])
    samples = noise.shape[1]
    keys = [
        jax.random.split(jax.random.fold_in(jax.random.fold_in(KEY, i), n))[0]
        for i in range(4)
        for n in range(samples)
    ]
    table = jnp.stack([jax.random.key_data(key) for key in keys])
    flat = jnp.asarray(noise.reshape(4 * samples, -1) / 0.2)

    def recorded(key, shape, dtype, low, high):
        assert (low, high) == (-1, 1) and shape == flat.shape[1:]
        return flat[(table == jax.random.key_data(key)).all(axis=1).argmax()]

    def product(model, images, targets, *, key):
        chosen = jnp.moveaxis(weights, -1, 0)[targets]
        return (images**2 * chosen).sum(axis=3)

    monkeypatch.setattr(jax.random, "uniform", recorded)
    got = max_sensitivity(
        product,
        lambda images: images.mean((1, 2)) @ jnp.ones((3, 5)),
        golden["images"],
        golden["targets"],
        key=KEY,
    )
    np.testing.assert_allclose(got, golden["max_sensitivity"], rtol=1e-4)


def constant_map(model, images, targets, *, key, value=1.0):
    return value + 0 * images[..., 0]


def test_max_sensitivity_of_the_image_itself_is_its_noise():
    """map = x: without the denominator at most sqrt(n) radius, about sqrt(n/3) of it."""
    images = jnp.ones((2, 20, 20, 3), jnp.float32)
    options = {"key": KEY, "samples": 30, "radius": 0.1}
    got = max_sensitivity(first_channel, plain, images, TARGETS[:2], relative=False, **options)
    typical = 0.1 * 20 / 3**0.5
    assert (typical < got).all() and (got < 1.15 * typical).all()
    relative = max_sensitivity(first_channel, plain, images, TARGETS[:2], **options)
    np.testing.assert_allclose(relative, got / 20, rtol=1e-5)  # |map| = 20
    doubled = max_sensitivity(first_channel, plain, images, TARGETS[:2], scale=2.0, **options)
    np.testing.assert_allclose(doubled, relative, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_size_of_maps_does_not_matter(scale):
    """Those of a saturated probability, whose squares are no floats, among them."""
    images = jnp.ones((2, 20, 20, 3), jnp.float32)
    options = {"key": KEY, "samples": 3}
    expected = max_sensitivity(first_channel, plain, images, TARGETS[:2], **options)
    found = max_sensitivity(first_channel, plain, images, TARGETS[:2], scale=scale, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    options = {"key": KEY, "neighbours": 3, "normalize": False}
    expected = lipschitz(first_channel, plain, images, TARGETS[:2], **options)
    found = lipschitz(first_channel, plain, images, TARGETS[:2], scale=scale, **options)
    np.testing.assert_allclose(found / scale, expected, rtol=1e-5)


def test_max_sensitivity_of_a_map_that_never_changes():
    images = jnp.ones((2, 4, 4, 1), jnp.float32)
    options = {"key": KEY, "samples": 3}
    model = lambda images: plain(images)[:, :2]  # noqa: E731
    np.testing.assert_array_equal(
        max_sensitivity(constant_map, model, images, TARGETS[:2], **options), 0
    )
    nothing = max_sensitivity(constant_map, model, images, TARGETS[:2], value=0.0, **options)
    assert np.isnan(nothing).all()
    without = max_sensitivity(
        constant_map, model, images, TARGETS[:2], value=0.0, relative=False, **options
    )
    np.testing.assert_array_equal(without, 0)


def test_max_sensitivity_with_a_shared_key_leaves_out_the_explainers_noise(model, images):
    options = {"key": KEY, "samples": 3}
    drawn = max_sensitivity(explainers.random_map, model, images, TARGETS, **options)
    shared = max_sensitivity(
        explainers.random_map, model, images, TARGETS, shared_key=True, **options
    )
    assert (drawn > 0.1).all()
    np.testing.assert_array_equal(shared, 0)

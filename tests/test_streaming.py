from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import explainers, metrics, parallel, query
from jc2i.streaming import (
    collect,
    each,
    fold,
    over_images,
    per_step,
    repeat_while,
    step_size,
    watched,
)


@pytest.mark.parametrize(
    ("batch", "batch_size", "chunk"), [(4, None, 1), (4, 4, 1), (4, 11, 2), (8, 3, 1)]
)
def test_per_step_never_exceeds_the_evaluations_in_flight(batch, batch_size, chunk):
    assert per_step(batch, batch_size) == chunk


@pytest.mark.parametrize(
    ("count", "chunk", "size"), [(60, 32, 30), (5, 4, 3), (7, 20, 7), (101, 100, 51), (4, 1, 1)]
)
def test_steps_leave_as_little_over_as_they_can(count, chunk, size):
    assert step_size(count, chunk) == size


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("chunk", [1, 3, 4, 20])
def test_folds_and_collects_every_index_once(count, chunk):
    traced = []

    def add(total, index, counted):
        traced.append(index.shape)
        return total + jnp.where(counted, index.astype(float) ** 2, 0).sum()

    def values(index):
        return jnp.stack([index.astype(float), -index.astype(float)])

    def both(count, chunk):
        return fold(add, jnp.zeros(()), count, chunk), collect(values, count, chunk)

    total, listed = jax.jit(both, static_argnums=(0, 1))(count, chunk)
    assert total == (np.arange(count) ** 2).sum()
    np.testing.assert_array_equal(listed, [np.arange(count), -np.arange(count)])
    assert len(traced) == 1 and traced[0][0] <= chunk  # once in the program, whatever is left over


@pytest.mark.parametrize(("batch", "size"), [(6, 2), (7, 3), (5, 4)])
def test_over_images_keeps_the_order_and_the_size(batch, size):
    sizes = []
    keys = jax.random.split(jax.random.key(0), batch)
    arrays = {"x": jnp.arange(batch), "key": keys}

    def function(part):
        sizes.append(part["x"].shape)
        return part["x"] * 2, jax.random.key_data(part["key"])

    twice, data = over_images(function, arrays, size)
    np.testing.assert_array_equal(twice, 2 * np.arange(batch))
    np.testing.assert_array_equal(data, jax.random.key_data(keys))
    assert set(sizes) == {(size,)}


def test_draws_one_after_another_are_those_side_by_side():
    keys = jax.random.split(jax.random.key(0), 3)

    def draw(key):
        return each(lambda i: jax.random.normal(jax.random.fold_in(key, i), (2,)), jnp.arange(4))

    drawn = jax.jit(lambda keys: each(draw, keys))(keys)
    assert drawn.shape == (3, 4, 2)
    for i, key in enumerate(keys):
        for j in range(4):
            expected = jax.random.normal(jax.random.fold_in(key, j), (2,))
            np.testing.assert_array_equal(drawn[i, j], expected)


IMAGES = np.float32(np.random.default_rng(0).random((4, 8, 8, 3)))
TARGETS = np.arange(4)
KEY = {"key": jax.random.key(0)}
WATCHED = {
    "fold": (explainers.rise, KEY | {"masks": 300, "batch_size": 4}),
    "collect": (explainers.occlusion, {"window": 4, "stride": 2, "batch_size": 4}),
    "scan": (explainers.meaningful_perturbation, {"steps": 6}),
    "scans of images": (explainers.meaningful_perturbation, {"steps": 6, "batch_size": 1}),
    "while": (explainers.rise, KEY | {"masks": 520, "settled": 1e-9, "batch_size": 256}),
    "method in a method": (
        functools.partial(metrics.lipschitz, explainers.smoothgrad),
        KEY | {"neighbours": 3, "samples": 3, "batch_size": 4},
    ),
}


@pytest.mark.parametrize(
    ("name", "devices"), [*((name, 1) for name in WATCHED), ("scans of images", 2)]
)
def test_watched_computations_say_how_far_they_are_and_stay_the_same(name, devices, linear):
    function, options = WATCHED[name]
    mesh = parallel.mesh(jax.devices()[:devices])
    images, targets = parallel.shard((IMAGES, TARGETS), mesh) if devices > 1 else (IMAGES, TARGETS)
    compute = functools.partial(function, linear((8, 8, 3), classes=4), images, targets, **options)
    alone, heard, again = compute(), [], []
    with watched(heard.append):
        np.testing.assert_array_equal(compute(), alone)
    assert heard[0] == 0 and heard[-1] == 1 and heard == sorted(heard)
    # Where loops nest, what the outer one says may come when the inner one is through.
    assert len(heard) < 500 and max(np.diff(heard)) < 0.4
    compilations = query._compiled._cache_size()
    with watched(again.append):  # who listens is no part of the program
        compute()
    assert again[0] == 0 and again[-1] == 1 and len(again) > 4
    compute()
    assert query._compiled._cache_size() == compilations and again[-1] == 1


def test_a_loop_that_ends_early_is_done():
    def doubled_until(limit):
        return repeat_while(lambda x: x < limit, lambda x: 2 * x, jnp.ones(()), 10)

    heard = []
    with watched(heard.append):
        assert jax.jit(doubled_until)(5.0) == 8
    np.testing.assert_allclose(heard, [0, 0.1, 0.2, 1])
    assert doubled_until(5.0) == 8 and len(heard) == 4

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i.streaming import collect, each, fold, over_images, per_step, step_size


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

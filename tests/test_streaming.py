from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i.streaming import accumulate, collect, over_images, per_step


@pytest.mark.parametrize(
    ("batch", "batch_size", "chunk"), [(4, None, 1), (4, 4, 1), (4, 11, 2), (8, 3, 1)]
)
def test_per_step_never_exceeds_the_evaluations_in_flight(batch, batch_size, chunk):
    assert per_step(batch, batch_size) == chunk


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("chunk", [1, 3, 4, 20])
def test_sums_and_collects_every_index_once(count, chunk):
    seen = []

    def values(index):
        jax.debug.callback(lambda i: seen.extend(np.asarray(i).tolist()), index)
        return index.astype(float)

    def both(count, chunk):
        total = accumulate(lambda i: {"sum": (values(i) ** 2).sum()}, count, chunk)
        listed = collect(lambda i: jnp.stack([values(i), -values(i)]), count, chunk)
        return total, listed

    total, listed = jax.jit(both, static_argnums=(0, 1))(count, chunk)
    jax.effects_barrier()
    assert total["sum"] == (np.arange(count) ** 2).sum()
    np.testing.assert_array_equal(listed, [np.arange(count), -np.arange(count)])
    assert max(seen) == count - 1  # nothing is evaluated only to be thrown away
    assert sorted(set(seen)) == list(range(count))


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

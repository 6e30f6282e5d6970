from __future__ import annotations

import jax
import numpy as np
import pytest

from jc2i import parallel


def test_mesh_has_all_devices_on_one_axis():
    mesh = parallel.mesh()
    assert mesh.axis_names == (parallel.AXIS,) and mesh.size == 8
    assert parallel.mesh(jax.devices()[:3]).size == 3
    with pytest.raises(ValueError, match="devices: got none, takes at least one device"):
        parallel.mesh([])


def test_shard_splits_the_leading_axis():
    mesh = parallel.mesh()
    array, keys = np.arange(48.0).reshape(16, 3), jax.random.split(jax.random.key(0), 16)
    sharded = parallel.shard({"array": array, "keys": keys}, mesh)
    parts = sharded["array"].addressable_shards
    assert len({part.device for part in parts}) == 8
    for part in parts:
        np.testing.assert_array_equal(part.data, array[part.index])
        assert part.data.shape == (2, 3)
    np.testing.assert_array_equal(jax.random.key_data(sharded["keys"]), jax.random.key_data(keys))
    with pytest.raises(ValueError, match="arrays: got a leading axis of 12, takes a multiple of"):
        parallel.shard(np.zeros(12), mesh)


def test_replicate_puts_everything_everywhere():
    weights = {"a": np.arange(3.0)}
    for shard in parallel.replicate(weights, parallel.mesh())["a"].addressable_shards:
        np.testing.assert_array_equal(shard.data, weights["a"])


def test_replicate_leaves_what_is_no_array():
    weights = {"a": np.arange(3.0), "activation": jax.nn.relu, "name": "relu"}
    replicated = parallel.replicate(weights, parallel.mesh())
    assert replicated["activation"] is jax.nn.relu and replicated["name"] == "relu"

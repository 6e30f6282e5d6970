from __future__ import annotations

import jax
import numpy as np
import pytest

from jc2i import parallel


def test_mesh_has_all_devices_on_one_axis():
    mesh = parallel.mesh()
    assert mesh.axis_names == (parallel.AXIS,) and mesh.size == 8
    assert parallel.mesh(jax.devices()[:3]).size == 3
    with pytest.raises(ValueError, match=r"devices: got \[\], takes a list of different devices"):
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
    with pytest.raises(
        ValueError, match="arrays: got a leading axis of 12, takes .* a multiple of"
    ):
        parallel.shard(np.zeros(12), mesh)


def test_replicate_puts_everything_everywhere():
    weights = {"a": np.arange(3.0)}
    for shard in parallel.replicate(weights, parallel.mesh())["a"].addressable_shards:
        np.testing.assert_array_equal(shard.data, weights["a"])


def test_replicate_leaves_what_is_no_array():
    weights = {"a": np.arange(3.0), "activation": jax.nn.relu, "name": "relu"}
    replicated = parallel.replicate(weights, parallel.mesh())
    assert replicated["activation"] is jax.nn.relu and replicated["name"] == "relu"


def test_each_device_runs_the_program_of_one():
    """Three rows a device: what a function sees, and its bits, are those of one device alone."""
    seen, rng = [], np.random.default_rng(0)
    weights, values = rng.normal(size=(5, 4)).astype("f4"), rng.normal(size=(24, 5)).astype("f4")

    @parallel.on_each_device
    def scores(weights, values):
        seen.append(values.shape)
        return {"scores": values @ weights}

    alone = np.concatenate([scores(weights, part)["scores"] for part in np.split(values, 8)])
    mesh = parallel.mesh()
    spread = scores(parallel.replicate(weights, mesh), parallel.shard(values, mesh))["scores"]
    assert len(spread.sharding.device_set) == 8 and seen == [(3, 5), (3, 5)]
    np.testing.assert_array_equal(spread, alone)

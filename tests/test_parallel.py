from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import parallel

SCRIPT = Path(__file__).with_name("parallel_process.py")
shared = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
noise, KEY, COUNT = shared.noise, shared.key(), shared.COUNT


@pytest.fixture(scope="module")
def dataset():
    return shared.subject()[1]


def run(dataset, batch_size=4, function=noise, key=KEY, **options):
    return parallel.map_batches(
        function, dataset, batch_size, key=key, **({"progress": False} | options)
    )


@pytest.fixture(scope="module")
def whole(dataset):
    """The results without batches, worked by hand."""
    images, targets = dataset
    keys = jnp.stack([jax.random.fold_in(KEY, i) for i in range(COUNT)])
    return jax.tree.map(np.asarray, noise(images, targets, keys))


def assert_equal(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def start(*arguments, devices=1) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": str(Path(parallel.__file__).parents[1]),
        "JAX_PLATFORMS": "cpu",
        # The last of two equal flags counts: only the number of devices is another than here.
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


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


@pytest.mark.parametrize("batch_size", [1, 4, 11, 16])
def test_equals_one_call_whatever_the_batch_size(dataset, whole, batch_size):
    got = run(dataset, batch_size)
    assert isinstance(got["sum"], np.ndarray)
    np.testing.assert_array_equal(got["draws"][0], whole["draws"][0])
    np.testing.assert_array_equal(got["draws"][1][0], whole["draws"][1][0])
    np.testing.assert_allclose(got["sum"], whole["sum"], rtol=1e-6)


@pytest.mark.parametrize("key", [KEY, jax.random.key(5)])
def test_a_mesh_changes_nothing(dataset, key):
    one = run(dataset, 8, key=key)
    eight = run(dataset, 8, key=key, mesh=parallel.mesh())
    assert_equal(eight["draws"], one["draws"])
    np.testing.assert_allclose(eight["sum"], one["sum"], rtol=1e-6)  # of another order of adding


def test_the_function_sees_one_shape_and_no_missing_item(dataset):
    seen = []

    def watched(images, targets):
        seen.append((images.shape, targets.tolist()))
        return targets

    got = run((dataset[0], np.arange(COUNT)), 4, watched, key=None)
    np.testing.assert_array_equal(got, np.arange(COUNT))
    assert {shape for shape, _ in seen} == {(4, *dataset[0].shape[1:])}
    # The last batch is filled up with its last item.
    assert [indices for _, indices in seen] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 10]]


def test_a_batch_is_spread_over_the_devices(dataset):
    def spread(images, targets, keys):
        devices = {d for x in (images, targets, keys) for d in x.sharding.device_set}
        return np.full(len(images), len(devices))

    assert (run(dataset, 8, spread, mesh=parallel.mesh()) == 8).all()


class Indexed:
    """A data set whose items are made when they are asked for."""

    def __init__(self, arrays):
        self.arrays, self.asked = arrays, []

    def __len__(self):
        return len(self.arrays[0])

    def __getitem__(self, index):
        self.asked.extend(index.tolist())
        return tuple(array[index] for array in self.arrays)


def test_takes_an_indexed_data_set_batch_by_batch(dataset):
    indexed = Indexed(dataset)
    assert_equal(run(indexed), run(dataset))
    assert indexed.asked == [*range(COUNT), COUNT - 1]


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_an_interrupted_run_goes_on_where_it_stopped(dataset, tmp_path, calls):
    done = 0

    def interrupted(*batch):
        nonlocal done
        if done == calls:
            raise KeyboardInterrupt
        done += 1
        return noise(*batch)

    with pytest.raises(KeyboardInterrupt):
        run(dataset, function=interrupted, resume=tmp_path / "kept")

    computed = []

    def counted(*batch):
        computed.append(1)
        return noise(*batch)

    assert_equal(run(dataset, function=counted, resume=tmp_path / "kept"), run(dataset))
    assert len(computed) == 3 - calls
    assert_equal(run(dataset, function=counted, resume=str(tmp_path / "kept")), run(dataset))
    assert len(computed) == 3 - calls  # nothing is computed twice


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(dataset, tmp_path):
    process = start("killed", tmp_path, 2)
    assert process.wait(timeout=120) == -signal.SIGKILL
    process.stderr.close()
    computed = []

    def counted(*batch):
        computed.append(1)
        return noise(*batch)

    assert_equal(run(dataset, function=counted, resume=tmp_path), run(dataset))
    assert len(computed) == 1


def middle_changed(dataset):
    images = dataset[0].copy()
    images[COUNT // 2, 0, 0, 0] += 1e-6
    return images, dataset[1]


@pytest.mark.parametrize(
    "changed",
    [
        {"tag": "other weights"},
        {"batch_size": 3},
        {"key": jax.random.key(4)},
        {"dataset": middle_changed},
        {"dataset": lambda dataset: Indexed(middle_changed(dataset))},
        {"dataset": lambda dataset: tuple(array[:-1] for array in dataset)},
        {"dataset": lambda dataset: (dataset[0], dataset[1].astype("f4"))},
    ],
)
def test_another_run_is_refused(dataset, tmp_path, changed):
    make = changed.pop("dataset", lambda dataset: dataset)
    kept = Indexed(dataset) if isinstance(make(dataset), Indexed) else dataset
    whole = run(kept, resume=tmp_path)
    with pytest.raises(ValueError, match="resume: got .*, which holds another run, takes a folder"):
        run(make(dataset), resume=tmp_path, **changed)
    assert_equal(run(kept, resume=tmp_path), whole)


def test_the_data_of_a_large_indexed_set_are_known_by_a_sample(tmp_path):
    indexed = Indexed((np.arange(1000), np.arange(1000) * 2))
    add = {"function": lambda a, b: a + b, "key": None, "batch_size": 1000}
    run(indexed, resume=tmp_path, **add)
    indexed.asked.clear()
    np.testing.assert_array_equal(run(indexed, resume=tmp_path, **add), np.arange(1000) * 3)
    assert len(indexed.asked) == parallel.SAMPLED
    assert {0, 999} <= set(indexed.asked)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", None])
def test_a_damaged_batch_is_refused_by_name(dataset, tmp_path, content):
    run(dataset, resume=tmp_path)
    damaged = sorted(tmp_path.glob("*.npz"))[1]
    kept = damaged.read_bytes()
    damaged.write_bytes(kept[: len(kept) // 2] if content is None else content)
    with pytest.raises(ValueError, match=f"resume: got the damaged .*{damaged.name}"):
        run(dataset, resume=tmp_path)
    damaged.unlink()
    assert_equal(run(dataset, resume=tmp_path), run(dataset))
    assert damaged.read_bytes() == kept


@pytest.mark.parametrize("content", ["", "[]", '{"finger'])
def test_a_damaged_manifest_is_refused_by_name(dataset, tmp_path, content):
    run(dataset, resume=tmp_path)
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="resume: got the damaged .*manifest.json"):
        run(dataset, resume=tmp_path)


def test_progress_names_the_work_and_counts_batches(dataset, capsys):
    run(dataset, progress="digits")
    shown = capsys.readouterr().out
    assert "digits" in shown and "3/3" in shown
    run(dataset, progress=True)
    assert "batches" in capsys.readouterr().out
    run(dataset, progress=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset": (np.zeros((0, 2)),)}, "dataset: got no items, takes at least one"),
        ({"dataset": (np.zeros(2), np.zeros(3))}, r"dataset: got lengths \[2, 3\], takes arrays"),
        ({"batch_size": 0}, "batch_size: got 0, takes a number above 0"),
        ({"batch_size": 12, "mesh": 8}, "batch_size: got 12, takes a multiple of the mesh's 8"),
    ],
)
def test_refuses_bad_input(dataset, changed, message):
    if "mesh" in changed:
        changed = changed | {"mesh": parallel.mesh()}
    with pytest.raises(ValueError, match=message):
        run(**({"dataset": dataset} | changed))


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [start("one_of_two", i, port, tmp_path, devices=2) for i in range(2)]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
    alone = shared.explained()
    for i in range(2):
        with np.load(tmp_path / f"process{i}.npz") as together:
            assert set(together.files) == set(alone)
            for name, values in alone.items():
                np.testing.assert_allclose(together[name], values, rtol=1e-4, atol=1e-6)

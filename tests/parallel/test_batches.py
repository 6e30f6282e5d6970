from __future__ import annotations

import functools
import os
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import parallel, streaming

SCRIPT = Path(__file__).with_name("process.py")
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
        "PYTHONPATH": str(Path(parallel.__file__).parents[2]),
        "JAX_PLATFORMS": "cpu",
        # The last of two equal flags counts: only the number of devices is another than here.
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 16])
def test_equals_one_call_whatever_the_batch_size(dataset, whole, batch_size):
    got = run(dataset, batch_size)
    assert isinstance(got["sum"], np.ndarray)
    np.testing.assert_array_equal(got["draws"][0], whole["draws"][0])
    np.testing.assert_array_equal(got["draws"][1][0], whole["draws"][1][0])
    np.testing.assert_allclose(got["sum"], whole["sum"], rtol=1e-6)


@pytest.mark.parametrize("key", [KEY, jax.random.key(5)])
def test_a_mesh_changes_nothing(dataset, key):
    one, two, eight = (
        run(dataset, 2, key=key, mesh=parallel.mesh(jax.devices()[:count])) for count in (1, 2, 8)
    )
    assert_equal(two, one)
    assert_equal(eight, one)
    alone = run(dataset, 2, key=key)
    assert_equal(eight["draws"], alone["draws"])
    np.testing.assert_allclose(eight["sum"], alone["sum"], rtol=1e-6)  # NumPy adds in another order


def test_the_batch_of_a_device_does_not_depend_on_how_many_there_are(dataset):
    """Eleven items in batches of two are six batches: one round of six, two of three."""
    seen = []

    def watched(images, targets):
        (rows,) = {shard.data.shape[0] for shard in images.addressable_shards}
        seen.append((rows, len(images.sharding.device_set)))
        return targets

    for devices, rounds in ((8, [(2, 6)]), (4, [(2, 3)] * 2), (5, [(2, 3)] * 2), (1, [(2, 1)] * 6)):
        seen.clear()
        run(dataset, 2, watched, key=None, mesh=parallel.mesh(jax.devices()[:devices]))
        assert seen == rounds


def test_weights_that_are_on_the_whole_mesh_already_keep_it(dataset):
    mesh = parallel.mesh()
    weights = parallel.replicate(np.float32(2), mesh)
    got = run(dataset, 2, lambda images, targets: weights * targets, key=None, mesh=mesh)
    np.testing.assert_array_equal(got, 2 * dataset[1])


def test_a_model_is_the_first_argument_on_every_device(dataset):
    model, devices = {"gain": jnp.float32(3)}, []

    def scaled(model, images, targets, keys):
        devices.append(len(model["gain"].sharding.device_set))
        return model["gain"] * targets

    for mesh in (None, parallel.mesh()):
        got = run(dataset, 2, scaled, model=model, mesh=mesh)
        np.testing.assert_array_equal(got, 3 * dataset[1])
    assert set(devices[:6]) == {1} and devices[6:] == [6]


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

    assert (run(dataset, 1, spread, mesh=parallel.mesh(jax.devices()[:6])) == 6).all()


def test_an_array_is_one_of_a_tuple(dataset):
    summed = {"function": lambda images: images.sum((1, 2, 3)), "key": None}
    for batch_size in (1, 4):
        got = run(dataset[0], batch_size, **summed)
        np.testing.assert_array_equal(got, run(dataset[:1], batch_size, **summed))
        assert got.shape == (COUNT,)


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

    # What counts or interrupts closes over what changes: they are known by a tag.
    noise_known = {"resume": tmp_path / "kept", "tag": "noise"}
    with pytest.raises(KeyboardInterrupt):
        run(dataset, function=interrupted, **noise_known)

    computed = []

    def counted(*batch):
        computed.append(1)
        return noise(*batch)

    assert_equal(run(dataset, function=counted, **noise_known), run(dataset))
    assert len(computed) == 3 - calls
    noise_known["resume"] = str(tmp_path / "kept")
    assert_equal(run(dataset, function=counted, **noise_known), run(dataset))
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

    assert_equal(run(dataset, function=counted, resume=tmp_path, tag="noise"), run(dataset))
    assert len(computed) == 1


def middle_changed(dataset):
    images = dataset[0].copy()
    images[COUNT // 2, 0, 0, 0] += 1e-6
    return images, dataset[1]


@pytest.mark.parametrize(
    ("changed", "computed"),
    [
        ({}, []),
        ({"tag": "other weights"}, [0, 1, 2]),
        ({"model": jnp.float32(2)}, [0, 1, 2]),
        ({"batch_size": 3}, [0, 1, 2, 3]),
        ({"key": jax.random.key(4)}, [0, 1, 2]),
        ({"dataset": middle_changed}, [1]),
        ({"dataset": lambda dataset: Indexed(middle_changed(dataset))}, [1]),
        ({"dataset": lambda dataset: tuple(array[:-1] for array in dataset)}, [2]),
        ({"dataset": lambda dataset: (dataset[0], dataset[1].astype("f4"))}, [0, 1, 2]),
    ],
)
def test_what_changes_is_computed_and_the_rest_is_not(dataset, tmp_path, changed, computed):
    make = changed.get("dataset", lambda dataset: dataset)
    kept = Indexed(dataset) if isinstance(make(dataset), Indexed) else dataset
    count = []

    def counted(*batch):
        count.append(1)
        return noise(*batch[-3:])

    known = {"function": counted, "resume": tmp_path, "tag": "noise", "model": jnp.float32(1)}
    whole = run(kept, **known)
    count.clear()
    changed = {name: value for name, value in changed.items() if name != "dataset"}
    got = run(make(dataset), **{**known, **changed})
    assert len(count) == len(computed)
    plain = {name: value for name, value in changed.items() if name in ("batch_size", "key")}
    assert_equal(got, run(make(dataset), **plain))
    count.clear()
    assert_equal(run(kept, **known), whole)
    assert count == []  # both are kept, side by side


@pytest.mark.parametrize("devices", [(1, 8), (8, 1), (2, 3)])
def test_a_run_goes_on_with_other_devices_and_more_items(dataset, tmp_path, devices):
    computed = []

    def counted(*batch):
        computed.append(len(batch[0]))
        return noise(*batch)

    first, second = (parallel.mesh(jax.devices()[:count]) for count in devices)
    known = {"function": counted, "resume": tmp_path, "tag": "noise"}
    run(tuple(array[:7] for array in dataset), 2, mesh=first, **known)
    computed.clear()
    # Three whole batches are there; the half one, and those of new items, are not.
    got = run(dataset, 2, mesh=second, **known)
    assert_equal(got, run(dataset, 2, mesh=second))
    assert sum(computed) in (6, 8)  # 2 rounds of 2 devices are one batch more
    computed.clear()
    run(dataset, 2, mesh=first, **known)
    assert computed == []


class Both(NamedTuple):
    first: object
    second: object


def half(values):
    return jnp.asarray(values, jnp.bfloat16)


@pytest.mark.parametrize(
    "make",
    [
        lambda v: v,
        lambda v: half(v),
        lambda v: v.astype("f2"),
        lambda v: jnp.asarray(v, jnp.float8_e4m3fn),
        lambda v: Both(half(v), 2 * v),
        lambda v: {"both": [Both(v, v > 3)]},
        lambda v: {0: v, 1: 2 * v},
        lambda v: (v, [v, {"a": v[:, None]}], None, ()),
    ],
)
def test_results_come_back_as_they_were(tmp_path, make):
    dataset, known = (np.arange(10, dtype="f4"),), {"key": None, "resume": tmp_path}
    alone = run(dataset, function=make, key=None)
    assert_same = functools.partial(assert_equal_types, alone)
    assert_same(run(dataset, function=make, **known))
    assert_same(run(dataset, function=make, **known))
    sorted(tmp_path.glob("*.npz"))[1].unlink()
    assert_same(run(dataset, function=make, **known))


def assert_equal_types(first, second):
    assert_equal(first, second)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert type(one) is type(other) and one.dtype == other.dtype


def test_another_function_is_another_computation(tmp_path):
    known = {"key": None, "resume": tmp_path}
    dataset = (np.arange(10, dtype="f4"),)
    for factor in (2, 5, 2):
        got = run(dataset, function=lambda v: factor * v, **known)  # noqa: B023
        np.testing.assert_array_equal(got, factor * dataset[0])
    np.testing.assert_array_equal(run(dataset, function=lambda v: v - 1, **known), dataset[0] - 1)


def test_a_function_that_cannot_be_told_needs_a_tag(tmp_path):
    lock, dataset = threading.Lock(), (np.arange(3),)

    def locked(values):
        with lock:
            return values

    with pytest.raises(ValueError, match="resume: got a function that depends on an object of _th"):
        run(dataset, function=locked, key=None, resume=tmp_path)
    run(dataset, function=locked, key=None, resume=tmp_path, tag="values")


def test_one_tag_for_two_structures_is_refused(dataset, tmp_path):
    known = {"key": None, "resume": tmp_path, "tag": "mine"}
    run(dataset, function=lambda images, targets: targets, **known)
    sorted(tmp_path.glob("*.npz"))[0].unlink()
    with pytest.raises(ValueError, match="tag: got 'mine', with results of several"):
        run(dataset, function=lambda images, targets: (targets, images), **known)


@pytest.mark.slow
def test_of_two_processes_one_waits(tmp_path):
    kept, processes = tmp_path / "kept", []
    for name in ("first", "second"):
        processes.append(start("slow", kept, tmp_path / f"{name}.npz"))
        until = time.monotonic() + 120
        while name == "first" and not (tmp_path / "first.started").exists():
            assert processes[0].poll() is None and time.monotonic() < until
            time.sleep(0.01)
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "resume: waiting for the process that computes in" in errors[1]
    first, second = (np.load(tmp_path / f"{name}.npz") for name in ("first", "second"))
    assert (int(first["computed"]), int(second["computed"])) == (3, 0)
    np.testing.assert_array_equal(first["sum"], second["sum"])


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("kept", [False, True])
def test_a_folder_holds_a_file_of_each_array(dataset, tmp_path, devices, kept):
    mesh = parallel.mesh(jax.devices()[:devices])
    known = {"resume": tmp_path / "kept"} if kept else {}
    if kept:
        run(tuple(array[:5] for array in dataset), 2, mesh=mesh, **known)
    sink, expected = tmp_path / "found", run(dataset, 2, mesh=mesh)
    found = run(dataset, 2, mesh=mesh, sink=sink, **known)
    assert_equal(found, expected)
    assert all(isinstance(array, np.memmap) for array in jax.tree.leaves(found))
    assert sorted(os.listdir(sink)) == ["draws-0.npy", "draws-1-0.npy", "sum.npy"]
    np.testing.assert_array_equal(np.load(sink / "draws-0.npy"), expected["draws"][0])


def test_one_array_is_one_file(tmp_path):
    dataset = (np.arange(10, dtype="f4"),)
    for sink, name in (("found.npy", "found.npy"), ("found", "found/results.npy")):
        found = run(dataset, function=half, key=None, sink=str(tmp_path / sink))
        assert_equal_types(np.asarray(run(dataset, function=half, key=None)), np.asarray(found))
        assert (tmp_path / name).exists()
    empty = run(dataset, function=lambda v: np.zeros((len(v), 0)), key=None, sink=tmp_path / "e")
    assert empty.shape == (10, 0)
    with pytest.raises(ValueError, match=r"sink: got .*both.npy, takes a folder \(a name without"):
        run(dataset, function=lambda v: (v, v), key=None, sink=tmp_path / "both.npy")
    assert not (tmp_path / "both.npy").exists()


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_function_takes_batch_after_batch(dataset, tmp_path, devices):
    mesh, taken = parallel.mesh(jax.devices()[:devices]), []
    known = {"resume": tmp_path, "mesh": mesh, "batch_size": 2}
    run(tuple(array[4:] for array in dataset), **known)  # other items: none of these
    run(tuple(array[:4] for array in dataset), **known)
    held = []

    def take(items, results):
        taken.append((items, results))
        held.append(len(list(tmp_path.glob("*.npz"))))

    assert run(dataset, sink=take, **known) is None
    assert [len(items) for items, _ in taken] == [2] * 5 + [1]
    np.testing.assert_array_equal(np.concatenate([items for items, _ in taken]), np.arange(COUNT))
    together = jax.tree.map(lambda *arrays: np.concatenate(arrays), *(r for _, r in taken))
    assert_equal(together, run(dataset, 2, mesh=mesh))
    assert held == sorted(held)  # kept before they are handed on, no earlier than they must be
    assert len(set(held)) == {1: 5, 2: 3, 8: 2}[devices]


def test_a_sink_that_fails_or_is_interrupted_leaves_nothing(dataset, tmp_path, untyped):
    calls = 0

    def fails(*batch):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return noise(*batch)

    with pytest.raises(KeyboardInterrupt):
        run(dataset, function=fails, sink=tmp_path / "found")
    assert not list((tmp_path / "found").iterdir())
    (tmp_path / "file").touch()
    for sink in (tmp_path / "file", tmp_path / "file" / "found.npy"):
        with pytest.raises(NotADirectoryError) as error:
            run(dataset, function=noise, sink=sink)
        assert error.value.filename == str(tmp_path / "file")
    with pytest.raises(ValueError, match="sink: got 3, takes a file or folder, or a function"):
        run(dataset, sink=3)


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


def test_progress_names_the_work_and_counts_batches(dataset, capsys):
    run(dataset, progress="digits")
    output, shown = capsys.readouterr()
    assert output == "" and "digits" in shown and "3/3" in shown and "in all" not in shown
    run(dataset, progress=True)
    assert "batches" in capsys.readouterr().err
    run(dataset, progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("resumed", [False, True])
def test_watched_batches_say_once_what_time_all_will_take(dataset, capsys, tmp_path, resumed):
    def slow(images, targets, keys):
        def step(total, _):
            return total + images.mean((1, 2, 3)), None

        return streaming.scan(step, jnp.zeros(len(images)), None, 10)[0]

    options = {"function": slow, "resume": tmp_path / "kept", "tag": "slow"}
    expected = run(dataset, **options)
    if resumed:
        next((tmp_path / "kept").glob("*.npz")).unlink()
    else:
        shutil.rmtree(tmp_path / "kept")
    capsys.readouterr()
    np.testing.assert_array_equal(run(dataset, progress="maps", watched=True, **options), expected)
    shown = capsys.readouterr().err
    assert shown.count("maps: about 0:00:01 in all\n") == 1 and "100% 3/3" in shown


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset": (np.zeros((0, 2)),)}, "dataset: got no items, takes at least one"),
        ({"dataset": (np.zeros(2), np.zeros(3))}, r"dataset: got lengths \[2, 3\], takes arrays"),
        ({"dataset": [np.zeros(2)]}, "dataset: got a list, takes an array, a tuple of arrays"),
        ({"dataset": ([1, 2],)}, r"dataset: got a tuple with \[1, 2\], takes an array, a tuple of"),
        ({"batch_size": 0}, "batch_size: got 0, takes a whole number above 0"),
        ({"function": lambda *batch: 3}, r"function: got one that returns int64\[\], takes one"),
        ({"function": lambda *batch: np.zeros(3)}, r"returns float64\[3\], takes one that returns"),
    ],
)
def test_refuses_bad_input(dataset, changed, message):
    with pytest.raises(ValueError, match=message):
        run(**({"dataset": dataset} | changed))


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, of_two):
    """To the bit, as several devices of one process; the first alone keeps and writes."""
    for code, errors in of_two(SCRIPT, "one_of_two", tmp_path, devices=2):
        assert code == 0, errors[-3000:]
    four = shared.explained(parallel.mesh(jax.devices()[:4]))
    for i in range(2):
        with np.load(tmp_path / f"process{i}.npz") as together:
            assert set(together.files) == set(four)
            for name, values in four.items():
                np.testing.assert_array_equal(together[name], values)


@pytest.mark.slow
def test_a_process_that_dies_is_said(tmp_path, of_two):
    (code, errors), (killed, _) = of_two(SCRIPT, "lost", tmp_path)
    assert (code, killed) == (2, -signal.SIGKILL)
    assert errors.splitlines()[-1].startswith("process.py: another process of this run died or can")
    assert "Traceback" not in errors
    # On the one that is left the run goes on.
    computed = []
    found = run(
        (np.arange(16.0),),
        2,
        lambda values: computed.append(1) or values,
        key=None,
        resume=tmp_path,
        tag="x",
    )
    np.testing.assert_array_equal(found, np.arange(16.0))
    # Of eight batches two rounds of two were done, of which the last may not have been kept yet.
    assert len(computed) in (4, 6)


def test_without_other_processes_there_is_no_run_of_several(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    with parallel.together(distributed=False):
        assert parallel.is_first() and parallel.of_first(b"own") == b"own"
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with (
        pytest.raises(ValueError, match="distributed: got JAX_NUM_PROCESSES=two, takes a whole"),
        parallel.together(),
    ):
        pass


def test_a_pipe_in_place_of_a_lock_holds_nobody(tmp_path):
    known = {"resume": tmp_path, "tag": "one", "progress": False}
    parallel.map_batches(jnp.sin, np.arange(3.0), 2, **known)
    (lock,) = tmp_path.glob(".*.lock")
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(ValueError, match="lock, a pipe, takes a file$"):
        parallel.map_batches(jnp.sin, np.arange(3.0), 2, **known)


def test_results_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="^sink: got files .*, takes results of which no two"):
        parallel.map_batches(
            lambda x: {"a-b": x, "a": {"b": x}}, np.arange(3.0), 2, sink=tmp_path, progress=False
        )

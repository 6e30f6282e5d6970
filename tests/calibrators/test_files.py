from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import calibrators

CALIBRATORS = [
    calibrators.Identity(),
    calibrators.Temperature(jnp.float32(1.7)),
    calibrators.VectorScaling(jnp.arange(3.0), jnp.ones(3)),
    calibrators.MatrixScaling(jnp.arange(9.0).reshape(3, 3), jnp.ones(3)),
    calibrators.Dirichlet(jnp.eye(3) / 3, jnp.arange(3.0)),
    calibrators.Isotonic(jnp.ones((5, 3)), jnp.zeros((5, 3)), jnp.float32(1e-6)),
    calibrators.Histogram(jnp.ones((4, 3)), jnp.zeros((5, 3)), jnp.float32(1e-6)),
]


@pytest.mark.parametrize("calibrator", CALIBRATORS, ids=lambda c: type(c).__name__)
def test_what_is_saved_is_loaded(tmp_path, calibrator):
    path = tmp_path / "calibrator.npz"
    calibrators.save(calibrator, path)
    loaded = calibrators.load(path)
    assert type(loaded) is type(calibrator)
    jax.tree.map(np.testing.assert_array_equal, loaded, calibrator)
    assert [file.name for file in tmp_path.iterdir()] == ["calibrator.npz"]


def test_the_name_is_kept_as_given(tmp_path):
    calibrators.save(calibrators.Temperature(2.0), str(tmp_path / "temperature"))
    assert calibrators.load(tmp_path / "temperature").temperature == 2


def test_a_failed_save_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "calibrator.npz"
    calibrators.save(CALIBRATORS[1], path)

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        calibrators.save(CALIBRATORS[2], path)
    assert isinstance(calibrators.load(path), calibrators.Temperature)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "calibrator.npz"
    calibrators.save(CALIBRATORS[4], path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match="calibrator.npz: got another or a damaged file"):
        calibrators.load(path)


def test_a_damaged_array_is_refused(tmp_path):
    path = tmp_path / "calibrator.npz"
    calibrators.save(CALIBRATORS[1], path)
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(1.7).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="got another or a damaged file"):
        calibrators.load(path)


def test_other_files_are_refused(tmp_path):
    text, array, foreign = (tmp_path / name for name in ("a.txt", "b.npy", "c.npz"))
    text.write_text("temperature: 1.7")
    np.save(array, np.ones(3))
    np.savez(foreign, temperature=np.ones(()))
    for path in (text, array):
        with pytest.raises(ValueError, match="got another or a damaged file"):
            calibrators.load(path)
    with pytest.raises(ValueError, match="got no class name, takes a calibrator: one of Dirichlet"):
        calibrators.load(foreign)


def test_objects_in_a_file_are_not_executed(tmp_path):
    path = tmp_path / "pickled.npz"
    np.savez(path, calibrator="Temperature", temperature=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="got another or a damaged file"):
        calibrators.load(path)


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"calibrator": "Beta", "scale": np.ones(3)}, "got Beta, takes a calibrator"),
        ({"calibrator": "Temperature", "scale": np.ones(3)}, r"takes its arrays \['temperature'\]"),
        ({"calibrator": "Temperature", "temperature": np.array(np.nan)}, "takes a finite number"),
        ({"calibrator": "Temperature", "temperature": np.array("2")}, "takes a finite number"),
    ],
)
def test_entries_that_make_no_calibrator_are_refused(tmp_path, entries, message):
    np.savez(tmp_path / "file.npz", **entries)
    with pytest.raises(ValueError, match=message):
        calibrators.load(tmp_path / "file.npz")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        calibrators.load(tmp_path / "none.npz")


def test_other_objects_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="^calibrator: got .* takes one of Dirichlet, Histogram"):
        calibrators.save(jnp.ones(3), tmp_path / "file.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "temperature",
    [2, 1.7, np.float64(1.7), np.array(1.7), np.int64(2), jnp.bfloat16(2), np.float16(2)],
    ids=lambda value: type(value).__name__,
)
def test_numbers_come_back_as_they_were(tmp_path, temperature):
    calibrators.save(calibrators.Temperature(temperature), tmp_path / "file.npz")
    loaded = calibrators.load(tmp_path / "file.npz").temperature
    assert loaded == temperature and jnp.result_type(loaded) == jnp.result_type(temperature)
    assert np.asarray(loaded).dtype == np.asarray(temperature).dtype


@pytest.mark.parametrize(
    "kind, leaves, message",
    [
        ("Temperature", {"temperature": 0.0}, "takes a finite number above 0"),
        ("Temperature", {"temperature": -1.0}, "takes a finite number above 0"),
        ("Temperature", {"temperature": np.nan}, "takes a finite"),
        ("Temperature", {"temperature": True}, "takes a finite"),
        ("Temperature", {"temperature": np.ones(3)}, "takes rank 0"),
        ("MatrixScaling", {"weight": np.ones((4, 3)), "bias": np.ones(3)}, "takes .* of 3 classes"),
        (
            "Isotonic",
            {"thresholds": np.eye(3)[::-1], "values": np.ones((3, 3)), "floor": 1e-6},
            "takes finite numbers.* not falling",
        ),
    ],
)
def test_what_load_refuses_save_refuses(tmp_path, kind, leaves, message):
    with pytest.raises(ValueError, match=message):
        calibrators.save(getattr(calibrators, kind)(**leaves), tmp_path / "saved.npz")
    np.savez(tmp_path / "file.npz", allow_pickle=False, calibrator=np.asarray(kind), **leaves)
    with pytest.raises(ValueError, match=message):
        calibrators.load(tmp_path / "file.npz")

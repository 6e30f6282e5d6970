from __future__ import annotations

import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from jc2i.files import TooLarge
from jc2i.zipped import Arrays, Zip, restored, storable

VALUES = {
    "bytes": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "none": np.zeros((0, 3), np.float32),
    "one": np.array(2.5),
    "names": np.array(["cat", "dog"]),
    "swapped": np.arange(3, dtype=">i4"),
    "large": np.arange(2**19, dtype=np.float64),  # several pieces
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_what_numpy_reads(save, tmp_path):
    save(tmp_path / "x.npz", allow_pickle=False, **VALUES)
    with (tmp_path / "x.npz").open("rb") as file, np.load(tmp_path / "x.npz") as expected:
        arrays = Arrays(file, 2**28, "max_bytes")
        assert list(arrays) == list(VALUES) and "one" in arrays and "two" not in arrays
        for name in VALUES:
            np.testing.assert_array_equal(arrays[name], expected[name])
            assert arrays[name].dtype == expected[name].dtype and arrays[name].flags.writeable


def test_a_large_file_may_unpack_to_as_much_and_only_what_is_read_counts(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 10_000, np.uint8)
    np.savez_compressed(tmp_path / "x.npz", noise=noise, zeros=np.zeros(100_000, np.uint8))
    with (tmp_path / "x.npz").open("rb") as file:
        np.testing.assert_array_equal(Arrays(file, 1, "max_bytes")["noise"], noise)
        with pytest.raises(TooLarge, match=r"bytes unpacked, more than at most .*\(max_bytes=\)"):
            Arrays(file, 1, "max_bytes")["zeros"]
        assert len(Arrays(file, 200_000, "max_bytes")["zeros"]) == 100_000


def test_more_members_than_16_bits_count(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for index in range(2**16 + 1):
            archive.writestr(str(index), b"")
    with (tmp_path / "x.zip").open("rb") as file:
        assert len(Zip(file, 2**28, "max_bytes").sizes) == 2**16 + 1
        with pytest.raises(TooLarge, match="bytes for the list of its members"):
            Zip(file, 1, "max_bytes")


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float32", "int4", "bool"])
def test_bits_come_back_as_what_they_were(dtype):
    array = np.asarray(jnp.asarray([0, 1, 1]).astype(dtype))
    np.testing.assert_array_equal(restored(storable(array), dtype), array)


@pytest.mark.parametrize("name", ["object", "V2", "<U1", "float32", "key<fry>", "no type"])
def test_bits_are_numbers_of_their_size(name):
    with pytest.raises((TypeError, ValueError)):
        restored(np.zeros(3, np.uint16), name)

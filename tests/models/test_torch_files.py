"""The reader against files that torch and safetensors wrote (golden/models_torch_files.py)."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jc2i.models import read_torch_file

FILES = Path(__file__).parents[1] / "golden" / "models_torch_files"
EXPECTED = dict(np.load(FILES / "expected.npz"))
WHOLE = ("zip.pt", "legacy.th", "whole.safetensors")


@pytest.mark.parametrize("file", WHOLE)
def test_values_types_and_shapes(file):
    tensors = read_torch_file(FILES / file)
    assert tensors.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        assert tensors[name].dtype == ("bfloat16" if name == "bfloat16" else expected.dtype)
        np.testing.assert_array_equal(tensors[name].astype(expected.dtype), expected)
        assert tensors[name].shape == expected.shape


@pytest.mark.parametrize("file", ["zip.pt", "legacy.th"])
def test_shared_storage_is_shared_and_read_only(file):
    tensors = read_torch_file(FILES / file)
    assert np.shares_memory(tensors["float32"], tensors["every_second"])
    assert not tensors["float32"].flags.writeable


@pytest.mark.parametrize("file", ["trained.pt", "trained.th"])
def test_finds_the_weights_among_what_a_training_script_keeps(file):
    tensors = read_torch_file(FILES / file)
    names = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert tensors.keys() == names
    np.testing.assert_array_equal(tensors["running_var"], [1.0, 1.0])


@pytest.mark.parametrize("file", [*WHOLE, "trained.th"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.99])
def test_truncated_files_are_refused(file, part, tmp_path):
    whole = (FILES / file).read_bytes()
    path = tmp_path / file
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ValueError) as error:
        read_torch_file(path)
    message = str(error.value)
    assert message.startswith(f"path: got {path} (") and "\n" not in message
    assert message.endswith("takes a whole PyTorch weight file (torch.save or safetensors)")


@pytest.mark.parametrize("content", [b"hello, world", pickle.dumps([1, 2]), b"PK\x03\x04 no zip"])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"^path: got .*file \((unknown format|damaged)"):
        read_torch_file(tmp_path / "file")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.th"):
        read_torch_file(tmp_path / "absent.th")


def test_a_pickled_module_is_refused_by_name():
    with pytest.raises(ValueError, match="refused to load torch.nn.modules.linear.Linear"):
        read_torch_file(FILES / "module.pt")


class Malicious:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def as_legacy(content: bytes) -> bytes:
    system = {"little_endian": True}
    header = (0x1950A86A20F9469CFC6C, 1001, system)
    return b"".join(pickle.dumps(part, protocol=2) for part in header) + content


def as_zip(content: bytes, path: Path, storage: bytes = b"") -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", storage)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["legacy", "zip"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_file_is_refused_by_name_and_does_not_run(kind, protocol, tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "file"
    attack = pickle.dumps({"state_dict": Malicious(f"touch {ran}")}, protocol)
    pickle.loads(attack)
    assert ran.exists(), "the attack must work where it is not refused"
    ran.unlink()
    path.write_bytes(as_legacy(attack) if kind == "legacy" else as_zip(attack, path))
    with pytest.raises(ValueError, match=r"\(refused to load (posix|nt).system\)"):
        read_torch_file(path)
    assert not ran.exists()


def tensor_pickle(elements, offset, shape, strides) -> bytes:
    """A state dict of one tensor, assembled by hand, so that it may lie about its storage."""

    def plain(value):
        return pickle.dumps(value, protocol=2)[2:-1]

    storage = b"(%s%s%s%s%stQ" % (
        *(plain("storage"), b"ctorch\nFloatStorage\n", plain("0"), plain("cpu"), plain(elements)),
    )
    arguments = storage + plain(offset) + plain(shape) + plain(strides)
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(%stR" % arguments
    return b"\x80\x02}%s%ss." % (plain("w"), rebuild)


def test_a_window_inside_its_storage_is_read(tmp_path):
    path = tmp_path / "file"
    storage = np.arange(8, dtype=np.float32)
    path.write_bytes(as_zip(tensor_pickle(8, 1, (2, 2), (4, 2)), path, storage.tobytes()))
    np.testing.assert_array_equal(read_torch_file(path)["w"], [[1, 3], [5, 7]])


@pytest.mark.parametrize(
    ("elements", "offset", "shape", "strides"),
    [
        (8, 2, (2, 2), (4, 2)),
        (8, 0, (2**40,), (1,)),
        (8, -1, (2,), (1,)),
        (8, 7, (2,), (-1,)),
        (8, 0, (2, 2), (1,)),
        (9, 0, (9,), (1,)),
        (-1, 0, (9,), (1,)),
    ],
)
def test_a_window_outside_its_storage_is_refused(elements, offset, shape, strides, tmp_path):
    path = tmp_path / "file"
    content = tensor_pickle(elements, offset, shape, strides)
    path.write_bytes(as_zip(content, path, bytes(32)))
    with pytest.raises(ValueError, match=r"^path: got .*file \("):
        read_torch_file(path)


def test_a_compressed_archive_is_refused(tmp_path):
    path = tmp_path / "file"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_pickle(10**6, 0, (10**6,), (1,)))
        archive.writestr("archive/data/0", bytes(4 * 10**6))
    with pytest.raises(ValueError, match="compressed records"):
        read_torch_file(path)


@pytest.mark.parametrize("opcode", [b"]r\xff\xff\xff\x7f", b"\x96\xff\xff\xff\xff\xff\x00\x00\x00"])
def test_a_pickle_that_states_gigabytes_is_refused_before_they_are_taken(opcode, tmp_path, capfd):
    path = tmp_path / "file"
    path.write_bytes(as_zip(b"\x80\x05" + opcode + b".", path))
    with pytest.raises(ValueError, match=r"^path: got .*file \(damaged"):
        read_torch_file(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("file", [*WHOLE, "trained.th"])
def test_damaged_files_are_read_or_refused_and_nothing_else(file, tmp_path):
    whole = (FILES / file).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(whole)
        for position in random.integers(0, len(whole), 3):
            damaged[position] = random.integers(256)
        (tmp_path / "file").write_bytes(damaged)
        try:
            read_torch_file(tmp_path / "file")
        except ValueError as error:
            assert str(error).startswith("path: got ")


RAW, MEAN = ({"w": np.float32([value])} for value in (1, 2))


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": RAW, "state_dict_ema": MEAN, "epoch": 3},  # timm
        {"model": RAW, "model_ema": {"n_averaged": np.array([7]), "module.w": MEAN["w"]}},
        {"model_ema": MEAN, "model": RAW},  # whichever is written first
        {"net": RAW, "ema": {"state_dict": MEAN}},
        {"model": {"state_dict": RAW, "ema_state_dict": MEAN}},
    ],
)
def test_averaged_weights_are_read_unless_the_raw_ones_are_asked_for(content, save_torch):
    path = save_torch(content)
    assert {n: v.tolist() for n, v in read_torch_file(path).items()} == {"w": [2]}
    raw = read_torch_file(path, averaged=False)
    assert {n: v.tolist() for n, v in raw.items()} == {"w": [1]}


@pytest.mark.parametrize("average", [None, {}, {"decay": 0.9}])
def test_a_file_without_an_average_gives_the_raw_weights(average, save_torch):
    path = save_torch({"state_dict": RAW, "state_dict_ema": average, "ema": average})
    for averaged in (True, False):
        assert read_torch_file(path, averaged=averaged)["w"].tolist() == [1]


def test_raw_weights_that_are_not_there_are_not_replaced(save_torch):
    with pytest.raises(ValueError, match=r"\(averaged weights alone\)"):
        read_torch_file(save_torch({"state_dict_ema": MEAN}), averaged=False)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.module."],
)
def test_what_modules_around_a_network_put_before_its_names_is_taken_off(prefix, save_torch):
    content = {f"{prefix}conv.w": RAW["w"], f"{prefix}model.b": RAW["w"]}
    assert read_torch_file(save_torch(content)).keys() == {"conv.w", "model.b"}
    counted = content | {"n_averaged": np.array(7)}
    assert read_torch_file(save_torch(counted)).keys() == {"conv.w", "model.b"}


def test_a_prefix_that_some_names_lack_stays(save_torch):
    content = {"model.w": RAW["w"], "model.b": RAW["w"], "criterion.w": RAW["w"]}
    assert read_torch_file(save_torch(content)).keys() == content.keys()


@pytest.mark.parametrize("keys", [("model",), ("model", "state_dict", "net", "ema", "model_ema")])
def test_a_pickle_that_holds_itself_is_refused(keys, tmp_path):
    content = {}
    content |= dict.fromkeys(keys, content)
    path = tmp_path / "file"
    path.write_bytes(as_zip(pickle.dumps(content, protocol=2), path))
    with pytest.raises(ValueError, match=r"\(no state dict\)"):
        read_torch_file(path)


def test_a_counter_alone_is_no_network(save_torch):
    with pytest.raises(ValueError, match=r"\(no state dict\)"):
        read_torch_file(save_torch({"n_averaged": np.array(7)}))

"""What a file may take is said in one line, with the option that allows more."""

from __future__ import annotations

import gzip
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import calibrators, data, models
from tests.files.damaged import TORCH, image_tree, tar


@pytest.fixture
def model(tmp_path):
    made = models.create("small", classes=3, key=jax.random.key(0), widths=(4, 8), hidden=5)
    models.save(made, tmp_path / "model")
    return tmp_path / "model"


def refused(read, **limit):
    with pytest.raises(ValueError) as refusal:
        read(**limit)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_weight_file():
    path = TORCH / "zip.pt"
    size = path.stat().st_size
    message = refused(lambda **limit: models.read_torch_file(path, **limit), max_bytes=size - 1)
    takes = f"takes at most {size - 1} (max_bytes=)"
    assert message == f"path: got {path} ({size} bytes), {takes}"
    message = refused(lambda **limit: models.read_torch_file(path, **limit), max_bytes=size)
    assert "bytes of names" in message and "(a 128th of max_bytes=)" in message
    assert models.read_torch_file(path, max_bytes=2**24)
    known = {"classes": 3, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    load = lambda **limit: models.from_torch("resnet20_cifar", path, **known, **limit)  # noqa: E731
    assert takes in refused(load, max_bytes=size - 1)


def test_a_saved_model(model):
    size = sum(file.stat().st_size for file in (model / "weights").rglob("*") if file.is_file())
    message = refused(lambda **limit: models.load(model, **limit), max_bytes=size - 1)
    takes = f"takes at most {size - 1} (max_bytes=)"
    assert message == f"path: got {model}, {size} bytes of weights, {takes}"
    assert models.load(model, max_bytes=size).classes == 3


def test_a_calibrator(tmp_path):
    path = tmp_path / "zeros.npz"
    np.savez_compressed(
        path, allow_pickle=False, calibrator="MatrixScaling", weight=np.zeros((99, 99)),
        bias=np.zeros(99),
    )  # fmt: skip
    message = refused(lambda **limit: calibrators.load(path, **limit), max_bytes=1)
    assert re.match(rf"{path}: got \d+ bytes unpacked, takes at most \d+ \(max_bytes=\)$", message)
    assert calibrators.load(path, max_bytes=10**6).bias.shape == (99,)
    # What is large itself may be large.
    calibrators.save(calibrators.VectorScaling(jnp.ones(9), jnp.ones(9)), path)
    assert calibrators.load(path, max_bytes=1)


def test_arrays_of_a_data_set(tmp_path):
    path = tmp_path / "zeros.npz"
    images = np.zeros((99, 16, 16), np.uint8)
    np.savez_compressed(path, allow_pickle=False, images=images, labels=np.arange(99) % 2)
    message = refused(lambda **limit: data.load(path, "all", **limit), max_bytes=1)
    start = rf"name_or_path: got {path}, \d+ bytes unpacked, takes at most \d+ \(max_bytes=\)$"
    assert re.match(start, message)
    assert len(data.load(path, "all", max_bytes=10**5)) == 99


def test_a_compressed_archive(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(tar({"notes": bytes(10**5)} | image_tree())))
    load = lambda **limit: data.load(path, "all", **limit)  # noqa: E731
    message = refused(load, max_bytes=10**4)
    assert re.search(r"x.tar.gz, \d+ bytes unpacked, takes at most 10000 \(max_bytes=\)$", message)
    assert len(load(max_bytes=2**17)) == 5
    path.write_bytes(gzip.compress(tar(image_tree())))
    assert "3 members, takes at most 2 (max_bytes=)" in refused(load, max_bytes=2**12)


def test_texts_beside_images(tmp_path):
    tree = image_tree() | {"boxes.csv": b"path,width,height,x0,y0,x1,y1\n"}
    (tmp_path / "x.tar").write_bytes(tar(tree))
    for name, content in tree.items():
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(content)
    for path in (tmp_path / "x.tar", tmp_path / "x"):
        message = refused(lambda path=path, **limit: data.load(path, "all", **limit), max_bytes=160)
        assert "takes at most 10 (" in message and "max_bytes=)" in message
        assert len(data.load(path, "all", max_bytes=2**15)) == 5


def test_the_bytes_of_an_image(tmp_path):
    tree = image_tree()
    large = {"train/cat/a.png": tree["train/cat/a.png"] + bytes(2**20)}
    (tmp_path / "x.tar").write_bytes(tar(tree | large))
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(tar(tree | large), 0))
    (tmp_path / "a.png").write_bytes(large["train/cat/a.png"])
    for read in (
        lambda **limit: data.load(tmp_path / "x.tar", "all", size=(4, 4), **limit)[:],
        lambda **limit: data.load(tmp_path / "x.tar.gz", "all", size=(4, 4), **limit),
        lambda **limit: data.read_image(tmp_path / "a.png", **limit),
    ):
        message = refused(read, max_pixels=16)
        assert f"takes at most {2**20 + 3 * 16} (max_pixels=)" in message
        read(max_pixels=32)


def test_a_tree_that_is_copied(tmp_path):
    """A hard link in an archive is refused; of a folder it is a file as any."""
    path = tmp_path / "x" / "cat" / "a.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(image_tree()["train/cat/a.png"])
    (tmp_path / "x" / "dog").mkdir()
    (tmp_path / "x" / "dog" / "b.png").hardlink_to(path)
    assert len(data.load(tmp_path / "x", "all")) == 2
    packed = shutil.make_archive(str(tmp_path / "y"), "tar", tmp_path, "x")
    with pytest.raises(ValueError, match="stored as a link, or with holes"):
        data.load(packed, "all")

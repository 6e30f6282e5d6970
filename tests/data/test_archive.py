from __future__ import annotations

import bz2
import gzip
import tarfile

import numpy as np
import pytest

from jc2i import data


@pytest.fixture(params=[("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")], ids="-".join)
def archive(request, image_folder):
    suffix, mode = request.param
    path = image_folder.parent / f"animals.{suffix}"
    with tarfile.open(path, mode) as file:
        file.add(image_folder / "val", "published/val")  # not in the order of a folder's listing
        file.add(image_folder / "train", "published/train")
    return path


@pytest.mark.parametrize("split", ["train", "validation", "all", "calibration", "evaluation"])
def test_archive_equals_the_folder_it_holds(image_folder, archive, split):
    folder, packed = data.load(image_folder, split), data.load(archive, split)
    np.testing.assert_array_equal(packed[:][0], folder[:][0])
    np.testing.assert_array_equal(packed.labels, folder.labels)
    assert (packed.classes, packed.name) == (folder.classes, folder.name)


def test_options_are_those_of_a_folder(archive):
    dataset = data.load(archive, "train", size=(2, 2), channels=1, classes=["dog", "cow", "cat"])
    assert dataset.images.shape == (3, 2, 2, 1)
    assert dataset.labels.tolist() == [2, 1, 0]


def test_split_that_is_not_there(archive):
    with pytest.raises(ValueError, match="split: got 'test', takes 'train', 'validation', 'all'"):
        data.load(archive, "test")


def test_truncated_archive_is_refused(archive):
    contents = archive.read_bytes()
    archive.write_bytes(contents[: len(contents) // 2])
    with pytest.raises(ValueError, match="name_or_path: got .*animals.*, a damaged archive"):
        data.load(archive, "train")


def test_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.tar.xz").write_text("no archive")
    with pytest.raises(ValueError, match=r"name_or_path: got .*x\.tar\.xz, a damaged archive"):
        data.load(tmp_path / "x.tar.xz", "train")


def test_damaged_image_is_named(tmp_path, image_folder):
    (image_folder / "train/cow/b.png").write_text("not an image")
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        file.add(image_folder, "x")
    with pytest.raises(ValueError, match=r"x\.tar:x/train/cow/b\.png: got a file that is not an"):
        data.load(tmp_path / "x.tar", "train")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2"])
@pytest.mark.parametrize("member", range(4))
def test_a_flipped_bit_in_any_header_is_refused(image_folder, suffix, member):
    """tarfile itself takes a damaged header for the end, and the images behind it are missing."""
    path = image_folder.parent / "x.tar"
    with tarfile.open(path, "w") as file:
        file.add(image_folder, "x")
    with tarfile.open(path) as file:
        offset = file.getmembers()[member].offset
    contents = bytearray(path.read_bytes())
    contents[offset + 100] ^= 1
    packed = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress}[suffix](contents)
    (image_folder.parent / f"y.{suffix}").write_bytes(packed)
    with pytest.raises(ValueError, match=r"name_or_path: got .*y\.tar.*, a damaged archive"):
        data.load(image_folder.parent / f"y.{suffix}", "all")


@pytest.mark.parametrize("end", [b"", b"\0" * 512 + b"x" * 512])
def test_an_archive_ends_in_its_mark(image_folder, end):
    path = image_folder.parent / "x.tar"
    with tarfile.open(path, "w") as file:
        file.add(image_folder, "x")
        length = file.offset  # of all members
    for packed in (path, image_folder.parent / "x.tar.gz"):
        contents = path.read_bytes()[:length] + end
        packed.write_bytes(gzip.compress(contents) if packed.suffix == ".gz" else contents)
        with pytest.raises(ValueError, match="a damaged archive .*end"):
            data.load(packed, "all")


def test_the_checksum_of_a_compressed_archive_is_looked_at(archive, image_folder):
    if archive.suffix != ".gz":
        pytest.skip("of gzip alone, it is at the end")
    contents = bytearray(archive.read_bytes())
    contents[-8] ^= 1
    archive.write_bytes(contents)
    with pytest.raises(ValueError, match="a damaged archive .*CRC"):
        data.load(archive, "all")

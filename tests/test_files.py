from __future__ import annotations

import os

import pytest

from jc2i.checks import invalid
from jc2i.files import read, refusing, write_whole


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "table.csv"
    for content in (b"first", b"second"):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    write_whole(path, b"first")

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["table.csv"]


def test_a_file_is_read_up_to_a_number_of_bytes(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"12345")
    assert read(path, "path", 5, "most") == b"12345"
    with pytest.raises(ValueError) as refusal:
        read(path, "path", 4, "most")
    assert str(refusal.value) == f"path: got {path}, 5 bytes, takes at most 4 (most=)"
    (tmp_path / "link").symlink_to(path)
    assert read(tmp_path / "link", "path", 5, "most") == b"12345"


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no such system")
def test_a_file_that_the_system_makes_up_says_no_size():
    assert os.stat("/proc/self/stat").st_size == 0
    assert read("/proc/self/stat", "path", 10_000, "most").endswith(b"\n")
    with pytest.raises(ValueError, match="takes at most 10 "):
        read("/proc/self/stat", "path", 10, "most")


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_not_opened(kind, tmp_path):
    path = tmp_path / "x"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(ValueError, match=f"^path: got {path}, a {kind}, takes a file$"):
        read(path, "path", 10, "most")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing", "path", 10, "most")


def test_whatever_is_raised_is_one_refusal_that_names_the_file():
    with pytest.raises(ValueError, match="^path: got x, damaged .one two., takes a whole file$"):
        with refusing("path", "x", "damaged"):
            raise RuntimeError("one\n two")
    with pytest.raises(ValueError, match="^path: got x, damaged .EOFError., takes"):
        with refusing("path", "x", "damaged"):
            raise EOFError
    with pytest.raises(ValueError, match="^x: labels: got 2, takes 3$"):
        with refusing("path", "x"):
            raise invalid("labels", 2, "3")

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from jc2i import files
from jc2i.checks import invalid
from jc2i.files import partial_of, read, refusing, replacing, try_writing_in, write_whole


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
    with pytest.raises(ValueError, match=r"^labels: got 2, takes 3 \(in x\)$"):
        with refusing("path", "x"):
            raise invalid("labels", 2, "3")


def test_the_system_s_errors_name_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space") as error:
        write_whole(tmp_path / "table.csv", b"first")
    assert error.value.filename == str(tmp_path / "table.csv") and not os.listdir(tmp_path)


def test_a_folder_is_replaced_too(tmp_path):
    folder = tmp_path / "model"
    for content in ("first", "second"):
        with replacing(folder) as new:
            new.mkdir()
            (new / "weights").write_text(content)
        assert (folder / "weights").read_text() == content
    with pytest.raises(ValueError, match="fails"), replacing(folder) as new:
        new.mkdir()
        (new / "weights").write_text("third")
        raise ValueError("fails")
    assert (folder / "weights").read_text() == "second" and os.listdir(tmp_path) == ["model"]


def test_what_killed_processes_were_writing_is_removed(tmp_path):
    def left_by(process):
        name = partial_of(tmp_path / "table.csv").name
        path = tmp_path / name.replace(f".{os.getpid()}.", f".{process}.")
        path.write_bytes(b"half")
        return path

    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    dead, alive = left_by(killed.pid), left_by(os.getppid())
    files._swept.clear()
    other = tmp_path / ".other.partial"
    other.touch()
    write_whole(tmp_path / "table.csv", b"whole")
    assert not dead.exists() and alive.exists() and other.exists()


def test_long_names(tmp_path):
    path = tmp_path / ("x" * 250 + ".png")
    write_whole(path, b"whole")
    assert os.listdir(tmp_path) == [path.name]


def test_folders_are_tried_and_nothing_is_left(tmp_path):
    for folder in (tmp_path, tmp_path / "new" / "deeper"):
        try_writing_in(folder)
        assert not os.listdir(tmp_path)
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "deeper"):
        with pytest.raises(NotADirectoryError) as error:
            try_writing_in(folder)
        assert error.value.filename == str(file)


def test_no_pipe_or_device_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(ValueError, match="x: got .*x, a pipe, takes a file$"):
        write_whole(tmp_path / "x", b"")
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path.relative_to(tmp_path), b"")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]

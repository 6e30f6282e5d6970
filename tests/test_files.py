from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from jc2i import files
from jc2i.files import partial_of, replacing, try_writing_in, write_whole


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

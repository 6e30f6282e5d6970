from __future__ import annotations

import subprocess
import sys

import pytest

from jc2i import data


@pytest.mark.parametrize("name", ["nonsense", "no/such/folder", "images.tar.xz"])
def test_nothing_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"name_or_path: got '{name}', which is not there"):
        data.load(name, "all", data_dir=tmp_path)


def test_file_of_another_kind(tmp_path):
    (tmp_path / "labels.csv").write_text("0,1")
    with pytest.raises(
        ValueError, match=r"name_or_path: got '.*labels\.csv', .*takes 'digits', an"
    ):
        data.load(tmp_path / "labels.csv", "all")


def test_import_brings_no_reader_of_a_source():
    program = (
        "import sys, jc2i.data\n"
        "print([m for m in ('sklearn', 'tensorflow_datasets', 'skimage') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert printed.stdout.decode().strip() == "[]"

from __future__ import annotations

import platform
import re
import shlex
import subprocess

import jax
import numpy as np
import pytest

from experiments.common import provenance as module
from experiments.common.provenance import command, commit, devices, provenance, versions


def test_command_is_relative_and_names_no_folder_outside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [
        str(tmp_path / "experiments" / "demo.py"),
        "--smallest",
        "--name",
        "two words",
        f"--out={tmp_path / 'results'}",
        "/home/someone/secret/images",
        "--weights=/home/someone/secret/model.th",
    ]
    assert shlex.split(command(arguments)) == [
        "python",
        "experiments/demo.py",
        "--smallest",
        "--name",
        "two words",
        "--out=results",
        ".../images",
        "--weights=.../model.th",
    ]


def test_commit_names_the_commit_and_whether_files_changed(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    source = tmp_path / "code.py"
    source.write_text("1")
    for folder in ("results", "deep/results"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "table.csv").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    git("tag", "-m", "a tag is not what is asked for", "v1")
    monkeypatch.setattr(module, "__file__", str(source))
    (tmp_path / "results" / "table.csv").write_text("2")
    (tmp_path / "deep" / "results" / "table.csv").write_text("2")
    assert commit() == git("rev-parse", "--short=12", "HEAD")
    source.write_text("2")
    assert commit() == git("rev-parse", "--short=12", "HEAD") + "-dirty"


def test_commit_is_unknown_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "code.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "unknown"


def test_versions_are_those_that_run():
    found = versions()
    assert found["Python"] == platform.python_version()
    assert found["jax"] == jax.__version__
    assert found["numpy"] == np.__version__


def test_devices_counts_them():
    assert devices() == f"{jax.device_count()} x cpu (cpu)"


@pytest.mark.parametrize("name", ["command", "commit", "versions", "device", "platform", "date"])
def test_provenance_has_every_field_and_names_no_host(name):
    value = provenance(["demo.py"])[name]
    assert value
    assert platform.node() not in value
    assert not re.search(r"(^|[ =])/\w", value)

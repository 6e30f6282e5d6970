"""The command as a process that is interrupted while it compiles or computes, or that is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from .conftest import noise

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(12):
        Image.fromarray(noise(index, 20, 20, 3)).save(folder / f"{index:02}.png")
    return folder


@pytest.fixture
def start(folder, saved_model):
    def start(out, *options):
        command = [sys.executable, "-m", "jc2i", "explain", folder, "--model", saved_model]
        command += ["--out", out, "--method", "rise", *options]
        return subprocess.Popen(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    return start


@pytest.mark.parametrize("phase", ["compiling", "running"])
def test_an_interrupt_ends_it(start, tmp_path, phase):
    process = start(tmp_path / "out", "--option", "masks=1000000", "grid=3")
    line = process.stderr.readline()
    assert "evaluations of the model" in line  # the next that it does is to compile
    if phase == "running":
        assert "in all" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.endswith("jc2i: interrupted\n")
    assert "Traceback" not in errors and not (tmp_path / "out").exists()


def test_an_interrupt_while_it_loads(start, tmp_path):
    process = start(tmp_path / "out")
    time.sleep(0.5)  # Python itself has begun
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "jc2i: interrupted\n")


def test_a_killed_run_goes_on(start, tmp_path):
    options = ("--option", "masks=8", "grid=3", "--batch-size", "2", "--no-progress")

    def contents(out):
        return {path.name: path.read_bytes() for path in out.iterdir()}

    def finish(out):
        process = start(out, *options)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        return errors

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(straight)
    for done in (1, 8, 17):
        process = start(killed, *options)
        while len(list(killed.glob("[0-9]*"))) < done and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.communicate()
        for path in killed.glob("[0-9]*.npy"):
            np.load(path)
    assert "of 12 images are explained already" in finish(killed)
    assert contents(killed) == contents(straight) and len(contents(killed)) == 24

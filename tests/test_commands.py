"""A command's process: exit codes, one line of an error, and interrupts, of a small program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from jc2i import commands

PROGRAM = Path(commands.__file__)


def ended(work, capsys):
    with pytest.raises(SystemExit) as stopped:
        commands.run(work, in_process=True)
    output, errors = capsys.readouterr()
    return stopped.value.code, output, errors.replace("__main__.py: ", "jc2i: ")


def failing(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize("code", [None, 0, 1])
def test_the_code_of_the_work(capsys, code):
    assert ended(lambda: code, capsys) == (code or 0, "", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("size: got 0\nand more"), 2, "size: got 0"),
        (FileNotFoundError("x.jpg: no such file"), 2, "x.jpg: no such file"),
        (OSError(28, "No space left on device", "a/b.png"), 2, "a/b.png: No space left on device"),
        (ImportError("pip install it"), 2, "pip install it"),
        (ValueError(), 2, "ValueError"),
        (ValueError("a\x1b[2Jb"), 2, "a\\x1b[2Jb"),
        (MemoryError(), 2, "not enough memory: a smaller --batch-size or --size takes less"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: of 3 GB"),
            2,
            "not enough memory (RESOURCE_EXHAUSTED: of 3 GB): a smaller --batch-size or --size "
            "takes less",
        ),
        (
            KeyError("a\nb"),
            70,
            "a fault of this program: KeyError: 'a\\nb' (with JC2I_TRACEBACK=1 it shows where)",
        ),
        (
            OverflowError("\n\ntoo large\n"),
            70,
            "a fault of this program: OverflowError: too large (with JC2I_TRACEBACK=1 it shows "
            "where)",
        ),
        (SystemExit("done"), 2, "done"),
    ],
)
def test_an_error_is_one_line(capsys, error, code, line):
    found, output, errors = ended(failing(error), capsys)
    assert (found, output) == (code, "") and errors.endswith(f": {line}\n")
    assert errors.count("\n") == 1


def test_a_traceback_is_shown_where_asked_for(capsys, monkeypatch):
    monkeypatch.setenv(commands.TRACEBACK, "1")
    code, _, errors = ended(failing(KeyError("a")), capsys)
    assert code == 70 and "Traceback (most recent call last)" in errors and "in work" in errors


def test_exits_and_readers_that_go_away(capsys):
    assert ended(failing(SystemExit(5)), capsys)[0] == 5
    assert ended(failing(KeyboardInterrupt()), capsys) == (commands.INTERRUPTED, "", "")
    assert ended(failing(BrokenPipeError(32, "Broken pipe")), capsys) == (141, "", "")


def test_the_handlers_of_others_stay(capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    ended(lambda: 0, capsys)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def program(folder, body):
    """A program of this one module and nothing else, so that it starts at once."""
    script = folder / "program.py"
    script.write_text(
        "import importlib.util, os, sys, time\n"
        "from pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('commands', {str(PROGRAM)!r})\n"
        "commands = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(commands)\n"
        "folder = Path(sys.argv[1])\n" + textwrap.dedent(body)
    )
    return [sys.executable, str(script), str(folder)]


def interrupted(command, folder, number=signal.SIGINT):
    """The exit code, the seconds it took, and the errors of a program interrupted at `started`."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (folder / "started").exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    return process.returncode, time.monotonic() - sent, errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_what_swallows_exceptions(tmp_path, number, code):
    command = program(
        tmp_path,
        """
        def work():
            (folder / "started").touch()
            while True:
                try:
                    time.sleep(0.01)
                except BaseException:
                    pass
        commands.run(work)
        """,
    )
    found, _, errors = interrupted(command, tmp_path, number)
    assert (found, errors) == (code, "program.py: interrupted\n")


def test_an_interrupt_waits_for_the_file_that_is_written(tmp_path):
    command = program(
        tmp_path,
        """
        def work():
            partial = folder / "partial"
            while True:
                with commands.unbroken(partial):
                    partial.write_text("half")
                    (folder / "started").touch()
                    time.sleep(0.3)
                    partial.write_text("whole")
                    partial.replace(folder / "file")
        commands.run(work)
        """,
    )
    found, _, _ = interrupted(command, tmp_path)
    assert found == 130 and (tmp_path / "file").read_text() == "whole"
    assert sorted(os.listdir(tmp_path)) == ["file", "program.py", "started"]


@pytest.mark.parametrize("make", ["partial.mkdir(); (partial / 'x').touch()", "partial.touch()"])
def test_an_interrupt_removes_what_takes_too_long_to_finish(tmp_path, make):
    command = program(
        tmp_path,
        f"""
        def work():
            partial = folder / "partial"
            with commands.unbroken(partial):
                {make}
                (folder / "started").touch()
                time.sleep(60)
        commands.run(work)
        """,
    )
    found, _, _ = interrupted(command, tmp_path)
    assert found == 130 and sorted(os.listdir(tmp_path)) == ["program.py", "started"]


def test_an_interrupt_of_a_program_that_loads(tmp_path):
    command = program(
        tmp_path,
        """
        commands.end_when_interrupted()
        (folder / "started").touch()
        time.sleep(60)
        """,
    )
    assert interrupted(command, tmp_path)[::2] == (130, "program.py: interrupted\n")


def test_output_that_cannot_be_written_is_named():
    """A device that is always full."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    body = "import jc2i.commands as c; c.run(lambda: print('x' * 99))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", body.replace("jc2i.commands", "commands")],
            cwd=PROGRAM.parent,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.endswith(": standard output: No space left on device\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("asked", "argv", "is_command"),
    [
        (["python", "-m", "jc2i", "explain"], ["-m", "explain"], True),
        (["python", "-I", "-m", "jc2i"], ["/site/jc2i/__main__.py"], True),
        (["python", "/bin/jc2i", "explain"], ["/bin/jc2i", "explain"], True),
        (["python", "-m", "pytest"], ["/site/pytest/__main__.py"], False),
        (["python", "mine.py"], ["mine.py"], False),
        (["python"], [""], False),
        (["python"], [], False),
    ],
)
def test_only_the_command_is_ended_while_it_loads(monkeypatch, asked, argv, is_command):
    """A program that imports the package handles interrupts as it likes."""
    monkeypatch.setattr(sys, "orig_argv", asked)
    monkeypatch.setattr(sys, "argv", argv)
    assert commands.is_running() == is_command

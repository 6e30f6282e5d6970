"""A command's process: an error is one line, and an interrupt ends it at once.

This module needs nothing but Python, so that it is there before what takes seconds to load.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

BROKEN_PIPE = 141
"""The exit code of a program that nobody listens to any more: 128 + SIGPIPE."""

INTERRUPTED = 130
"""The exit code of a program that was interrupted: 128 + SIGINT."""

FAULT = 70
"""The exit code of a program that is itself at fault: EX_SOFTWARE."""

TRACEBACK = "JC2I_TRACEBACK"
"""The environment variable that asks for an error's traceback."""

PATIENCE = 1.0
"""Seconds that an interrupt waits for the file that is being written."""

STACK = 2**26
"""Bytes of the stack of the thread that computes: compilers recurse."""

STANDARD_OUTPUT = "standard output"

_writing = threading.RLock()
_unfinished: set[Path] = set()


@contextlib.contextmanager
def unfinished(*paths: Path) -> Iterator[None]:
    """Around the making of files or folders that are worth nothing before they are finished.

    They are removed at the end, where they are still there, and by an interrupt.
    """
    _unfinished.update(paths)
    try:
        yield
    finally:
        for path in paths:
            remove(path)
        _unfinished.difference_update(paths)


@contextlib.contextmanager
def unbroken(*paths: Path) -> Iterator[None]:
    """`unfinished`, for what takes so short a time that an interrupt waits for it."""
    with _writing, unfinished(*paths):
        yield


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there and can be."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def is_running() -> bool:
    """Whether this process is the command `jc2i`, and not a program that imports the package."""
    asked = sys.orig_argv
    module = asked[asked.index("-m") + 1 :][:1] if "-m" in asked else []
    return module == ["jc2i"] or _script() in ("jc2i", "jc2i.exe")


def _script() -> str:
    """The name of the file that this process runs."""
    return Path(next(iter(getattr(sys, "argv", [])), "")).name  # none where Python is embedded


def end_when_interrupted() -> None:
    """Has an interrupt end this process at once, from now on; SIGTERM likewise.

    Python's own way raises an exception wherever the main thread is, which a compiled program or
    its callback may swallow, and which is 20 lines of a traceback.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    # Not through a buffer whose lock the other thread may hold.
    with contextlib.suppress(OSError):
        showing = b"\x1b[?25h\n" if os.isatty(2) else b""  # a progress bar hides the cursor
        os.write(2, showing + f"{_program()}: interrupted\n".encode())
    _writing.acquire(timeout=PATIENCE)
    for path in list(_unfinished):  # of a disk that is too slow, or of this very thread
        remove(path)
    os._exit(128 + number)


def _program() -> str:
    name = _script()
    return name if name.endswith(".py") and name != "__main__.py" else "jc2i"


def _is_own_process() -> bool:
    """Whether this process was started for the program that is running, and not for tests of it."""
    return is_running() or any(Path(word).name == _script() for word in sys.orig_argv[1:])


def run(work: Callable[[], Any], *, in_process: bool | None = None) -> NoReturn:
    """Does a command's work and exits: with what it returns, or one line on standard error.

    The work is done by another thread. This one waits, so that an interrupt finds it outside of
    compilers and compiled programs.

    Exit codes: the work's own; 2 for what cannot be done as asked; 70 for a fault of the program;
    130 for an interrupt; 141 if the reader of the output went away.

    Args:
      work: returns the exit code, None for 0.
      in_process: whether others go on using this process, as tests do: what is to be done at an
        interrupt is then left as it was. None finds out.
    """
    if in_process is None:
        in_process = not _is_own_process()
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    end_when_interrupted()
    with contextlib.suppress(AttributeError, ValueError, OSError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    outcome = _in_another_thread(work)
    code = _said(outcome) if isinstance(outcome, BaseException) else outcome or 0
    if in_process:
        if threading.current_thread() is threading.main_thread():
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
                signal.signal(number, handler)
        sys.exit(code)
    # The interpreter's own end takes a while, and lets an interrupt kill it.
    sys.stderr.flush()
    os._exit(code)


def _in_another_thread(work: Callable[[], Any]) -> Any:
    """What the work returns or raises."""
    outcome: list[Any] = []
    done = threading.Event()
    context = contextvars.copy_context()

    def compute() -> None:
        try:
            outcome.append(context.run(work))
            _flush()
        except BaseException as error:  # whatever it is, it is said by the thread that waits
            outcome.append(error)
        done.set()

    before = threading.stack_size(STACK)
    try:
        threading.Thread(target=compute, name="work", daemon=True).start()
    finally:
        threading.stack_size(before)
    while not done.wait(0.5):  # not for ever: some systems would not interrupt that
        pass
    return outcome[-1]


class Output:
    """Standard output, for as long as somebody reads it: that nobody does stops nothing else.

    Args:
      heard: False if nothing is to appear, as of all processes of a run but one.
    """

    def __init__(self, heard: bool = True) -> None:
        self._heard = heard
        self._error: OSError | None = None

    def say(self, text: str) -> None:
        """Has a text appear."""
        if self._heard and self._error is None:
            try:
                print(text, flush=True)
            except OSError as error:
                self._error = OSError(error.errno, error.strerror, STANDARD_OUTPUT)
                _forget_output()

    def close(self) -> None:
        """Raises what went wrong."""
        if self._error is not None:
            raise self._error


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from error


def _said(error: BaseException) -> int:
    """The exit code of an error, of which one line is said where there is something to say."""
    _forget_output()
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        error = ValueError(error.code)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return BROKEN_PIPE
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    expected = isinstance(error, ValueError | OSError | ImportError | MemoryError)
    expected = expected or _no_memory(error)
    text = reason(error)
    if not expected:
        text = f"a fault of this program: {text} (with {TRACEBACK}=1 it shows where)"
    print(f"{_program()}: {text}", file=sys.stderr)
    return 2 if expected else FAULT


def reason(error: BaseException) -> str:
    """What an error says, as one line of printable characters."""
    if isinstance(error, OSError) and error.strerror:
        # Files are named by those who write them: what is left is what is printed.
        name = STANDARD_OUTPUT if error.errno == errno.ENOSPC else None
        name = name if error.filename is None else os.fsdecode(error.filename)
        text = f"{name}: {error.strerror}" if name else error.strerror
    elif isinstance(error, MemoryError) or _no_memory(error):
        said = _first_line(error)
        text = f"not enough memory{f' ({said})' if said else ''}"
        text += ": a smaller --batch-size or --size takes less"
    elif isinstance(error, ValueError | OSError | ImportError):
        text = _first_line(error) or type(error).__name__
    else:
        said = _first_line(error)
        text = f"{type(error).__name__}{f': {said}' if said else ''}"
    return printable(text)


def printable(text: str) -> str:
    """A text without what a terminal would obey, or break a line at."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _no_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory, as XLA says it."""
    return "RESOURCE_EXHAUSTED" in str(error)


def _forget_output() -> None:
    """Sends what is still to be written somewhere, if it cannot go where it should."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

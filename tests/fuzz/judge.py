"""One bad input, what it should come to, and what it came to."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jc2i import checks

LONGEST = 500
"""Characters of a refusal, which is one line."""

SECONDS = 30
"""What takes longer hangs. The slowest input takes about one, most of it to compile."""


class Expected(enum.Enum):
    """What a call may come to."""

    REFUSAL = "a refusal that names the argument"
    VALUE = "a finite value of the promised shape"
    EITHER = "one or the other"
    SHAPE = "a value of the promised shape, NaN where its documentation says so, or a refusal"
    NAN = "a value of the promised shape that is NaN where it depends on the input"
    SPOILT = "a value of the promised shape that is NaN for the spoilt image, and finite for others"


class Verdict(enum.Enum):
    """What a call came to."""

    VALUE = "values"
    REFUSAL = "refusals"
    RAW = "raw errors"
    SILENT = "silent"
    HANG = "hangs"


@dataclasses.dataclass(frozen=True)
class Case:
    """A call with one bad input.

    Attributes:
      label: what is bad.
      call: makes the call.
      expected: what it should come to.
      names: what a refusal may call the bad argument.
      like: gives the result of the call without the bad input; None where any shape will do.
    """

    label: str
    call: Callable[[], Any]
    expected: Expected
    names: tuple[str, ...]
    like: Callable[[], Any] | None = None


class _TooLong(BaseException):
    """Raised by the alarm: no `except Exception` on the way may catch it."""


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Interrupts what takes longer, once it is back in Python."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judged(case: Case, seconds: float = SECONDS) -> tuple[Verdict, str]:
    """What a call came to, and why that is a fault; no reason where it is none."""
    try:
        # Warnings are for the hold-outs that have no optimum; they are tested where they are made.
        with alarm(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            result = jax.block_until_ready(case.call())
    except _TooLong:
        return Verdict.HANG, f"longer than {seconds} s"
    except checks.Refusal as refusal:
        return _refused(case, str(refusal))
    except Exception as error:
        text = " ".join(str(error).split())
        return Verdict.RAW, f"{type(error).__name__}: {text[:200]}"
    reason = _unlike(case, result)
    if case.expected is Expected.REFUSAL:
        reason = f"got {_shown(result)}"
    return (Verdict.SILENT if reason else Verdict.VALUE), reason


def _refused(case: Case, message: str) -> tuple[Verdict, str]:
    if not message.startswith(tuple(f"{name}: got " for name in case.names)):
        return Verdict.RAW, f"names another argument: {message[:200]}"
    if "\n" in message or len(message) >= LONGEST:
        return Verdict.RAW, f"{len(message)} characters, {message.count(chr(10)) + 1} lines"
    if case.expected in (Expected.VALUE, Expected.SPOILT):
        return Verdict.RAW, f"refused: {message[:200]}"
    return Verdict.REFUSAL, ""


def _unlike(case: Case, result: Any) -> str:
    """Why a result is not what was promised."""
    leaves = [leaf for leaf in jax.tree.leaves(result) if _is_numeric(leaf)]
    if case.like is not None:
        like = case.like()
        promised = [np.shape(leaf) for leaf in jax.tree.leaves(like) if _is_numeric(leaf)]
        if [np.shape(leaf) for leaf in leaves] != promised:
            return f"{_shown(result)} in place of {_shown(like)}"
    for leaf in leaves:
        finite = np.isfinite(np.asarray(leaf, np.float64))
        if case.expected is Expected.SHAPE:
            continue
        if case.expected is Expected.NAN:
            if finite.any():
                return f"made up of NaN: {_shown(result)}"
        elif case.expected is Expected.SPOILT and finite.ndim:
            if finite[0].all() or not finite[1:].all():
                return f"NaN for another than the spoilt image, or not for it: {_shown(result)}"
        elif not finite.all():
            return f"not finite: {_shown(result)}"
    return ""


def _is_numeric(leaf: Any) -> bool:
    if isinstance(leaf, bool | int | float):
        return True
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return False
    return leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.number)


def _shown(result: Any) -> str:
    leaves = jax.tree.leaves(result)
    return ", ".join(checks.describe(leaf) for leaf in leaves[:4]) or repr(result)[:80]

"""Files that are opened in a process of their own, and what comes of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CHILD = Path(__file__).with_name("child.py")
LONGEST_LINE = 700


class Case(NamedTuple):
    """A file that is opened.

    Attributes:
      name: of the case.
      door: how it is opened, one of `child.DOORS`.
      path: the file.
      allowed: what may come of it: `"refused"`, `"same"` (as `original` is opened) and
        `"other"` (values that differ: of a file without a checksum).
      original: the path of the file that it was.
    """

    name: str
    door: str
    path: Path
    allowed: tuple[str, ...] = ("refused",)
    original: Path | None = None


class Outcome(NamedTuple):
    """What came of a case: its kind, a digest or a message, its costs, what was run."""

    kind: str
    says: str
    seconds: float
    megabytes: float
    ran: list[str]


def run(cases: Sequence[Case]) -> list[Outcome]:
    """Opens the files of all cases in one process, or in the next where it dies of one."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(cases):
        outcomes += _run(cases[len(outcomes) :])
    return outcomes


def _run(cases: Sequence[Case]) -> list[Outcome]:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("XLA_FLAGS", None)
    with subprocess.Popen(
        [sys.executable, str(CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        asked = "".join(json.dumps([case.door, str(case.path)]) + "\n" for case in cases)
        stdin = child.stdin
        writer = threading.Thread(target=lambda: _feed(stdin, asked))
        writer.start()
        outcomes = [Outcome(**json.loads(line)) for line in child.stdout]
        writer.join()
    if len(outcomes) < len(cases):
        outcomes.append(Outcome("died", f"by signal {-child.returncode}", 0, 0, []))
    return outcomes


def _feed(stdin, asked: str) -> None:
    try:
        stdin.write(asked)
        stdin.close()
    except BrokenPipeError:
        pass  # it died, which is found out from what it said


def faults(case: Case, outcome: Outcome, originals: dict[Path, str]) -> list[str]:
    """What is wrong with what came of a case."""
    found = []
    kind = outcome.kind
    if kind == "value":
        same = case.original is not None and outcome.says == originals[case.original]
        kind = "same" if same else "other"
    if kind not in case.allowed and not (kind == "same" and "other" in case.allowed):
        found.append(f"{kind}: {outcome.says[:200]}")
    if outcome.kind == "refused":
        if "\n" in outcome.says or len(outcome.says) > LONGEST_LINE:
            found.append(f"a message that is no line: {outcome.says[:100]!r}")
        if case.path.name not in outcome.says:
            found.append(f"a message without the file: {outcome.says[:200]}")
    if outcome.ran:
        found.append(f"ran {outcome.ran}")
    return [f"{case.name} ({case.door}): {fault}" for fault in found]

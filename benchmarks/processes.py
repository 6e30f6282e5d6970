"""A measurement in a process of its own: JAX and PyTorch spoil each other's timings in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ALONE = """
import importlib, json, sys
module, name, arguments = json.loads(sys.argv[1])
print(json.dumps(getattr(importlib.import_module(module), name)(*arguments)))
"""


def alone(function: Callable[..., Any], *arguments: Any, threads: int = 0) -> Any:
    """What a function returns in a new process.

    Args:
      function: a function of a module, which the process imports.
      arguments: its arguments, as JSON can hold them.
      threads: processors that the process may use; 0 for all.

    Returns:
      Its result, as JSON can hold it.

    Raises:
      SystemExit: if the process fails, with what it said last.
    """
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, json.dumps([*_name(function), arguments])],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
        preexec_fn=_few_processors(threads),
    )
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-1:])
        raise SystemExit(f"{function.__name__}{arguments}: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _name(function: Callable[..., Any]) -> tuple[str, str]:
    """The module and name of a function, also of the script that runs."""
    module = function.__module__
    if module == "__main__":
        module = f"benchmarks.{Path(sys.modules[module].__file__ or '').stem}"
    return module, function.__name__


def _few_processors(threads: int) -> Callable[[], None] | None:
    if not threads or not hasattr(os, "sched_setaffinity"):
        return None
    # XLA takes as many threads as there are processors.
    processors = sorted(os.sched_getaffinity(0))[:threads]
    return lambda: os.sched_setaffinity(0, processors)

"""The command line.

explain    photographs in, an overlay and a raw map of each out
evaluate   a labelled folder in, a table of calibration and of explanation metrics out
subject    the model, calibrator, images and device that both name
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import tyro

from jc2i.caching import keep_compiled_programs
from jc2i.cli.evaluate import Evaluate, evaluate
from jc2i.cli.explain import Explain, explain

__all__ = ["Evaluate", "Explain", "evaluate", "explain", "main"]

BROKEN_PIPE = 141
"""The exit code of a program that nobody listens to any more: 128 + SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `jc2i explain` or `jc2i evaluate` and exits.

    Exit codes: 0 if everything was done; 1 if some images were not (each has its line on standard
    error, the others are done); 2 if nothing could be done as asked; 141 if the reader of its
    output went away.

    Args:
      arguments: the command line; that of the process by default.
    """
    keep_compiled_programs()
    commands = tyro.extras.SubcommandApp()

    @commands.command(name="explain")
    def _(options: tyro.conf.OmitArgPrefixes[Explain]) -> int:
        """Explain photographs: top classes, overlays and raw maps."""
        return explain(options)

    @commands.command(name="evaluate")
    def _(options: tyro.conf.OmitArgPrefixes[Evaluate]) -> int:
        """Evaluate a model and its explanations on a labelled folder."""
        return evaluate(options)

    try:
        code = commands.cli(
            prog="jc2i",
            description="Explain image classifiers.",
            args=arguments,
            use_underscores=False,
        )
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough, as in `jc2i explain ... | head`. What is still in
        # the buffer must go somewhere when the interpreter closes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = BROKEN_PIPE
    except (ValueError, OSError, ImportError) as error:
        print(f"jc2i: {str(error).splitlines()[0]}", file=sys.stderr)
        code = 2
    sys.exit(code)

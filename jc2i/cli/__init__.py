"""The command line.

explain    photographs in, an overlay and a raw map of each out
evaluate   a labelled folder in, a table of calibration and of explanation metrics out
results    the files of each photograph, and how a later run knows them
subject    the model, calibrator, images and device that both commands name
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tyro

from jc2i.caching import keep_compiled_programs
from jc2i.cli.evaluate import Evaluate, evaluate
from jc2i.cli.explain import Explain, explain
from jc2i.commands import BROKEN_PIPE, run

__all__ = ["BROKEN_PIPE", "Evaluate", "Explain", "evaluate", "explain", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `jc2i explain` or `jc2i evaluate` and exits.

    Exit codes: 0 if everything was done; 1 if some images were not (each has its line on standard
    error, the others are done); 2 if nothing could be done as asked; otherwise those of
    `jc2i.commands.run`.

    Args:
      arguments: the command line; that of the process by default.
    """
    keep_compiled_programs()
    commands = tyro.extras.SubcommandApp()

    @commands.command(name="explain")
    def _(options: tyro.conf.OmitArgPrefixes[Explain]) -> Callable[[], int]:
        """Explain photographs: top classes, overlays and raw maps."""
        return lambda: explain(options)

    @commands.command(name="evaluate")
    def _(options: tyro.conf.OmitArgPrefixes[Evaluate]) -> Callable[[], int]:
        """Evaluate a model and its explanations on a labelled folder."""
        return lambda: evaluate(options)

    work = commands.cli(
        prog="jc2i",
        description="Explain image classifiers.",
        args=arguments,
        use_underscores=False,
    )
    run(work, in_process=True if arguments is not None else None)

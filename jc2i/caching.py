"""What is kept between runs on a machine: downloaded weights and compiled programs."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

QUICK = 0.2
"""Seconds of compilation below which a program is sooner compiled than found."""


def folder() -> Path:
    """Where things are kept between runs: `$JC2I_CACHE`, or `~/.cache/jc2i`.

    Returns:
      The folder, which need not be there yet.
    """
    return Path(os.environ.get("JC2I_CACHE") or Path.home() / ".cache" / "jc2i")


def keep_compiled_programs() -> None:
    """Lets JAX keep what it compiles, unless the user chose a folder or none at all.

    The second run of a command on images of the same size then compiles next to nothing. Programs
    are called by their code, the versions and the machine, so a stale one is never found.
    """
    import jax

    # A file that cannot be written, or that a killed run has half written: compiled as ever.
    warnings.filterwarnings("ignore", message="Error .* persistent compilation cache")
    asked = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009 (types know no such option)
    wanted = getattr(jax.config, "jax_enable_compilation_cache")  # noqa: B009
    if asked is None and wanted:
        jax.config.update("jax_compilation_cache_dir", str(folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", QUICK)

"""How a result was made: command, code, versions and device, without naming the machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

PACKAGES = ("jc2i", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "scikit-image")


def provenance(arguments: Sequence[str] | None = None) -> dict[str, str]:
    """What a reader needs to make the result again.

    Args:
      arguments: the command's script and its arguments; `sys.argv` by default.

    Returns:
      The command, the commit (ending in `-dirty` when tracked files differ from it), the
      versions of Python and of the packages, the devices, the platform and the date (UTC). No
      host name, and no path outside the working directory.
    """
    return {
        "command": command(sys.argv if arguments is None else arguments),
        "commit": commit(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "device": devices(),
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def command(arguments: Sequence[str]) -> str:
    """The command line as one would type it, with paths relative to the working directory."""
    return shlex.join(["python", *map(_relative, arguments)])


def commit() -> str:
    """The commit of this code, ending in `-dirty` when changed; `unknown` outside a checkout.

    Results are no code: a run that replaces committed ones does not make its own record dirty.
    """
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", _RESULTS)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}-dirty" if changed else name


_RESULTS = ":(top,exclude,glob)**/results/**"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that the numbers depend on."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # the checkout is used without being installed
            continue
    return found


def devices() -> str:
    """The devices that JAX computes on, such as `8 x NVIDIA H100 80GB HBM3 (gpu)`."""
    import jax

    first = jax.devices()[0]
    return f"{jax.device_count()} x {first.device_kind} ({first.platform})"


def _relative(argument: str) -> str:
    """An argument whose absolute path, if it is or ends in one, is made relative or cut short."""
    option, equals, value = argument.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return argument
    here = Path.cwd()
    inside = path.is_relative_to(here)
    return f"{option}{equals}{path.relative_to(here) if inside else Path('...') / path.name}"

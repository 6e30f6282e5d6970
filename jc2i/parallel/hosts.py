"""The processes of one run, on one host or several: how they meet, which writes, what all know."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jc2i import checks

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Where the processes of a run that no cluster started find each other: environment variables."""

_LOST = ("gloo", "nccl", "coordination", "heartbeat", "connection closed", "socket closed")
"""What errors say of a process that cannot be reached."""


@contextlib.contextmanager
def together(distributed: bool = True) -> Iterator[None]:
    """Around a run of several processes, each of which runs the same program.

    They meet as `jax.distributed.initialize` has them: on clusters that it knows (Slurm, Open MPI,
    Kubernetes, TPU pods), or as the environment says: `JAX_COORDINATOR_ADDRESS` (`host:port` of the
    first), `JAX_NUM_PROCESSES` and, different in each, `JAX_PROCESS_ID` from 0. At the end each
    waits for the others.

    Args:
      distributed: False for a run of this process alone.

    Raises:
      ValueError: no other processes are known of.
      ConnectionError: one of them died, or cannot be reached.
    """
    if not distributed:
        yield
        return
    _join()
    try:
        yield
    except Exception as error:
        if not is_lost(error):
            raise
        said = next(iter(str(error).splitlines()), "")
        raise ConnectionError(
            f"another process of this run died or cannot be reached ({said}): what is finished is "
            "kept; start the run again, on as many processes as there are"
        ) from error
    with contextlib.suppress(Exception):  # all is done, whoever is gone
        jax.distributed.shutdown()


def _join() -> None:
    given = {name: os.environ.get(name) for name in (ADDRESS, COUNT, NUMBER)}
    numbers = {name: given[name] for name in (COUNT, NUMBER)}
    for name, text in numbers.items():
        fits = text is None or text.isdecimal()
        checks.require(fits, "distributed", f"{name}={text}", "a whole number")
    count, number = (None if text is None else int(text) for text in numbers.values())
    try:
        jax.distributed.initialize(num_processes=count, process_id=number)
    except (ValueError, TypeError) as error:
        got = f"no cluster that JAX knows ({error})"
        raise checks.invalid("distributed", got, f"one, or {ADDRESS}, {COUNT}, {NUMBER}") from error


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process of this run cannot be reached."""
    text = str(error).casefold()
    return jax.process_count() > 1 and any(word in text for word in _LOST)


def is_first() -> bool:
    """Whether this process is the one that writes: the first of a run, or the only one."""
    return jax.process_index() == 0


def of_first(content: bytes) -> bytes:
    """What the first process holds, in every process of the run, which all ask for it.

    Args:
      content: what is held; that of the others does not count.

    Returns:
      The first process's.
    """
    if jax.process_count() == 1:
        return content
    from jax.experimental import multihost_utils

    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    # Of few lengths: each is a program to compile.
    buffer = np.zeros(1 << max(length - 1, 0).bit_length(), np.uint8)
    if is_first():
        buffer[:length] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes()[:length]


def own_part(
    fetch: Callable[[np.ndarray], tuple], items: np.ndarray, mesh: Mesh | None
) -> tuple[Any, ...]:
    """The arrays of some items, of which a process reads those of its own devices.

    Args:
      fetch: gives the arrays of items.
      items: those that the devices of a mesh share out, as many for each.
      mesh: the devices; None for one of this process's.

    Returns:
      The arrays; zeros stand for what other processes read.
    """
    if mesh is None or not mesh.is_multi_process:
        return fetch(items)
    own = [device.process_index == jax.process_index() for device in mesh.devices.flat]
    rows = np.flatnonzero(np.repeat(own, len(items) // mesh.size))
    parts = fetch(items[rows])

    def spread(part: Any) -> np.ndarray:
        whole = np.zeros((len(items), *part.shape[1:]), part.dtype)
        whole[rows] = part
        return whole

    return tuple(spread(np.asarray(part)) for part in parts)

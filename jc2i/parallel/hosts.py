"""The processes of one run, on one host or several: which of them writes, what all must know."""

from __future__ import annotations

import jax
import numpy as np


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

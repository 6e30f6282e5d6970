"""How this package computes, whatever a user asks of JAX for code of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def own_promotion() -> Iterator[None]:
    """JAX's usual promotion, whatever the user asks of their own code; also as a decorator.

    NaN is allowed too: it is what an empty bin and a map that cannot be scored have, and the
    arguments are checked.
    """
    with (
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        jax.debug_nans(False),
    ):
        yield


def full_precision() -> contextlib.AbstractContextManager[None]:
    """A context in which products of float32 numbers are computed in float32.

    Left alone, JAX computes them in TensorFloat-32 on an NVIDIA GPU and in bfloat16 on a TPU, which
    moved the maps of a ResNet-20 by up to 14 % (`docs/speed.md`). A user's own setting of
    `jax_default_matmul_precision` stands.

    Returns:
      A context manager.
    """
    # By its name: the attributes of `jax.config` are made at run time, unknown to a type checker.
    if getattr(jax.config, "jax_default_matmul_precision") is not None:  # noqa: B009
        return contextlib.nullcontext()
    return jax.default_matmul_precision("float32")

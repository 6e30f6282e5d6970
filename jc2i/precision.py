"""Products of float32 numbers in float32, whatever the device."""

from __future__ import annotations

import contextlib

import jax


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

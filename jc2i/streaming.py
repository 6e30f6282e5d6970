"""Loops that keep a bounded number of model evaluations in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def per_step(batch: int, batch_size: int | None) -> int:
    """How many variants of each image fit in one step of `batch_size` evaluations."""
    return 1 if batch_size is None else max(1, batch_size // batch)


def accumulate(function: Callable[[Int[Array, " chunk"]], Any], count: int, chunk: int) -> Any:
    """The sum of `function(indices)` over all indices below `count`, `chunk` at a time.

    Memory is that of one call and one running sum, whatever the count. The last call has the
    remainder's size, so nothing is evaluated only to be thrown away.

    Args:
      function: maps indices [chunk] to a pytree of arrays, already summed over the indices.
      count: the number of indices, at least 1.
      chunk: indices a call.

    Returns:
      The pytree of sums.
    """
    chunk = min(chunk, count)
    whole, rest = divmod(count, chunk)
    # The first chunk starts the sum: no zeros of a shape and dtype that must be found out first.
    total = function(jnp.arange(rest if rest else chunk))
    start = rest if rest else chunk
    steps = whole if rest else whole - 1
    if steps == 0:
        return total

    def step(total: Any, index: Array) -> tuple[Any, None]:
        part = function(start + index * chunk + jnp.arange(chunk))
        return jax.tree.map(jnp.add, total, part), None

    return jax.lax.scan(step, total, jnp.arange(steps))[0]


def collect(function: Callable[[Int[Array, " chunk"]], Array], count: int, chunk: int) -> Array:
    """`function(indices)` for all indices below `count`, `chunk` at a time, side by side.

    Args:
      function: maps indices [chunk] to an array [batch, chunk].
      count: the number of indices, at least 1.
      chunk: indices a call.

    Returns:
      An array [batch, count].
    """
    chunk = min(chunk, count)
    whole, rest = divmod(count, chunk)
    parts = jax.lax.map(lambda i: function(i * chunk + jnp.arange(chunk)), jnp.arange(whole))
    values = jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], whole * chunk)
    if rest == 0:
        return values
    return jnp.concatenate([values, function(whole * chunk + jnp.arange(rest))], axis=1)


def over_images(function: Callable[[Any], Any], arrays: Any, size: int) -> Any:
    """Applies a function of a batch to `size` images at a time, inside one compiled loop.

    The images of one step are taken with a stride, so that the leading axis of each step stays
    sharded over devices as the batch is. The last step is filled up with repeated images, whose
    results are dropped.

    Args:
      function: maps a pytree of arrays [size, ...] to another.
      arrays: a pytree of arrays with one leading axis.
      size: images a step.

    Returns:
      The results for the whole batch, in order.
    """
    batch = jax.tree.leaves(arrays)[0].shape[0]
    steps = -(-batch // size)

    def split(array: Array) -> Array:
        index = jnp.minimum(jnp.arange(size * steps), batch - 1)
        return jnp.swapaxes(array[index].reshape(size, steps, *array.shape[1:]), 0, 1)

    def join(array: Array) -> Array:
        return jnp.swapaxes(array, 0, 1).reshape(size * steps, *array.shape[2:])[:batch]

    return jax.tree.map(join, jax.lax.map(function, jax.tree.map(split, arrays)))

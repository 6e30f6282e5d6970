"""Loops that keep a bounded number of model evaluations in flight, with the model once in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def per_step(batch: int, batch_size: int | None) -> int:
    """How many variants of each image fit in one step of `batch_size` evaluations."""
    return 1 if batch_size is None else max(1, batch_size // batch)


def step_size(count: int, chunk: int) -> int:
    """Indices a step, at most the chunk, such that the last step has the fewest left over."""
    return -(-count // -(-count // min(chunk, count)))


def fold(
    function: Callable[[Any, Int[Array, " chunk"], Bool[Array, " chunk"]], Any],
    start: Any,
    count: int,
    chunk: int,
) -> Any:
    """A state carried over all indices below `count`, `chunk` at a time, in one compiled loop.

    Memory is that of one call and one state, whatever the count. Every step has the same size, as
    nearly the chunk as divides the count with least left over; the last one's surplus indices are
    masked, so that the function is in the program once.

    Args:
      function: (state, indices, which of them count) -> state, of one structure and type.
      start: the first state.
      count: the number of indices, at least 1.
      chunk: most indices a step.

    Returns:
      The last state.
    """
    size = step_size(count, chunk)
    steps = -(-count // size)

    def step(state: Any, first: Array) -> tuple[Any, None]:
        index = first * size + jnp.arange(size)
        return function(state, jnp.minimum(index, count - 1), index < count), None

    return jax.lax.scan(step, start, jnp.arange(steps))[0]


def collect(function: Callable[[Int[Array, " chunk"]], Array], count: int, chunk: int) -> Array:
    """`function(indices)` for all indices below `count`, `chunk` at a time, side by side.

    Args:
      function: maps indices [chunk] to an array [batch, chunk].
      count: the number of indices, at least 1.
      chunk: most indices a call; surplus ones of the last call repeat the last index.

    Returns:
      An array [batch, count].
    """
    size = step_size(count, chunk)
    steps = -(-count // size)
    index = jnp.minimum(jnp.arange(steps * size), count - 1).reshape(steps, size)
    parts = jax.lax.map(function, index)
    return jnp.moveaxis(parts, 0, 1).reshape(parts.shape[1], steps * size)[:, :count]


def each(function: Callable[..., Any], *arrays: Array) -> Any:
    """`function` of each entry of the arrays' leading axis, for draws from many keys.

    On CPU one after another. Side by side, XLA writes the generator's rounds out for every key: a
    loop takes a fraction of the time to compile, less to run, and draws the same numbers.

    Args:
      function: maps one entry of each array to a pytree of arrays.
      *arrays: of as many entries.

    Returns:
      The results, stacked.
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(function)(*arrays)
    return jax.lax.map(lambda entries: function(*entries), arrays)


def over_images(function: Callable[[Any], Any], arrays: Any, size: int) -> Any:
    """Applies a function of a batch to `size` images at a time, inside one compiled loop.

    The images of one step are taken with a stride, so that the leading axis of each step stays
    sharded over devices as the batch is. A last step that is not full is filled up with repeated
    images, whose results are dropped.

    Args:
      function: maps a pytree of arrays [size, ...] to another.
      arrays: a pytree of arrays with one leading axis.
      size: most images a step.

    Returns:
      The results for the whole batch, in order.
    """
    batch = jax.tree.leaves(arrays)[0].shape[0]
    steps = -(-batch // size)
    missing = size * steps - batch

    def split(array: Array) -> Array:
        # Reshaped where it can be: a gather would bring the whole batch to every device.
        if missing:
            array = jnp.concatenate([array, jnp.repeat(array[-1:], missing, 0)])
        return jnp.swapaxes(array.reshape(size, steps, *array.shape[1:]), 0, 1)

    def join(array: Array) -> Array:
        return jnp.swapaxes(array, 0, 1).reshape(size * steps, *array.shape[2:])[:batch]

    return jax.tree.map(join, jax.lax.map(function, jax.tree.map(split, arrays)))

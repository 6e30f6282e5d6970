"""Loops that keep a bounded number of model evaluations in flight, with the model once in each."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

REPORTS = 100
"""About how often a loop says how far it is, where it is watched."""

_path: contextvars.ContextVar[tuple[int, ...] | None] = contextvars.ContextVar("path", default=None)
"""Steps of each loop around what is being traced; None where no loop is watched."""

_watches: list[Callable[[tuple[int, ...], int], None]] = []
"""Who is told by the compiled programs that run, on whatever thread: the last."""


@contextlib.contextmanager
def watched(report: Callable[[float], None]) -> Iterator[None]:
    """Has the loops of one computation say how far they are.

    The numbers are those of an unwatched computation, from another program, which tells the host
    about the loop's steps. JAX's persistent cache does not keep such programs: watch what is long.

    Args:
      report: takes the share that is surely done, in [0, 1]: 0 when the first step begins, never
        less than before, 1 at the end. It is called from threads of JAX's.
    """
    done: dict[int, int] = {}  # finished steps, by depth of the loop
    share = 0.0

    def tell(path: tuple[int, ...], step: int) -> None:
        nonlocal share
        if done.get(len(path)) != step:
            for deeper in [depth for depth in done if depth > len(path)]:
                del done[deeper]
        done[len(path)] = step
        within, parts = 0.0, 1
        for depth, steps in enumerate(path, 1):
            parts *= steps
            within += done.get(depth, 0) / parts
        share = max(share, within)
        report(share)

    _watches.append(tell)
    token = _path.set(())
    try:
        yield
        jax.effects_barrier()
        report(1.0)
    finally:
        _path.reset(token)
        _watches.remove(tell)


def watching() -> tuple[int, ...] | None:
    """What a trace depends on besides its arguments: the steps of the watched loops around it."""
    return _path.get()


def scan(step: Callable[[Any, Any], tuple[Any, Any]], start: Any, entries: Any, steps: int) -> Any:
    """`jax.lax.scan` of so many steps, which says how far it is where it is `watched`."""
    if _path.get() is None:
        return jax.lax.scan(step, start, entries, steps)

    def told(state: Any, numbered: tuple[Array, Any]) -> tuple[Any, Any]:
        number, entry = numbered
        with _step(number, steps):
            return step(state, entry)

    return jax.lax.scan(told, start, (jnp.arange(steps), entries))


def repeat_while(
    more: Callable[[Any], Array], step: Callable[[Any], Any], start: Any, most: int
) -> Any:
    """`jax.lax.while_loop` of at most so many steps, which says how far it is where `watched`."""
    if _path.get() is None:
        return jax.lax.while_loop(more, step, start)

    def told(numbered: tuple[Array, Any]) -> tuple[Array, Any]:
        number, state = numbered
        with _step(number, most):
            return number + 1, step(state)

    numbered = (jnp.asarray(0), start)
    return jax.lax.while_loop(lambda numbered: more(numbered[1]), told, numbered)[1]


@contextlib.contextmanager
def _step(number: Array, steps: int) -> Iterator[None]:
    """Around the trace of a step: says at run time that it begins."""
    path = (*(_path.get() or ()), steps)
    speaks = number % -(-steps // REPORTS) == 0
    for axis in jax.sharding.get_abstract_mesh().manual_axes:  # of several devices the first
        speaks &= jax.lax.axis_index(axis) == 0

    def say(number: Array) -> None:
        if _watches:
            _watches[-1](path, int(number))

    jax.lax.cond(speaks, lambda: jax.debug.callback(say, number), lambda: None)
    token = _path.set(path)
    try:
        yield
    finally:
        _path.reset(token)


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

    return scan(step, start, jnp.arange(steps), steps)[0]


def collect(function: Callable[[Int[Array, " chunk"]], Array], count: int, chunk: int) -> Array:
    """`function(indices)` for all indices below `count`, `chunk` at a time, side by side.

    Args:
      function: maps indices [chunk] to an array [batch, chunk, ...].
      count: the number of indices, at least 1.
      chunk: most indices a call; surplus ones of the last call repeat the last index.

    Returns:
      An array [batch, count, ...].
    """
    size = step_size(count, chunk)
    steps = -(-count // size)
    index = jnp.minimum(jnp.arange(steps * size), count - 1).reshape(steps, size)
    _, parts = scan(lambda _, index: (None, function(index)), None, index, steps)
    parts = jnp.moveaxis(parts, 0, 1)
    return parts.reshape(parts.shape[0], steps * size, *parts.shape[3:])[:, :count]


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

    parts = jax.tree.map(split, arrays)
    _, results = scan(lambda _, part: (None, function(part)), None, parts, steps)
    return jax.tree.map(join, results)

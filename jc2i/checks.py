"""Refusals: bad input is turned away before any tracing, naming the argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer as Tracer

Array = jax.Array | np.ndarray
"""What a public function accepts where it says array."""


LONGEST = 150
"""Characters of a value in a message: of a list of thousands its beginning says enough."""

CHOICES = 4000
"""Characters of each part of a message, which may list every weight of a file."""


class Refusal(ValueError):
    """A ValueError that already says which argument, what it got and what it takes."""


def invalid(argument: str, got: object, takes: str) -> Refusal:
    """The one form of a refusal: which argument, what it got, what it takes."""
    return Refusal(f"{argument}: got {_short(str(got), CHOICES)}, takes {_short(takes, CHOICES)}")


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 4].rstrip()} ..."


def require(condition: bool | np.bool_, argument: str, got: object, takes: str) -> None:
    """Raises the refusal unless the condition holds (for options, which are static)."""
    if not condition:
        raise invalid(argument, got, takes)


def native(value: Any) -> Any:
    """An array in the byte order of this machine, which is the only one that JAX takes."""
    swapped = isinstance(value, np.ndarray) and not value.dtype.isnative
    return value.astype(value.dtype.newbyteorder("=")) if swapped else value


def number(
    argument: str,
    got: Any,
    takes: str = "a number above 0",
    fits: Callable[[float], bool] = lambda number: 0 < number < math.inf,
) -> Any:
    """A real number that fits: Python's, NumPy's, an array of rank 0, or one being traced.

    Args:
      argument: what a refusal calls it.
      got: the number.
      takes: what the refusal says.
      fits: whether a number, which may be infinite or NaN, is in range; one that is traced is not
        asked about.

    Returns:
      The number as Python's, or the traced one as it is.

    Raises:
      ValueError: for anything else, truth values among it, and for numbers out of range.
    """
    item = item_of(got)
    if isinstance(item, Tracer):
        real = any(jnp.issubdtype(item.dtype, kind) for kind in (jnp.floating, jnp.integer))
        require(real and item.ndim == 0, argument, describe(got), takes)
        return item
    real = isinstance(item, int | float | np.floating) and not isinstance(item, bool)
    require(real and fits(_float(item)), argument, describe(got), takes)
    return _float(item)


def _float(real: Any) -> float:
    try:
        return float(real)
    except OverflowError:  # an integer, which has no bounds in Python
        return math.inf if real > 0 else -math.inf


def whole(argument: str, got: Any, takes: str = "a whole number above 0", least: int = 1) -> int:
    """A whole number of at least `least`: Python's, NumPy's or an array of rank 0."""
    item = item_of(got)
    fits = isinstance(item, int) and not isinstance(item, bool) and item >= least
    require(fits, argument, describe(got), takes)
    return item


def flag(argument: str, got: Any) -> bool:
    """A truth value: Python's, NumPy's or an array of rank 0."""
    item = item_of(got)
    require(isinstance(item, bool), argument, describe(got), "True or False")
    return item


def item_of(value: Any) -> Any:
    """What Python has for a NumPy scalar or an array of rank 0."""
    scalar = isinstance(value, np.generic | np.ndarray | jax.Array) and not np.ndim(value)
    if not scalar or isinstance(value, Tracer):
        return value
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return value if is_key else np.asarray(value).item()


def one_of(argument: str, got: object, choices: tuple[str, ...]) -> None:
    """Refuses a word that is none of the choices."""
    known = isinstance(got, str) and got in choices
    require(known, argument, describe(got), " or ".join(map(repr, choices)))


def positive(**options: Any) -> None:
    """Refuses options that are not plain numbers above zero, of which infinity is one."""
    for argument, got in options.items():
        _plain(argument, got, "a number above 0")
        number(argument, got, fits=lambda number: number > 0)


def count(**options: Any) -> None:
    """Refuses options that are not plain whole numbers above zero."""
    for argument, got in options.items():
        _plain(argument, got, "a whole number above 0")
        whole(argument, got)


def _plain(argument: str, got: Any, takes: str) -> None:
    # What is checked and kept as it came must be hashable.
    require(not isinstance(got, jax.Array | np.ndarray), argument, describe(got), takes)


def is_concrete(*values: object) -> bool:
    """Whether the values can be looked at (none is a tracer of jit, vmap or grad)."""
    return not any(isinstance(value, Tracer) for value in values)


def describe(value: Any) -> str:
    """An array as its dtype and shape, a long list as its length, anything else as itself."""
    if isinstance(value, np.generic):
        return repr(value.item())
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"a {type(value).__name__} of {len(value)} entries"
    return _short(repr(value), LONGEST)


def finite_batch(argument: str, value: Any, rank: int, axes: str) -> jax.Array:
    """A non-empty floating-point array of one rank whose values are all finite."""
    takes = f"floats[{axes}]"
    value = native(value)
    if not isinstance(value, jax.Array | np.ndarray):
        raise invalid(argument, describe(value), takes)
    if value.ndim != rank or not jnp.issubdtype(value.dtype, jnp.floating):
        hint = " in [0, 1] (integers / 255)" if argument == "images" else ""
        raise invalid(argument, describe(value), takes + hint)
    if value.size == 0:
        raise invalid(argument, f"an empty batch, {describe(value)}", takes + ", at least one")
    if is_concrete(value) and not all_finite(value):
        raise invalid(argument, f"NaN or infinity in {describe(value)}", "finite values")
    return jnp.asarray(value)


def all_finite(value: Any) -> bool:
    """Whether no value of a concrete array is NaN or infinite."""
    value = _at_hand(value)
    if isinstance(value, np.ndarray):
        return bool(np.isfinite(value).all()) if value.dtype.kind != "O" else False
    with jax.ensure_compile_time_eval():  # an array that a function under jit closes over
        return bool(_finite_on_device(value))


def _at_hand(value: Any) -> Any:
    """An array as NumPy's where that copies nothing, and so compiles nothing either."""
    here = isinstance(value, jax.Array) and value.is_fully_addressable
    on_cpu = here and all(device.platform == "cpu" for device in value.devices())
    return np.asarray(value) if on_cpu and len(value.devices()) == 1 else value


@jax.jit
def _finite_on_device(value: jax.Array) -> jax.Array:
    return jnp.isfinite(value).all()


def class_indices(
    argument: str, value: Any, batch: int, classes: int | None, batch_of: str = "images"
) -> jax.Array:
    """One class index for each row of the batch, each in [0, classes)."""
    takes = f"integers[batch], one for each of the {batch} {batch_of}"
    if isinstance(value, list | tuple) and all(isinstance(v, int | np.integer) for v in value):
        value = np.asarray(value)
    value = native(value)
    if (
        not isinstance(value, jax.Array | np.ndarray)
        or value.shape != (batch,)
        or not jnp.issubdtype(value.dtype, jnp.integer)
    ):
        raise invalid(argument, describe(value), takes)
    if classes is not None and is_concrete(value):
        with jax.ensure_compile_time_eval():
            # Where the array is: one that several processes share cannot be fetched.
            held = _at_hand(value)
            low, high = int(held.min()), int(held.max())
        if low < 0 or high >= classes:
            got = low if low < 0 else high
            raise invalid(argument, f"class {got}", f"classes 0 to {classes - 1}")
    return jnp.asarray(value)

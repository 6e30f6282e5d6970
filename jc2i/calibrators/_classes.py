"""What every calibrator's class is, and does with logits before it maps them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

from jc2i import checks
from jc2i.precision import own_promotion

Kind = TypeVar("Kind", bound=type)

ROUNDING = 1e-6

VALUES: dict[str, Callable[[np.ndarray], np.bool_]] = {
    "above 0": lambda values: (values > 0).all(),
    "below 1": lambda values: (values < 1).all(),
    "in [0, 1]": lambda values: ((values >= -ROUNDING) & (values <= 1 + ROUNDING)).all(),
    "not falling": lambda values: (np.diff(values, axis=-2) >= 0).all(),
}
"""What a leaf's values may have to be."""


def leaf(axes: str = "", values: str = "") -> Any:
    """A field of a calibrator.

    Args:
      axes: what the axes of one calibrator's leaf count, `"classes"` for example; `"edges+1"` is
        one more than `"edges"`.
      values: of `VALUES`, several with "and" between; none for any finite numbers.

    Returns:
      The field.
    """
    return dataclasses.field(metadata={"axes": tuple(axes.split()), "values": values})


@dataclass_transform(eq_default=False, frozen_default=True, field_specifiers=(leaf,))
def calibrator(kind: Kind) -> Kind:
    """Makes a calibrator of a class with leaves: frozen, a pytree, its values checked when made.

    Not when JAX makes one: of tracers, of gradients, or of what a function of its leaves returns.
    """
    checked: Any = dataclasses.dataclass(frozen=True, eq=False)(kind)
    names = tuple(field.name for field in dataclasses.fields(checked))

    def flatten(one: Any) -> tuple[tuple[Any, ...], None]:
        return tuple(getattr(one, name) for name in names), None

    def flatten_with_keys(one: Any) -> tuple[tuple[Any, ...], None]:
        return tuple((jax.tree_util.GetAttrKey(name), getattr(one, name)) for name in names), None

    def unflatten(_: None, leaves: Iterable[Any]) -> Any:
        made = object.__new__(checked)
        for name, value in zip(names, leaves, strict=True):
            object.__setattr__(made, name, value)
        return made

    jax.tree_util.register_pytree_with_keys(checked, flatten_with_keys, unflatten, flatten)
    return checked


def require_sound(one: Any) -> None:
    """Refuses leaves that are no calibrator's, alone or stacked; what is traced is not looked at.

    Raises:
      ValueError: naming the leaf.
    """
    sizes: dict[str, int] = {}
    for field in dataclasses.fields(one):
        axes, values = field.metadata["axes"], field.metadata["values"]
        takes = f"finite numbers[{', '.join(axes)}]" if axes else "a finite number"
        given = getattr(one, field.name)
        if checks.is_concrete(given):
            # Of lists there is no dtype, and no gradient.
            is_array = isinstance(given, jax.Array | np.ndarray | np.generic | int | float)
            checks.require(is_array, field.name, checks.describe(given), takes)
            if isinstance(given, np.ndarray | np.generic):
                native = checks.native(np.asarray(given))
                if native.dtype != given.dtype:
                    object.__setattr__(one, field.name, native)
            # What NumPy's float64 holds may be infinite where it is computed with.
            dtype = jax.dtypes.canonicalize_dtype(float)
            given = np.asarray(checks.finite_numbers(field.name, given, takes, dtype))
            checks.require(given.ndim >= len(axes), field.name, _shown(given), takes)
            for rule in filter(None, values.split(" and ")):
                checks.require(VALUES[rule](given), field.name, _shown(given), f"{takes} {rule}")
        shape = np.shape(given)
        checks.require(len(shape) >= len(axes), field.name, _shown(given), takes)
        for axis, side in zip(reversed(axes), reversed(shape), strict=False):
            name, _, more = axis.partition("+")
            side -= int(more or 0)
            fits = sizes.setdefault(name, side) == side
            alike = f"{takes}, of {sizes[name] + int(more or 0)} {name}"
            checks.require(fits, field.name, f"{list(shape)}", alike)


def _shown(values: Any) -> str:
    few = isinstance(values, np.ndarray) and values.size == 1
    return f"{values.item():g}" if few else checks.describe(values)


def apply(calibrator: Any, logits: Any, function: Callable) -> jax.Array:
    """The map of one calibrator, in float32 at least, whatever the dtypes of logits and leaves.

    Args:
      calibrator: whose leaves to take.
      logits: scores[..., classes].
      function: (logits, *leaves) -> calibrated logits.

    Returns:
      The calibrated logits.

    Raises:
      ValueError: for logits that are none, naming both numbers of classes, or the leaf that is
        stacked outside `vmap`.
    """
    logits = read(logits)
    axes = {field.name: field.metadata["axes"] for field in dataclasses.fields(calibrator)}
    _require_fits(calibrator, logits, axes)
    leaves = [getattr(calibrator, leaf) for leaf in axes]
    # A Python number has no dtype of its own.
    arrays = [logits, *(jnp.asarray(leaf) for leaf in leaves if hasattr(leaf, "dtype"))]
    wide = any(array.dtype == jnp.float64 for array in arrays)
    dtype = jnp.float64 if wide else jnp.float32
    with own_promotion():
        return function(logits.astype(dtype), *(jnp.asarray(leaf, dtype) for leaf in leaves))


def read(logits: Any) -> jax.Array:
    """The logits that a calibrator is called on."""
    takes = "floats[..., classes]"
    logits = checks.array("logits", logits, takes)
    checks.require(logits.ndim > 0, "logits", checks.describe(logits), takes)
    return jnp.asarray(checks.held("logits", logits))


def _require_fits(calibrator: Any, logits: jax.Array, axes: Mapping[str, tuple[str, ...]]) -> None:
    name = type(calibrator).__name__
    for leaf, counted in axes.items():
        shape = jnp.shape(getattr(calibrator, leaf))
        if len(shape) != len(counted):
            takes = f"rank {len(counted)}, one {name} (several, stacked, are for jax.vmap)"
            raise checks.invalid(leaf, f"shape {list(shape)}", takes)
        if shape and logits.shape[-1:] != shape[-1:]:
            takes = f"the {shape[-1]} classes that this {name} was fitted for"
            raise checks.invalid("logits", f"{logits.shape[-1]} classes", takes)

"""A mesh of devices, and arrays that are split over it or copied to each of its devices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jc2i import checks, pytrees

AXIS = "batch"


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over devices, along which batches are split.

    Args:
      devices: the devices; None for all of them, on every host.

    Returns:
      A mesh with the one axis `"batch"`.

    Raises:
      ValueError: if there are no devices.
    """
    takes = "a list of different devices, at least one, or None"
    got = checks.describe(devices)
    checks.require(devices is None or checks.is_several(devices), "devices", got, takes)
    devices = jax.devices() if devices is None else list(devices)
    fits = all(isinstance(device, jax.Device) for device in devices)
    fits = fits and 0 < len(devices) == len(set(devices))
    checks.require(fits, "devices", got, takes)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def shard(arrays: Any, mesh: Mesh) -> Any:
    """Splits the leading axis of each array over the devices of a mesh.

    Every process passes the whole batch and keeps the part of its own devices.

    Args:
      arrays: a pytree of arrays whose leading axis the mesh's size divides.
      mesh: the mesh, from `mesh()`.

    Returns:
      The same arrays, sharded.

    Raises:
      ValueError: if the mesh's size does not divide a leading axis.
    """
    sharding = NamedSharding(one_dimensional(mesh), PartitionSpec(AXIS))

    def place(array: Any) -> jax.Array:
        takes = f"arrays whose leading axis is a multiple of the mesh's {mesh.size} devices"
        is_array = checks.is_array(array) and array.ndim > 0
        checks.require(is_array, "arrays", checks.describe(array), takes)
        checks.require_concrete("arrays", array, takes)
        if isinstance(array, np.ndarray):
            array = checks.held("arrays", checks.array("arrays", array, takes, of=checks.REAL))
        if array.shape[0] % mesh.size or not array.shape[0]:
            raise checks.invalid("arrays", f"a leading axis of {array.shape[0]}", takes)
        if not jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = np.asarray(array)
            return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])
        return jax.random.wrap_key_data(
            place(jax.random.key_data(array)), impl=jax.random.key_impl(array)
        )

    leaves, structure = pytrees.flattened("arrays", arrays)
    return jax.tree.unflatten(structure, map(place, leaves))


def replicate(arrays: Any, mesh: Mesh) -> Any:
    """Puts a whole copy of each array (a model's weights, say) on every device of a mesh.

    Args:
      arrays: a pytree of arrays, a model for example. Leaves that are no arrays stay as they are.
      mesh: the mesh, from `mesh()`.

    Returns:
      The same pytree, replicated.
    """
    everywhere = NamedSharding(one_dimensional(mesh), PartitionSpec())

    def place(leaf: Any) -> Any:
        is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
        held = is_array and checks.holds(leaf, *_HELD)
        return jax.device_put(leaf, everywhere) if held else leaf

    leaves, structure = pytrees.flattened("arrays", arrays)
    return jax.tree.unflatten(structure, map(place, leaves))


_HELD = (jnp.number, jnp.bool_, jax.dtypes.prng_key)
"""What a device holds."""


def one_dimensional(mesh: Any) -> Mesh:
    """A mesh of `mesh()`, or of the same one axis; anything else is refused.

    Args:
      mesh: what a user gave as one.

    Returns:
      The mesh.

    Raises:
      ValueError: for anything else.
    """
    fits = isinstance(mesh, Mesh) and mesh.axis_names == (AXIS,)
    got = f"one of the axes {mesh.axis_names}" if isinstance(mesh, Mesh) else checks.describe(mesh)
    takes = f"a mesh of the one axis {AXIS!r}, as jc2i.parallel.mesh gives"
    checks.require(fits, "mesh", got, takes)
    return mesh


def part(mesh: Mesh, count: int) -> Mesh:
    """A mesh of the first devices of another."""
    return jax.make_mesh(
        (count,), (AXIS,), axis_types=(AxisType.Auto,), devices=list(mesh.devices.flat)[:count]
    )


def mesh_and_axis(array: Any) -> tuple[Mesh | None, str | None]:
    """The mesh over whose devices an array's leading axis is split, and the mesh's axis.

    Args:
      array: any array; one that is traced or not split has neither. A mesh of one device counts:
        its program is the one of each of several.

    Returns:
      The mesh and the name of its axis, or None and None.
    """
    traced = isinstance(array, checks.Tracer)
    sharding = None if traced else getattr(array, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
        return None, None
    axis = sharding.spec[0] if len(sharding.spec) else None
    return (sharding.mesh, axis) if isinstance(axis, str) else (None, None)


def by_device(function: Callable[..., Any], mesh: Mesh, axis: str, split: Any, *shared: Any) -> Any:
    """`function(split, *shared)`, each device on its own part of `split`, within a compiled one.

    Each runs the program of its own part, the same however many devices there are.

    Args:
      function: returns a pytree of arrays with the leading axis of those that are split.
      mesh: the devices.
      axis: the mesh's axis.
      split: a pytree of arrays with one leading axis, which the devices share out.
      *shared: pytrees that each device has whole.

    Returns:
      What the function returns, split likewise.
    """
    here, everywhere = PartitionSpec(axis), PartitionSpec()
    specs = (here, *[everywhere] * len(shared))
    # Without the check of replication: it would sum over the devices the gradients of what each
    # makes for itself, such as the variables of an optimised explainer.
    local = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=here, check_vma=False)
    return local(split, *shared)


def on_each_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a function of a model and a batch so that each device runs it on its own part.

    So the compiled shape, and with it every bit of a result, is that of one device alone, and no
    device waits for another.

    Args:
      function: `function(model, *batch)`, a pytree of arrays and arrays with one leading axis,
        returning a pytree of arrays with that axis; each item's result is its own.

    Returns:
      The compiled function; a batch that is not sharded is computed where it is.
    """
    checks.require(callable(function), "function", checks.describe(function), "a function")

    @functools.partial(jax.jit, static_argnums=0)
    def compiled(mesh: Mesh | None, model: Any, *batch: checks.Array) -> Any:
        if mesh is None:
            return function(model, *batch)
        return by_device(lambda part, model: function(model, *part), mesh, AXIS, batch, model)

    def call(model: Any, *batch: checks.Array) -> Any:
        mesh, _ = mesh_and_axis(batch[0])
        return compiled(mesh if mesh and mesh.size > 1 else None, model, *batch)

    return call

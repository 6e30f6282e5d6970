"""What every function that queries a model does with its arguments before it computes.

`public` turns a pure function `(model, images, targets, ..., *, key, batch_size, **options)` into
one that refuses bad input, gives each image its own key, compiles once for each structure of its
arguments, and bounds the number of model evaluations in flight.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jc2i import checks, removal, scores, streaming

BY_IMAGE = ("images", "targets", "maps", "segments", "key", "baseline")
"""Arguments that may hold one entry for each image."""


def public(function: Callable | None = None, *, stochastic: bool = False) -> Callable:
    """Decorates a function that queries a model: checks, per-image keys, compilation, chunks.

    Arguments are known by name: `model`, `images`, `targets`, `maps`, `segments`, `key`,
    `batch_size`. Arrays are traced; every other option is static, so each of its values compiles
    once. Leaves of the model are traced always: new weights or temperatures never recompile.

    Args:
      function: the pure function; its `key` arrives as one key for each image.
      stochastic: whether a missing `key` is refused.

    Returns:
      The function with the same signature and documentation.
    """
    if function is None:
        return functools.partial(public, stochastic=stochastic)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        bound = signature.bind(*arguments, **options)
        values = dict(bound.arguments)
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                values.update(values.pop(name, {}))
        return _call(function, _checked(values, stochastic))

    return wrapper


def _checked(values: dict[str, Any], stochastic: bool) -> dict[str, Any]:
    values = dict(values)
    values["model"] = model = scores.as_pytree(values["model"])
    images = checks.finite_batch("images", values["images"], 4, "batch, height, width, channel")
    values["images"] = images
    batch, height, width, _ = images.shape
    concrete = checks.is_concrete(images, *jax.tree.leaves(model), values["targets"])
    classes = checks.score_shape(model, images)[1] if concrete else None
    values["targets"] = checks.class_indices("targets", values["targets"], batch, classes)
    for name in ("maps", "segments"):
        if name in values:
            values[name] = _as_map(name, values[name], (batch, height, width))
    if values.get("key") is not None:
        values["key"] = image_keys(values["key"], batch)
    elif stochastic:
        raise checks.invalid("key", None, "a jax.random.key, or one for each image")
    if "baseline" in values:
        removal.check(values["baseline"], images.shape)
    if values.get("batch_size") is not None:
        checks.count(batch_size=values["batch_size"])
    return values


def _as_map(name: str, value: Any, shape: tuple[int, int, int]) -> jax.Array:
    if not isinstance(value, jax.Array | np.ndarray) or value.shape != shape:
        takes = f"an array[batch, height, width] of the images' {list(shape)}"
        raise checks.invalid(name, checks.describe(value), takes)
    return jnp.asarray(value)


def image_keys(key: Any, batch: int) -> Key[Array, " batch"]:
    """One key for each image: `fold_in(key, i)` from one key, or the keys themselves.

    Args:
      key: a key of `jax.random.key` (or a raw one of `jax.random.PRNGKey`), or one an image.
      batch: the number of images.

    Returns:
      Typed keys, one for each image.

    Raises:
      ValueError: if it is no key, or there are as many keys as no batch has.
    """
    takes = f"a jax.random.key, or one for each of the {batch} images"
    if not isinstance(key, jax.Array | np.ndarray):
        raise checks.invalid("key", repr(key), takes)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.dtype != jnp.uint32 or key.ndim not in (1, 2) or key.shape[-1] != 2:
            raise checks.invalid("key", checks.describe(key), takes)
        key = jax.random.wrap_key_data(jnp.asarray(key))
    if key.ndim == 0:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise checks.invalid("key", f"{list(key.shape)} keys", takes)
    return jnp.asarray(key)


def _call(function: Callable, values: dict[str, Any]) -> Any:
    dynamic, static = {}, []
    for name, value in values.items():
        if name == "model" or _all_arrays(value):
            dynamic[name] = value
        elif isinstance(value, tuple | list) and any(map(_is_array, value)):
            dynamic[name] = {i: entry for i, entry in enumerate(value) if _is_array(entry)}
            words = tuple(None if _is_array(entry) else entry for entry in value)
            static.append((name, _hashable(name, words)))
        else:
            static.append((name, _hashable(name, value)))
    return _compiled(function, tuple(static), dynamic)


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray)


def _all_arrays(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(map(_is_array, leaves))


def _hashable(name: str, value: Any) -> Any:
    value = tuple(value) if isinstance(value, list) else value
    try:
        hash(value)
    except TypeError:
        raise checks.invalid(name, repr(value), "an array, or a hashable option") from None
    return value


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(function: Callable, static: tuple, dynamic: dict[str, Any]) -> Any:
    options = dict(static)
    for name, value in dynamic.items():
        if name in options:  # a tuple of arrays and words
            value = tuple(value.get(i, word) for i, word in enumerate(options[name]))
        options[name] = value
    batch = options["images"].shape[0]
    size = options.get("batch_size")
    if size is None or batch <= size:
        return function(**options)
    by_image = {n: options.pop(n) for n in BY_IMAGE if _is_by_image(n, options.get(n), batch)}
    return streaming.over_images(lambda part: function(**options, **part), by_image, size)


def _is_by_image(name: str, value: Any, batch: int) -> bool:
    if not hasattr(value, "shape") or value.ndim == 0 or value.shape[0] != batch:
        return False
    return name != "baseline" or value.ndim == 4

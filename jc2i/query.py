"""Everything that queries a model goes through here: checks, keys, precision, compilation, chunks.

`explainer` and `metric` decorate a pure function `(model, images, targets, ..., *, key, batch_size,
**options)` and give one that refuses bad input by name, gives each image its own key, computes in
float32 at least, prepares the model for its backend, compiles once for each structure of its
arguments, keeps to one device's part where the images lie on several, and bounds the number of
model evaluations in flight. What others need to know of a method (`method_of`) is said where it is
defined: the command line, the experiments, the benchmarks, the tests and the docs read it there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key

from jc2i import checks, pytrees, scores, streaming, tracing
from jc2i.options import Anything, Fill, Maybe, Whole, kinds
from jc2i.parallel.mesh import by_device, mesh_and_axis
from jc2i.precision import full_precision

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Cost(NamedTuple):
    """Model evaluations for each image.

    Attributes:
      forward: forward passes.
      gradient: gradients by the image or by a mask of it.
      forward_a_feature: forward passes for each feature of the layer.
      behind_a_feature: passes of the part behind the layer for each of its features.
    """

    forward: int | float = 0
    gradient: int | float = 0
    forward_a_feature: int = 0
    behind_a_feature: int = 0


CostOf = Callable[[tuple[int, ...], Mapping[str, Any]], Cost]
"""The images' shape and the options by name -> the cost."""


@dataclasses.dataclass(frozen=True)
class Method:
    """What others need to know of a method.

    Attributes:
      name: what it is called.
      role: `"explainer"` or `"metric"`.
      function: the function that was decorated.
      parameters: its options by name, with their defaults.
      kinds: what each option takes (`jc2i.options`).
      stochastic: whether it needs a key.
      depends_on_scores: whether which images it asks the model about depends on the scores. Where
        it does not, one run serves every calibration of a model.
      cost_of: see `cost`.
      takes_batch_size: whether the function keeps to `batch_size` itself, within a batch.
    """

    name: str
    role: str
    function: Callable
    parameters: Mapping[str, Any]
    kinds: Mapping[str, Any]
    stochastic: bool
    depends_on_scores: bool
    cost_of: CostOf
    takes_batch_size: bool

    def cost(self, shape: tuple[int, ...], **options: Any) -> Cost:
        """Model evaluations for each image.

        Args:
          shape: the images' [batch, height, width, channel].
          **options: the method's options; its defaults for those left out.

        Returns:
          The cost.
        """
        return self.cost_of(shape, {**self.parameters, **options})


Decorator = Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]


def explainer(
    *,
    cost: CostOf,
    stochastic: bool = False,
    depends_on_scores: bool = True,
    **options: Any,
) -> Decorator[Parameters, Result]:
    """Makes an explainer of a pure function `(model, images, targets, *, ...) -> maps`.

    The function sees images in float32 at least, one key for each image, numbers with a point as
    arrays, and a model that it may call on any number of images. It need not name `key` and
    `batch_size`: those that it leaves out are accepted and looked after.

    Args:
      cost: the images' shape and the options -> `Cost`.
      stochastic: whether a missing `key` is refused.
      depends_on_scores: whether the images that the model is asked about depend on its scores.
      **options: what an option takes (`jc2i.options`), where its default does not say it: a truth
        value, a whole number above 0, a finite number or a word.

    Returns:
      The decorator; the function keeps its signature and documentation.
    """
    return _decorator("explainer", cost, stochastic, depends_on_scores, options)


def metric(
    *,
    cost: CostOf,
    stochastic: bool = False,
    depends_on_scores: bool = True,
    **options: Any,
) -> Decorator[Parameters, Result]:
    """Makes a metric of a pure function that queries a model: one value or curve an image.

    As `explainer`. An argument with one entry for each image is declared: `maps=options.Maps()`,
    `boxes=options.PerImage(rank=2)`; so is an argument `explainer`, which may be a method.
    """
    return _decorator("metric", cost, stochastic, depends_on_scores, options)


def _decorator(
    role: str, cost: CostOf, stochastic: bool, depends_on_scores: bool, given: Mapping[str, Any]
) -> Any:
    checks.require(callable(cost), "cost", checks.describe(cost), "a function (shape, options)")
    stochastic = checks.flag("stochastic", stochastic)
    depends_on_scores = checks.flag("depends_on_scores", depends_on_scores)
    for name, kind in given.items():
        fits = callable(getattr(kind, "read", None)) and not isinstance(kind, type)
        checks.require(fits, name, checks.describe(kind), "what an option takes, of jc2i.options")

    def decorate(function: Callable) -> Callable:
        signature = _extended(inspect.signature(function))
        known = ", ".join(signature.parameters)
        for name in given:
            takes = f"an option of {function.__name__}: {known}"
            checks.require(name in signature.parameters, name, "a kind", takes)
        method = Method(
            function.__name__,
            role,
            function,
            {
                name: parameter.default
                for name, parameter in signature.parameters.items()
                if parameter.default is not inspect.Parameter.empty
            },
            kinds(signature, given),
            stochastic,
            depends_on_scores,
            cost,
            "batch_size" in inspect.signature(function).parameters,
        )

        @functools.wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            bound = checks.bind(method.name, signature, arguments, options)
            values = dict(bound.arguments)
            for name, parameter in signature.parameters.items():
                if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                    values.update(values.pop(name))
            # A strict user's model too: images may be wider than its weights.
            with full_precision(), jax.numpy_dtype_promotion("standard"):
                return _run(method, values)

        setattr(wrapper, "__signature__", signature)  # noqa: B010 (types know no such attribute)
        setattr(wrapper, "method", method)  # noqa: B010
        return wrapper

    return decorate


def _extended(signature: inspect.Signature) -> inspect.Signature:
    """The signature with `key` and `batch_size`, which a function may leave out."""
    parameters = list(signature.parameters.values())
    rest = [p for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD]
    named = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for name in ("key", "batch_size"):
        if name not in signature.parameters:
            kind = inspect.Parameter.KEYWORD_ONLY
            named.append(inspect.Parameter(name, kind, default=None, annotation=Any))
    return signature.replace(parameters=[*named, *rest])


def method_of(function: Any) -> Method:
    """What is known of an explainer or metric, also of one with some options fixed.

    Args:
      function: a decorated function, or a `functools.partial` of one.

    Returns:
      Its metadata.

    Raises:
      ValueError: if it is not decorated.
    """
    found = known_method(function) if callable(function) else None
    if found is None:
        takes = "a function decorated with jc2i.query.explainer or jc2i.query.metric"
        raise checks.invalid("function", checks.describe(function), takes)
    return found


def known_method(function: Any) -> Method | None:
    """What is known of a method, also of one with some options fixed; None of another function."""
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, Explained):
        return known_method(function.explainer)
    if isinstance(function, pytrees.Partial | pytrees.PlainFunction):
        return known_method(function.function)
    found = getattr(function, "method", None)
    return found if isinstance(found, Method) else None  # another's attribute of that name


def methods(namespace: types.ModuleType) -> dict[str, Callable]:
    """The methods that a namespace exports (`jc2i.explainers`, `jc2i.metrics`), by name, sorted.

    Args:
      namespace: the module.

    Returns:
      The decorated functions.

    Raises:
      ValueError: if it is no module.
    """
    is_module = isinstance(namespace, types.ModuleType)
    checks.require(is_module, "namespace", checks.describe(namespace), "a module")
    return {
        name: value
        for name, value in sorted(vars(namespace).items())
        if isinstance(getattr(value, "method", None), Method)
    }


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
    key = _typed_keys(key, checks.whole("batch", batch, least=0, most=checks.MOST))
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch)) if key.ndim == 0 else key


def _typed_keys(key: Any, batch: int) -> Array:
    takes = f"a jax.random.key, or one for each of the {batch} images"
    keys = checks.key_array("key", key, takes)
    checks.require(keys.shape in ((), (batch,)), "key", f"{list(keys.shape)} keys", takes)
    return keys


def _run(method: Method, values: dict[str, Any]) -> Any:
    # A metric hands its own prepared model on to an explainer, which prepares it itself.
    model = tracing.as_written(values.pop("model"))
    model = pytrees.as_pytree("model", model, scores.MODEL)
    images = checks.images("images", values.pop("images"))
    batch = images.shape[0]
    wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    targets, key = values.pop("targets"), values.pop("key")
    by_image: dict[str, Any] = {}
    checks.require(not (method.stochastic and key is None), "key", None, _KEY)
    if key is not None:
        key = _typed_keys(key, batch)
        # Another method's key changes nothing, and compiles nothing anew.
        if method.stochastic or "explainer" in values:
            by_image["key"] = key
    size = BATCH_SIZE.read("batch_size", values.pop("batch_size"), images)
    arrays, rests, inner = {}, {}, None
    if "explainer" in values:
        explain = values.pop("explainer")
        takes = "an explainer function"
        checks.require(callable(explain), "explainer", checks.describe(explain), takes)
        inner = known_method(explain)
        _refuse_unknown(values, method, inner)
        if inner is not None:
            explain, fixed = _apart(explain, inner, wide)
            by_image |= {_FIXED: fixed} if fixed else {}
        explain = pytrees.as_pytree("explainer", explain, takes)
        arrays["explainer"], rests["explainer"] = pytrees.split(explain)
    arguments: dict[str, Any] = {}
    words = []
    for name, value in values.items():
        kind = method.kinds.get(name) or (inner.kinds.get(name) if inner else None) or Anything()
        value = kind.read(name, value, wide)
        if not isinstance(value, jax.Array | np.ndarray):
            words.append((name, value))
        elif _is_by_image(kind, value):
            by_image[name] = value
        else:
            arguments[name] = value
    options = {**method.parameters, **dict(words), **arguments}
    mesh, axis = mesh_and_axis(images)
    local = batch if mesh is None else batch // mesh.size
    cost = method.cost_of(images.shape, options)
    # No more in flight than there are: two options that mean the same are one program.
    by_feature = cost.forward_a_feature or cost.behind_a_feature
    evaluations = max(1, cost.forward, cost.gradient)
    largest = math.inf if by_feature else local * evaluations
    in_flight = local if size is None else int(min(size, largest))
    rows = min(local, in_flight)
    if method.takes_batch_size and method.role == "explainer" and in_flight > local:
        rows = local * streaming.step_size(int(evaluations), streaming.per_step(local, in_flight))
    with _no_program(method):
        model, classes = _fitting(model, images, rows)
    arrays["model"], rests["model"] = pytrees.split(model)
    gone = any(isinstance(x, jax.Array) and not checks.is_array(x) for x in arrays["model"])
    checks.require(not gone, "model", "one with weights that are deleted", scores.MODEL)
    known = classes if checks.is_concrete(images, targets, *arrays["model"]) else None
    by_image |= {
        "images": wide,
        "targets": checks.class_indices("targets", targets, batch, known),
    }
    call = _Call(
        method.function,
        tuple(words),
        tuple(rests.items()),
        in_flight,
        method.takes_batch_size,
        streaming.watching(),
    )
    with _no_program(method):
        return _compiled(call, mesh, axis, by_image, arguments, arrays)


@contextlib.contextmanager
def _no_program(method: Method) -> Iterator[None]:
    """Around the making of a method's program, which may need what the model has not: a gradient.

    Raises:
      ValueError: for what JAX raises of a model that it cannot trace, or not differentiate.
    """
    try:
        yield
    except checks.Refusal:
        raise
    except (TypeError, ValueError, NotImplementedError) as error:
        got = f"one of which {method.name} makes no program ({type(error).__name__}: {error})"
        takes = "a function that JAX can trace, and differentiate where the method does"
        raise checks.invalid("model", got, takes) from error


_KEY = "a jax.random.key, or one for each image"

BATCH_SIZE = Maybe(Whole(most=2**31 - 1))
"""What `batch_size` takes: no more evaluations are in flight than there are."""


def _refuse_unknown(values: Mapping[str, Any], method: Method, inner: Method | None) -> None:
    """Refuses options that neither a metric nor the explainer that it takes has."""
    if inner is None:  # a plain function says so itself
        return
    takes = f"an option of {inner.name}: {', '.join(inner.kinds) or 'it has none'}"
    for name, value in values.items():
        known = name in method.kinds or name in inner.kinds
        checks.require(known, name, checks.describe(value), takes)


def _is_by_image(kind: Any, value: Any) -> bool:
    """Whether an array has one entry for each image, rather than one for all."""
    if isinstance(kind, Fill):  # an array of rank 4 was read: one image for each
        return value.ndim == 4 and value.shape[0] > 1
    return getattr(kind, "by_image", False)


_FIXED = "explainer's own"
"""Under which the options of an explainer are that are fixed and have one entry an image."""


def _apart(explainer: Any, method: Method, images: checks.Array) -> tuple[Any, dict[str, Any]]:
    """An explainer, and what `functools.partial` fixed of it that has one entry an image."""
    fixed: dict[str, Any] = {}
    if not isinstance(explainer, functools.partial):
        return explainer, fixed
    for name, value in explainer.keywords.items():
        kind = method.kinds.get(name)
        if checks.is_array(value) and kind is not None:
            read = kind.read(name, value, images)
            if isinstance(read, jax.Array | np.ndarray) and _is_by_image(kind, read):
                fixed[name] = read
    rest = {name: v for name, v in explainer.keywords.items() if name not in fixed}
    return functools.partial(explainer.func, *explainer.args, **rest), fixed


def _fitting(model: Any, images: Array, rows: int) -> tuple[Any, int]:
    """A model that takes the widened images, and the number of its classes.

    Sums and noise in half precision stall, so images are widened. A model that does not take the
    wide type is given what it takes: the type of the images that came, or float32.

    Args:
      model: a callable pytree.
      images: the images as they came.
      rows: how many of them the model will be called on at once, as far as is known: its trace
        serves the method's program where it is right.
    """
    wide = jnp.promote_types(images.dtype, jnp.float32)
    refused: list[checks.Refusal] = []
    for count in dict.fromkeys((rows, images.shape[0])):
        first, refused = refused[:1], []
        for dtype in dict.fromkeys((wide, images.dtype, jnp.dtype(jnp.float32))):
            try:
                shape = _score_shape(model, jax.ShapeDtypeStruct((count, *images.shape[1:]), dtype))
            except checks.Refusal as refusal:
                refused.append(refusal)
                continue
            if count != rows:
                raise _of_one_size(jax.ShapeDtypeStruct((rows, *images.shape[1:]), dtype), first[0])
            return model if dtype == wide else scores.InType(model, dtype), shape[1]
    raise refused[0]


def _of_one_size(images: Any, refusal: checks.Refusal) -> checks.Refusal:
    """The refusal of a model that takes the images that came, and not those it is asked about."""
    got = f"one that refuses {checks.describe(images)} ({refusal})"
    return checks.invalid("model", got, "a callable of any number of images")


def _score_shape(model: Any, images: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    """The shape of a model's scores, found without running it.

    Raises:
      ValueError: if the model refuses such images, or returns anything but [batch, classes] of two
        classes at least.
    """
    leaves, rest = pytrees.split(model)
    return jax.eval_shape(functools.partial(_scores, rest), leaves, images).shape


@functools.partial(jax.jit, static_argnums=0)
def _scores(rest: pytrees.Rest, leaves: list[Any], images: Any) -> Any:
    # jit keeps the trace for each structure and shape: the check and the program share one.
    model = pytrees.join(leaves, rest)
    with pytrees.at_fault("model", images):
        return scores.several(scores.of_model(model, images))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Traced:
    """A model taken apart, which is traced once for all that call it on images of one shape."""

    leaves: list[Any]
    rest: pytrees.Rest = dataclasses.field(metadata={"static": True})

    def __call__(self, images: Any) -> Any:
        try:
            return _scores(self.rest, self.leaves, images)
        except checks.Refusal as refusal:
            raise _of_one_size(images, refusal) from refusal


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Explained:
    """An explainer whose maps are refused in its own name where they are none.

    Attributes:
      explainer: the function.
      fixed: options that it is called with, if not with others, that have one entry an image.
    """

    explainer: Any
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, model: Any, images: Any, targets: Any, **options: Any) -> Any:
        with pytrees.at_fault("explainer", images):
            maps = self.explainer(model, images, targets, **{**self.fixed, **options})
        got = f"one that returns {checks.describe(maps)}"
        takes = f"one that returns maps[batch, height, width], for {checks.describe(images)}"
        is_array = isinstance(maps, jax.Array | np.ndarray) and maps.ndim > 2
        checks.require(is_array, "explainer", got, takes)
        fits = jnp.issubdtype(maps.dtype, jnp.floating) and maps.shape[0] == images.shape[0]
        checks.require(fits and maps.size > 0, "explainer", got, takes)
        return jnp.asarray(maps)

    def of_several(
        self, times: int, options: Mapping[str, Any]
    ) -> tuple[Explained, dict[str, Any]]:
        """The explainer of several variants of each image, side by side, and its options.

        Args:
          times: variants of each image.
          options: what a metric hands on to it.

        Returns:
          Both; of the options that have one entry an image, each as many times.
        """
        known = known_method(self)
        kinds = known.kinds if known else {}

        def several(options: Mapping[str, Any]) -> dict[str, Any]:
            arrays = {n: v for n, v in options.items() if isinstance(v, jax.Array | np.ndarray)}
            return dict(options) | {
                name: jnp.repeat(array, times, axis=0)
                for name, array in arrays.items()
                if _is_by_image(kinds.get(name), array)
            }

        return dataclasses.replace(self, fixed=several(self.fixed)), several(options)


@dataclasses.dataclass(frozen=True)
class _Call:
    """What is static in a call: two equal ones are one program."""

    function: Callable
    words: tuple[tuple[str, Any], ...]
    trees: tuple[tuple[str, pytrees.Rest], ...]
    batch_size: int
    takes_batch_size: bool
    watching: tuple[int, ...] | None

    def __call__(self, by_image: Any, arguments: Any, arrays: Any) -> Any:
        trees = {n: pytrees.join(arrays[n], rest) for n, rest in self.trees if n != "model"}
        model = _Traced(arrays["model"], dict(self.trees)["model"])
        trees["model"] = tracing.prepared(model)
        options = {**trees, **dict(self.words), **arguments}
        if self.takes_batch_size:
            options["batch_size"] = self.batch_size

        def run(part: Any) -> Any:
            own = dict(part)
            fixed = own.pop(_FIXED, {})
            if "explainer" in options:
                own["explainer"] = Explained(options["explainer"], fixed)
            return self.function(**{**options, **own})

        if by_image["images"].shape[0] <= self.batch_size:
            return run(by_image)
        return streaming.over_images(run, by_image, self.batch_size)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(
    call: _Call, mesh: Mesh | None, axis: str | None, by_image: Any, arguments: Any, arrays: Any
) -> Any:
    if "key" in by_image:
        by_image = {**by_image, "key": image_keys(by_image["key"], by_image["images"].shape[0])}
    if mesh is None or axis is None:
        return call(by_image, arguments, arrays)
    return by_device(call, mesh, axis, by_image, arguments, arrays)

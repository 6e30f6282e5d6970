"""Whether maps depend on what the model has learned: on its weights, and on the labels."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, pytrees, scores
from jc2i.query import Explained, known_method
from jc2i.tracing import as_written
from jc2i.tracing.interpreter import bodies, trace

Similarity = Callable[[Array, Array], Array]
"""Of two maps[batch, height, width], one value an image: `jc2i.metrics.spearman`, for instance."""


class RandomizedMaps(NamedTuple):
    """The maps of a model, and of its copies with random weights.

    Attributes:
      layers: the layers' names, in the order in which they were randomised: from the top, the one
        nearest to the scores, down.
      maps: of the model itself at 0, and of the copy that ends at `layers[k]` at k + 1.
    """

    layers: tuple[str, ...]
    maps: Float[Array, "batch layers+1 height width"]

    def similarities(self, similarity: Similarity) -> Float[Array, "batch layers"]:
        """How alike each copy's maps are to the model's own.

        Args:
          similarity: `spearman`, `functools.partial(spearman, absolute=True)`,
            `structural_similarity` and `hog_similarity` are those of Adebayo et al. (2018).

        Returns:
          One similarity for each image and layer.
        """
        takes = "a function of two maps[batch, height, width], one value an image"
        got = checks.describe(similarity)
        checks.require(callable(similarity), "similarity", got, takes)
        own, copies = self.maps[:, 0], self.maps[:, 1:]
        alike = [similarity(own, copies[:, k]) for k in range(len(self.layers))]
        for one in alike:
            fits = isinstance(one, jax.Array | np.ndarray) and one.shape == own.shape[:1]
            got = f"one that returns {checks.describe(one)}"
            checks.require(fits, "similarity", got, takes)
        return jnp.stack(alike, axis=1)


class PermutedMaps(NamedTuple):
    """The maps of a model, and of its twin that was trained on permuted labels.

    Attributes:
      maps: of the model.
      twin_maps: of the twin.
      model: trained on the labels.
      twin: trained on the permuted labels.
      labels: the permuted labels.
    """

    maps: Float[Array, "batch height width"]
    twin_maps: Float[Array, "batch height width"]
    model: Any
    twin: Any
    labels: Int[Array, " examples"]


def parameter_randomization(
    explainer: Callable,
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, ""],
    mode: str = "cascading",
    initializer: str = "permute",
    layers: Sequence[str] | None = None,
    explainer_key: Key[Array, "*batch"] | None = None,
    **options: Any,
) -> RandomizedMaps:
    """The model parameter randomization test: maps of the model with random weights.

    Layers are randomised from the top, the one nearest to the scores, down: all of them so far
    (`"cascading"`), or each by itself (`"independent"`), and the same images explained again
    (Adebayo et al. 2018, section 3.1; Opti-CAM, appendix G). An explainer that looks at the model
    gives other maps. The weights are arguments of one program: nothing is compiled for a copy.
    Cost: one explanation for each layer, and one.

    Args:
      explainer: a function `(model, images, targets, *, key, **options) -> maps`.
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: one key, from which the random weights are drawn: the same for every batch of images.
      mode: `"cascading"` or `"independent"`.
      initializer: what becomes of a weight: see `randomized_models`.
      layers: names of layers, or what several begin with up to a point (`"features.3"`), each
        randomised in one step; None for every layer by itself. They are taken from the top,
        whatever their order here.
      explainer_key: key of a stochastic explainer, as it takes it: the same for every copy, so that
        its own noise changes no map.
      **options: passed on to the explainer.

    Returns:
      The layers and the maps; compare them with `similarities(jc2i.metrics.spearman)`.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    images = checks.images("images", images)
    checks.class_indices("targets", targets, len(images), None)
    explainer = _compiled(explainer, explainer_key, len(images))
    randomized = randomized_models(
        model, images, key=key, mode=mode, initializer=initializer, layers=layers
    )
    explain = functools.partial(
        explainer, images=images, targets=targets, key=explainer_key, **options
    )
    own = _map_each(explain(model=model))
    names, copies = [], []
    for name, copy in randomized:
        names.append(name)
        copies.append(explain(model=copy))
    return RandomizedMaps(tuple(names), jnp.stack([own, *copies], axis=1))


def randomized_models(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"] | jax.ShapeDtypeStruct,
    *,
    key: Key[Array, ""],
    mode: str = "cascading",
    initializer: str = "permute",
    layers: Sequence[str] | None = None,
) -> Iterator[tuple[str, Any]]:
    """Copies of a model with random weights, from its top layer down.

    A layer is what `layers_of` says. A calibrator is no part of the network, and is kept.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images that the model accepts, or a `jax.ShapeDtypeStruct` of them.
      key: one key; a weight's random values depend on it and on the weight's place alone.
      mode: `"cascading"`: a layer and all above it are random; `"independent"`: that layer alone.
      initializer: `"permute"` shuffles the values of each weight, so that their distribution stays
        in every respect; `"gaussian"` draws them with the weight's own mean and standard deviation,
        and takes absolute values where no value of the weight is below zero, a variance for
        instance.
      layers: see `parameter_randomization`.

    Returns:
      The name of each layer with the copy whose last random layer it is, one after another: no
      more than one copy is held.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    checks.one_of("mode", mode, ("cascading", "independent"))
    checks.one_of("initializer", initializer, ("permute", "gaussian"))
    key = checks.key("key", key)
    model = pytrees.as_pytree("model", as_written(model), scores.MODEL)
    found = layers_of(model, images)
    if layers is not None:
        found = _grouped(found, layers)
    return _copies(model, found, key, mode, initializer)


def _copies(
    model: Any, layers: Mapping[str, Sequence[int]], key: Array, mode: str, initializer: str
) -> Iterator[tuple[str, Any]]:
    leaves, structure = jax.tree.flatten(model)
    draw = _permuted if initializer == "permute" else _drawn
    changed = list(leaves)
    for name, places in layers.items():
        if mode == "independent":
            changed = list(leaves)
        for place in places:
            changed[place] = draw(jax.random.fold_in(key, place), jnp.asarray(leaves[place]))
        yield name, jax.tree.unflatten(structure, changed)


def layers_of(
    model: Callable, images: Float[checks.Array, "batch height width channel"] | Any
) -> dict[str, tuple[int, ...]]:
    """The layers of a model from the top down: which of its leaves belong to each.

    A layer is the weights under one path of the model's pytree, `layer1.0.conv1` for its kernel
    and bias; several kernels (leaves of two axes or more) under one path are a layer each, with the
    leaves that are used after each. Layers are ordered by where the model's program first brings
    one of their weights together with what depends on the image. Left out are a calibrator, numbers
    (leaves of one value), weights that no score depends on, and what comes before the first kernel:
    the mean and deviation of images.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images that the model accepts, or a `jax.ShapeDtypeStruct` of them.

    Returns:
      By name, the places of the layer's leaves among `jax.tree.leaves(model)`; from the last used
      to the first.

    Raises:
      ValueError: for a model that has no layer.
    """
    model = pytrees.as_pytree("model", as_written(model), scores.MODEL)
    with_paths, structure = jax.tree_util.tree_flatten_with_path(model)
    leaves = [leaf for _, leaf in with_paths]
    weights = [
        place
        for place, (path, leaf) in enumerate(with_paths)
        if pytrees.is_array(leaf)
        and np.size(leaf) > 1
        and jnp.issubdtype(leaf.dtype, jnp.floating)
        and not _is_calibration(model, path)
    ]

    def forward(weights_: list[Array], images: Array) -> Array:
        held = list(leaves)
        for place, leaf in zip(weights, weights_, strict=True):
            held[place] = leaf
        return jax.tree.unflatten(structure, held)(images)

    if not isinstance(images, jax.ShapeDtypeStruct):
        images = checks.images("images", images)
    with pytrees.at_fault("model", images):
        closed, _ = trace(forward, [leaves[place] for place in weights], images)
    used = _order_of_use(closed.jaxpr, len(weights))
    in_order = [weights[index] for index in used]
    names = [_names(path) for path, _ in with_paths]
    kernels = [place for place in in_order if sum(n > 1 for n in np.shape(leaves[place])) > 1]
    checks.require(len(kernels) > 0, "model", "one without layers", "one with weights as leaves")
    in_order = in_order[in_order.index(kernels[0]) :]
    prefixes = [names[place][:-1] for place in kernels]
    layers: dict[str, list[int]] = {}
    of_prefix: dict[tuple[str, ...], str] = {}
    for place in in_order:
        prefix = names[place][:-1]
        several = prefixes.count(prefix) > 1
        if prefix not in of_prefix or (several and place in kernels):
            of_prefix[prefix] = ".".join(names[place] if several else prefix or names[place])
        layers.setdefault(of_prefix[prefix], []).append(place)
    return {name: tuple(places) for name, places in reversed(layers.items())}


def label_permutation(
    explainer: Callable,
    train: Callable[[Any, Array, Array], Callable],
    train_images: Any,
    train_labels: Int[checks.Array, " examples"],
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, ""],
    model: Callable | None = None,
    explainer_key: Key[Array, "*batch"] | None = None,
    **options: Any,
) -> PermutedMaps:
    """The data randomization test: maps of a twin that was trained on permuted labels.

    The twin has learned the images by heart, and nothing of what relates them to their labels: maps
    that look alike do not show that relation (Adebayo et al. 2018, section 3.2; Opti-CAM, appendix
    G). Cost: two trainings, or one, and 2 explanations.

    Args:
      explainer: a function `(model, images, targets, *, key, **options) -> maps`.
      train: `(train_images, labels, key) -> model`, which returns what is explained, images ->
        scores[batch, classes].
      train_images: what `train` takes: only handed on.
      train_labels: the class of each training image.
      images: the images explained.
      targets: class whose score is explained, one an image.
      key: one key: of the permutation, and of both trainings, which so differ by labels alone.
      model: the model where it is trained already; None to train it.
      explainer_key: key of a stochastic explainer, as it takes it, the same for both.
      **options: passed on to the explainer.

    Returns:
      The maps of both, to be compared with a similarity, the models and the permuted labels.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    takes = "integers[examples], a label for each training image"
    labels = checks.array("train_labels", train_labels, takes, of=("integer",), shape=(None,))
    checks.require(labels.size > 0, "train_labels", checks.describe(labels), takes)
    labels = jnp.asarray(checks.held("train_labels", labels))
    key = checks.key("key", key)
    checks.require(callable(train), "train", checks.describe(train), "a function that trains")
    # Before hours of training.
    images = checks.images("images", images)
    checks.class_indices("targets", targets, len(images), None)
    explain = functools.partial(
        _compiled(explainer, explainer_key, len(images)),
        images=images,
        targets=targets,
        key=explainer_key,
        **options,
    )
    permutation_key, training_key = jax.random.split(key)
    permuted = jax.random.permutation(permutation_key, labels)
    if model is None:
        model = _trained(train(train_images, labels, training_key))
    checks.require(callable(model), "model", checks.describe(model), scores.MODEL)
    twin = _trained(train(train_images, permuted, training_key))
    maps, twin_maps = _map_each(explain(model=model)), explain(model=twin)
    return PermutedMaps(maps, twin_maps, model, twin, permuted)


def _map_each(maps: Array) -> Array:
    got = f"one that returns {checks.describe(maps)}"
    checks.require(maps.ndim == 3, "explainer", got, "one that returns maps[batch, height, width]")
    return maps


def _trained(model: Any) -> Any:
    takes = "one that returns a model, images -> scores"
    got = f"one that returns {'' if callable(model) else checks.describe(model)}"
    checks.require(callable(model), "train", got, takes)
    return model


def _compiled(explainer: Callable, key: Any, batch: int) -> Callable:
    """The explainer, compiled once for all models of a structure where it is a plain function."""
    got = checks.describe(explainer)
    checks.require(callable(explainer), "explainer", got, "an explainer function")
    method = known_method(explainer)
    takes = f"a jax.random.key, or one for each of the {batch} images"
    if key is not None or (method is not None and method.stochastic):
        keys = checks.key_array("explainer_key", key, takes)
        fits = keys.shape in ((), (batch,))
        checks.require(fits, "explainer_key", f"{list(keys.shape)} keys", takes)
    return _Jitted(explainer) if method is None else explainer


@dataclasses.dataclass(frozen=True)
class _Jitted:
    """A plain explainer, compiled with a model's weights as arguments."""

    explainer: Callable

    def __call__(self, *, model: Any, **arguments: Any) -> Array:
        model = pytrees.as_pytree("model", model, scores.MODEL)
        arrays, rest = pytrees.split((model, arguments))
        return _explained(self.explainer, rest, arrays)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _explained(explainer: Callable, rest: pytrees.Rest, arrays: list[Array]) -> Array:
    model, arguments = pytrees.join(arrays, rest)
    images, targets = arguments.pop("images"), arguments.pop("targets")
    return Explained(explainer)(model, images, targets, **arguments)


@jax.jit
def _permuted(key: Array, weight: Array) -> Array:
    return jax.random.permutation(key, weight.reshape(-1)).reshape(weight.shape)


@jax.jit
def _drawn(key: Array, weight: Array) -> Array:
    wide = weight.astype(jnp.promote_types(weight.dtype, jnp.float32))
    drawn = wide.mean() + wide.std() * jax.random.normal(key, weight.shape, wide.dtype)
    return jnp.where((wide >= 0).all(), jnp.abs(drawn), drawn).astype(weight.dtype)


def _grouped(
    layers: Mapping[str, Sequence[int]], chosen: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """The layers that are asked for, from the top, those under one name together."""
    checks.require(
        isinstance(chosen, list | tuple)
        and len(chosen) > 0
        and all(isinstance(name, str) for name in chosen),
        "layers",
        checks.describe(chosen),
        "a list of names, at least one, or None",
    )
    groups: dict[str, list[int]] = {}
    known = ", ".join(layers)
    missing = set(chosen)
    for name, places in layers.items():
        for group in chosen:
            if name == group or name.startswith(group + "."):
                groups.setdefault(group, []).extend(places)
                missing.discard(group)
    checks.require(not missing, "layers", ", ".join(map(repr, sorted(missing))), f"of {known}")
    return {name: tuple(places) for name, places in groups.items()}


def _is_calibration(model: Any, path: Sequence[Any]) -> bool:
    """Whether a leaf is a calibrator's, of `jc2i.probabilities` and the like."""
    node = model
    for entry in path:
        if not isinstance(entry, jax.tree_util.GetAttrKey) or not _holds_calibrator(node):
            return False
        if entry.name == "calibrator":
            return True
        node = getattr(node, entry.name)
    return False


def _holds_calibrator(node: Any) -> bool:
    return isinstance(node, scores.Logits | scores.Probabilities | scores.LogOdds)


WRAPPERS = ("value", "get_value", "logits", "model")
"""What a path says of how a model is held, and not of its layers."""


def _names(path: Sequence[Any]) -> tuple[str, ...]:
    """A leaf's path as words: of the layers that hold it, and its own."""
    words = [jax.tree_util.keystr((entry,), simple=True) for entry in path]
    while len(words) > 1 and words[0] in WRAPPERS:
        words = words[1:]
    while len(words) > 1 and words[-1] in WRAPPERS:
        words = words[:-1]
    return tuple(words)


def _order_of_use(jaxpr: jex.Jaxpr, count: int) -> list[int]:
    """Which of the first `count` inputs meet what depends on the others, in order of meeting."""
    met: list[int] = []
    origins: list[Any] = [frozenset([index]) for index in range(count)]
    _meet(jaxpr, [*origins, *[None] * (len(jaxpr.invars) - count)], met)
    return met


def _meet(jaxpr: jex.Jaxpr, origins: Sequence[Any], met: list[int]) -> list[Any]:
    """Walks a jaxpr: of each value, the weights it is made of, or None if it sees the image."""
    of: dict[Any, Any] = dict(zip(jaxpr.invars, origins, strict=True))
    nothing: frozenset[int] = frozenset()

    def read(atom: Any) -> Any:
        return nothing if isinstance(atom, jex.Literal) else of.get(atom, nothing)

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        sees = None in inputs
        made = nothing.union(*(origin for origin in inputs if origin is not None))
        if sees:
            for inner in bodies(equation):
                # Calls and scans take the equation's inputs, a branch all but the first.
                given = inputs[len(inputs) - len(inner.invars) :]
                if len(given) == len(inner.invars):
                    _meet(inner, given, met)
            met.extend(sorted(made - set(met)))
        for variable in equation.outvars:
            of[variable] = None if sees else made
    return [read(atom) for atom in jaxpr.outvars]

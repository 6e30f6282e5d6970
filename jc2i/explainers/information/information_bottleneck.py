"""Information bottleneck: how many bits of each place of a layer the prediction needs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, pytrees, removal, scores, streaming, tracing
from jc2i.draws import normal
from jc2i.explainers.cam.layers import LAYER, finish, opened
from jc2i.options import Floats, Maybe, Number, Scalar, Text, Whole
from jc2i.precision import full_precision
from jc2i.query import Cost, explainer

START = 5.0
"""alpha before the first step: lambda is 0.993, nearly all of the activation passes."""

STATISTIC = "an array that broadcasts to the layer's [rows, columns, features]"


_LAYER = {**LAYER, "layer": Maybe(Text())}
"""One layer: its statistics are of that one."""


@explainer(
    cost=lambda shape, options: Cost(forward=1, gradient=options["steps"] * options["samples"]),
    stochastic=True,
    **_LAYER,
    mean=Floats(rank=3, takes=STATISTIC),
    std=Floats(rank=3, least=0, takes=f"{STATISTIC}, none below 0"),
    least_std=Number(above=0, takes="a number above 0"),
    beta=Number(least=0, takes="a number of at least 0"),
    learning_rate=Number(above=0, takes="a number above 0"),
    sigma=Maybe(Whole(most=1000)),
)
def information_bottleneck(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    layer: str | None = None,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
    mean: Scalar | Float[checks.Array, ...] | None = None,
    std: Scalar | Float[checks.Array, ...] | None = None,
    least_std: Scalar = 0.01,
    beta: Scalar = 10.0,
    steps: int = 10,
    samples: int = 10,
    learning_rate: Scalar = 1.0,
    sigma: int | None = 1,
    resize: bool = True,
    batch_size: int | None = 32,
) -> Float[Array, "batch tall wide"]:
    """Information bottleneck: bits of a layer's activation that are left where noise is put in.

    Z = l R + (1 - l) e, e ~ N(mean, std^2), with l = sigmoid(alpha) smoothed feature by feature;
    alpha minimises CE(F(Z), c) + beta mean KL(N(l R + (1 - l) mean, (1 - l)^2 std^2) ||
    N(mean, std^2)), by Adam from alpha = 5, and the map is the KL summed over features, in bits
    (Schulz et al. 2020, equations (2), (5) and (6), "per-sample"; the authors' beta / k times the
    sum over k values is beta times their mean). The cross-entropy CE is of the softmax of the
    scores, or of the scores where they are probabilities: none below 0, summing to 1. Of log-odds
    it is that of their softmax, which is not the model's. The map is of alpha after the last step;
    the authors' code gives that before it. Cost: 1 evaluation, and `steps x samples` gradients of
    the part behind the layer; memory grows with neither.

    Args:
      model: callable pytree, images -> scores[batch, classes], with a named activation.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose evidence is kept, one an image.
      key: one key, or one for each image; required. The noise of a step's sample depends on the
        image's key and their numbers.
      layer: name of an activation [batch, rows, columns, features] or [batch, tokens, features]
        (`jc2i.taps.names`); None for the last that lies on a grid over the image.
      channel_axis: which axis of the activation counts the features, -1 or 1; None where the grid
        tells (one that fits both ways is refused).
      prefix_tokens: how many class and register tokens lead the patches, which pass as they are;
        None where the number of tokens tells.
      mean: mean of the activation over a data set (`activation_statistics`), an array that
        broadcasts to [rows, columns, features]; required.
      std: its standard deviation, likewise; required.
      least_std: what is taken for a smaller standard deviation, above 0.
      beta: weight of the information, at least 0; larger values leave less.
      steps: Adam steps, at least 1.
      samples: draws of the noise that a step's cross-entropy is the mean of.
      learning_rate: Adam's learning rate, above 0.
      sigma: standard deviation in cells of the Gaussian that smooths l, cut at two of them; None
        for none.
      resize: whether the map is upsampled to the image's size (bilinear), or stays the layer's.
      batch_size: most model evaluations in flight; None for one sample of the whole batch.

    Returns:
      Raw saliency maps, bits a cell of the layer, of the image's size or, with `resize=False`, the
      layer's.

    Raises:
      ValueError: for bad input, naming the argument; for an unknown layer, listing those there are.
    """
    assert key is not None and mean is not None and std is not None  # the decorator refuses that
    found, behind = opened(model, images, layer, channel_axis, prefix_tokens)
    activation = found.astype(images.dtype)
    shape = activation.shape[1:]
    mean = _fitting("mean", jnp.asarray(mean), shape)
    std = jnp.maximum(_fitting("std", jnp.asarray(std), shape), least_std)
    normalized = (activation - mean) / std

    def information(alpha: Array) -> Float[Array, "batch rows columns features"]:
        lost = passed_noise(alpha, sigma)
        return capacity((1 - lost) * normalized, lost)

    def cross_entropies(alpha: Array, noise: Array) -> Float[Array, "batch chunk"]:
        lost = passed_noise(alpha, sigma)[:, None]
        mixed = (1 - lost) * activation[:, None] + lost * (mean[:, None] + std[:, None] * noise)
        values = jax.vmap(behind, in_axes=1, out_axes=1)(mixed.astype(found.dtype))
        flat = values.reshape(-1, values.shape[-1])
        return cross_entropy(flat, jnp.repeat(targets, values.shape[1])).reshape(values.shape[:2])

    optimizer = optax.adam(jnp.asarray(learning_rate))
    chunk = streaming.per_step(len(images), batch_size)

    def step(state: tuple[Array, Any], number: Array) -> tuple[tuple, None]:
        alpha, moments = state

        def add(gradient: Array, index: Array, counted: Array) -> Array:
            def draw(key: Array) -> Array:
                return noise(key, number * samples + index, shape)

            drawn = streaming.each(draw, key).astype(images.dtype)
            weights = counted.astype(images.dtype)[None] / samples

            def loss(alpha: Array) -> Array:
                return (weights * cross_entropies(alpha, drawn).astype(weights.dtype)).sum()

            return gradient + jax.grad(loss)(alpha)

        start = jax.grad(lambda alpha: beta * information(alpha).mean((1, 2, 3)).sum())(alpha)
        gradient = streaming.fold(add, start, samples, chunk)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to its whole step count
            updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(alpha, updates), moments), None

    alpha = jnp.full_like(activation, START)
    (alpha, _), _ = streaming.scan(step, (alpha, optimizer.init(alpha)), jnp.arange(steps), steps)
    maps = information(alpha).sum(-1) / math.log(2)
    return finish([maps], images, False, resize)


def _fitting(argument: str, value: Array, shape: tuple[int, ...]) -> Array:
    """A statistic with an axis for each of the activation's."""
    sides = (1,) * (3 - value.ndim) + value.shape
    fits = all(side in (1, length) for side, length in zip(sides, shape, strict=True))
    takes = f"an array that broadcasts to the layer's {list(shape)} (rows, columns, features)"
    checks.require(fits, argument, checks.describe(value), takes)
    return value.reshape(1, *sides)


def passed_noise(
    alpha: Float[Array, "batch rows columns features"], sigma: int | None
) -> Float[Array, "batch rows columns features"]:
    """1 - l, the share of noise: without the rounding of l near 1, where its logarithm matters."""
    lost = jax.nn.sigmoid(-alpha)
    return removal.gaussian_blur(lost, 4 * sigma + 1, float(sigma)) if sigma else lost


def capacity(mean: Float[Array, "*axes"], deviation: Float[Array, "*axes"]) -> Float[Array, ...]:
    """KL(N(mean, deviation^2) || N(0, 1)) in nats: (m^2 + d^2 - 1) / 2 - ln d.

    Args:
      mean: means m.
      deviation: standard deviations d, above 0.

    Returns:
      The divergences, at least 0.
    """
    return (mean**2 + deviation**2 - 1) / 2 - jnp.log(deviation)


def cross_entropy(
    values: Float[Array, "batch classes"], targets: Int[checks.Array, " batch"]
) -> Float[Array, " batch"]:
    """-ln of each target's probability, of scores that are logits or probabilities.

    Args:
      values: scores; those that are not below 0 and sum to 1 within 1e-3 are probabilities.
      targets: class of each.

    Returns:
      The cross-entropies.
    """
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    known = (wide >= 0).all(axis=1) & (jnp.abs(wide.sum(axis=1) - 1) < 1e-3)
    smallest = jnp.finfo(wide.dtype).tiny
    log = jnp.log(jnp.maximum(scores.of_targets(wide, targets), smallest))
    return -jnp.where(known, log, scores.of_targets(jax.nn.log_softmax(wide), targets))


def noise(
    key: Key[Array, ""], index: Int[Array, " chunk"], shape: tuple[int, ...]
) -> Float[Array, "chunk rows columns features"]:
    """Standard normal noise of one image's draws.

    Args:
      key: the image's key.
      index: which draws.
      shape: of one.

    Returns:
      The noise.
    """

    def draw(index: Array) -> Array:
        return normal(jax.random.fold_in(key, index), shape)

    return streaming.each(draw, index)


class Statistics(NamedTuple):
    """Of a layer's activation over a data set, each [rows, columns, features].

    Attributes:
      mean: the mean.
      std: the standard deviation, with n - 1 in the denominator.
    """

    mean: np.ndarray
    std: np.ndarray


def activation_statistics(
    model: Callable,
    images: Float[checks.Array, "n height width channel"] | Iterable[Any],
    layer: str | None = None,
    channel_axis: int | None = None,
    *,
    prefix_tokens: int | None = None,
    batch_size: int = 32,
) -> Statistics:
    """Mean and standard deviation of each value of a layer's activation over images.

    Cost: 1 evaluation of the part in front of the layer for each image; batches are merged as they
    come (Chan et al. 1983), so that memory is that of one.

    Args:
      model: callable pytree, images -> scores[batch, classes], with a named activation.
      images: an array of images, or batches of them, each float[batch, height, width, channel]:
        what a generator makes of a data set, for one.
      layer: see `information_bottleneck`.
      channel_axis: see `information_bottleneck`.
      prefix_tokens: see `information_bottleneck`.
      batch_size: images at a time, of an array.

    Returns:
      The statistics, for `information_bottleneck(mean=, std=)`.

    Raises:
      ValueError: for bad input, naming the argument; for fewer than two images.
    """
    batch_size = checks.whole("batch_size", batch_size, most=checks.MOST)
    given = {"layer": layer, "channel_axis": channel_axis, "prefix_tokens": prefix_tokens}
    where = tuple(_LAYER[name].read(name, value, None) for name, value in given.items())
    tree = pytrees.as_pytree("model", model, scores.MODEL)
    leaves, rest = pytrees.split(tree)
    takes = "floats[n, height, width, channel], or batches of them"
    several = isinstance(images, Iterable) and not isinstance(images, str | bytes | Mapping)
    if isinstance(images, jax.Array | np.ndarray):
        several = checks.is_array(images) and images.ndim > 0
    checks.require(several, "images", checks.describe(images), takes)
    if isinstance(images, jax.Array | np.ndarray):
        images = [images[i : i + batch_size] for i in range(0, max(1, len(images)), batch_size)]
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for batch in images:
        checks.require_concrete("images", batch, takes)
        batch = checks.images("images", batch)
        wide = batch.astype(jnp.promote_types(batch.dtype, jnp.float32))
        with full_precision():
            moments = _moments(rest, where, leaves, wide)
        new_mean, new_squares = (np.asarray(moment, np.float64) for moment in moments)
        fits = count == 0 or new_mean.shape == mean.shape
        checks.require(fits, "images", checks.describe(batch), "batches of images of one size")
        difference, total = new_mean - mean, count + len(batch)
        mean = mean + difference * len(batch) / total
        squares = squares + new_squares + difference**2 * count * len(batch) / total
        count = total
    checks.require(count > 1, "images", f"{count} images", "two or more")
    std = np.sqrt(squares / (count - 1))
    return Statistics(mean.astype(np.float32), std.astype(np.float32))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _moments(
    rest: Any, where: tuple[Any, ...], leaves: list[Any], images: Array
) -> tuple[Array, Array]:
    """Mean of an activation over a batch, and the sum of squares around it."""
    model = tracing.prepared(pytrees.join(leaves, rest))
    activation = opened(model, images, *where)[0].astype(images.dtype)
    mean = activation.mean(0)
    return mean, ((activation - mean) ** 2).sum(0)

"""KernelSHAP: the Shapley values of an image's regions, by weighted least squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, removal, streaming
from jc2i.explainers.surrogate import least_squares
from jc2i.explainers.surrogate.regions import HiddenBy, masked_scores, regions_of, room
from jc2i.options import Maybe, Whole
from jc2i.query import Cost, explainer
from jc2i.segments import SEGMENTS


def _coalitions(samples: int, places: int) -> int:
    """How many coalitions are asked about besides the whole image and none of it."""
    return min(samples, 2**places - 2)


def _cost(shape: tuple[int, ...], options: Mapping[str, Any]) -> Cost:
    return Cost(forward=2 + _coalitions(options["samples"], room(options)))


@explainer(
    cost=_cost,
    stochastic=True,
    depends_on_scores=False,
    segments=Maybe(SEGMENTS),
    regions=Maybe(Whole(bounded=False, most=4096)),
    baseline=HiddenBy(),
)
def kernel_shap(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    segments: Int[checks.Array, "batch height width"] | None = None,
    samples: int = 2048,
    grid: int = 7,
    regions: int | None = None,
    baseline: removal.Baseline = 0.0,
    batch_size: int | None = 32,
) -> Float[Array, "batch height width"]:
    """KernelSHAP: the Shapley value of each region, the coalitions being the regions visible.

    S(x) = phi of each pixel's region, for the phi that minimise sum over coalitions z of pi(z)
    (F(z)_c - F(none)_c - phi^T z)^2 under sum phi = F(all)_c - F(none)_c, with pi(z) = (M - 1) /
    (C(M, |z|) |z| (M - |z|)) for M regions (Lundberg and Lee 2017, theorem 2): Shapley's values
    exactly where `samples` covers all 2^M - 2 coalitions, which are then enumerated. Otherwise they
    are drawn in pairs of a coalition and its complement, sizes k with probability in proportion to
    1 / (k (M - k)), and count equally. What too few samples leave open is shared equally.
    Cost: `samples` + 2 evaluations, at most 2^M of a grid; memory does not grow with them, but with
    the square of the number of regions.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: one key, or one for each image; required. Pair j of an image depends on its key and j.
      segments: region of each pixel, as from `jc2i.metrics.superpixels(images)`: any integers,
        equal within one; None for the cells of a grid.
      samples: coalitions besides the whole image and none of it, at least 1.
      grid: rows and columns of cells without `segments`, at most the image's shorter side.
      regions: most regions of an image; None for the grid's cells, or 128 with `segments`.
      baseline: what a hidden pixel becomes: `"mean"` (its region's mean colour), a number, one a
        channel, an image array, `"blur"`.
      batch_size: most model evaluations in flight; None for one coalition of the whole batch.

    Returns:
      Raw saliency maps, constant within a region (a region's value is not divided by its size); NaN
      for an image of more regions than `regions`.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    assert key is not None  # the decorator refuses that
    where = regions_of(images, segments, grid, regions)
    used, number = where.used, where.number
    enumerable = min((samples + 2).bit_length() - 1, where.room)
    exact = number <= enumerable
    table = jnp.asarray(_kernel(enumerable), images.dtype)
    chances = jax.vmap(lambda number: _cumulative(number, where.room))(number)

    def enumerated(index: Array) -> tuple[Array, Array]:
        code = jnp.maximum(index - 1, 0)
        bits = (code[:, None] >> jnp.arange(enumerable)[None]) & 1
        size = jnp.minimum(bits.sum(axis=-1), enumerable)
        shown = jnp.pad(bits == 1, ((0, 0), (0, where.room - enumerable)))[None]
        # A code of more bits than the image has regions is none of its coalitions.
        within = (shown & ~used[:, None]).sum(axis=-1) == 0
        weight = table[jnp.minimum(number, enumerable)[:, None], size[None]]
        return shown & used[:, None], jnp.where(within, weight, 0)

    def draw(key: Array, pair: Array) -> Array:
        # One draw for the size and the order in which regions join.
        return jax.random.uniform(jax.random.fold_in(key, pair), (1 + where.room,), np.float32)

    def drawn(index: Array) -> Array:
        pair = jnp.maximum(index - 2, 0) // 2
        uniform = streaming.each(lambda key: streaming.each(lambda j: draw(key, j), pair), key)
        size = (uniform[..., :1] >= chances[:, None]).sum(axis=-1, keepdims=True)
        size = jnp.clip(size, 0, jnp.maximum(number[:, None, None] - 2, 0))  # less 1
        turn = jnp.where(used[:, None], uniform[..., 1:], 2)
        shown = turn <= jnp.take_along_axis(jnp.sort(turn, axis=-1), size, axis=-1)
        return (shown ^ (index % 2 == 1)[None, :, None]) & used[:, None]

    def sample(index: Array) -> tuple[Array, Array]:
        """Index 0 is the whole image, 1 is none of it: these two are the constraint."""
        every, weight = enumerated(index)
        shown = jnp.where(exact[:, None, None], every, drawn(index))
        weight = jnp.where(exact[:, None], weight, 1) * (index > 1)[None].astype(weight.dtype)
        shown = jnp.where((index == 0)[None, :, None], used[:, None], shown)
        return shown & (index != 1)[None, :, None], weight

    scores = masked_scores(model, images, targets, where, baseline)
    start = jnp.zeros(used.shape, images.dtype)
    chunk = streaming.per_step(len(images), batch_size)
    count = 2 + _coalitions(samples, where.room)
    sums = least_squares.sums(scores, sample, count, chunk, start)
    # phi = share + psi, of which psi sums to 0: the constraint is gone.
    total = -sums.second  # F(all) - F(none)
    share = jnp.where(used, (total / number.astype(total.dtype))[:, None], 0)
    rest = sums.regions_change + total[:, None] * sums.regions
    rest -= jnp.einsum("brs,bs->br", sums.pairs, share, precision="highest")
    matrix = _centred(_centred(sums.pairs, used, number).mT, used, number)
    psi = least_squares.solve(matrix, _centred(rest, used, number))
    return where.painted(share + psi)


def _centred(values: Array, used: Array, number: Array) -> Array:
    """The values less their mean over an image's regions, along the last axis."""
    used = used.reshape(used.shape[0], *(1,) * (values.ndim - 2), -1)
    mean = values.sum(axis=-1) / number.astype(values.dtype).reshape(-1, *(1,) * (values.ndim - 2))
    return jnp.where(used, values - mean[..., None], 0)


def _cumulative(number: Array, places: int) -> Array:
    """The probability that a coalition of so many regions has size k = 1, 2, ... or less."""
    size = jnp.arange(1, max(places, 2)).astype(np.float32)
    rest = number.astype(np.float32) - size
    chance = jnp.where(rest > 0, 1 / (size * jnp.maximum(rest, 1)), 0)
    total = jnp.cumsum(chance)
    return total / jnp.maximum(total[-1], np.finfo(np.float32).tiny)


def _kernel(most: int) -> np.ndarray:
    """Shapley's kernel by the number of regions and the size of a coalition."""
    table = np.zeros((most + 1, most + 1))
    for regions in range(2, most + 1):
        for size in range(1, regions):
            ways = math.comb(regions, size) * size * (regions - size)
            table[regions, size] = (regions - 1) / ways
    return table

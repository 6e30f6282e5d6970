"""Occlusion: how much the score drops when a window is covered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, masking, removal, streaming
from jc2i.options import Fill, Sides
from jc2i.query import Cost, explainer


def _cost(shape: tuple[int, ...], options: Mapping[str, Any]) -> Cost:
    windows, strides = (np.broadcast_to(options[name], 2) for name in ("window", "stride"))
    sides = np.array(shape[1:3])
    return Cost(forward=1 + int(np.prod(-(-(sides - windows) // strides) + 1)))


@explainer(cost=_cost, depends_on_scores=False, window=Sides(), stride=Sides(), baseline=Fill())
def occlusion(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    window: int | tuple[int, int] = 5,
    stride: int | tuple[int, int] = 2,
    baseline: removal.Baseline = 0.0,
    batch_size: int | None = None,
) -> Float[Array, "batch height width"]:
    """Occlusion: the mean drop of the score over the windows that cover a pixel.

    S(x)_i = mean over windows w that contain i of F(x)_c - F(x with w replaced)_c (Zeiler and
    Fergus 2014; the same windows and mean as Captum's Occlusion, the last of each axis cut by
    the border). Cost: 1 + ceil((height - window)/stride + 1) x the same for the width evaluations;
    memory does not grow with them.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      window: height and width of the window in pixels, at most the image's.
      stride: step between windows in pixels, at most the window (no pixel is left uncovered).
      baseline: what a covered pixel becomes: a number, one a channel, an image array, `"blur"`.
      batch_size: most model evaluations in flight; None for one window of the whole batch.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    batch, height, width, _ = images.shape
    windows, strides = (
        value if isinstance(value, tuple) else (value,) * 2 for value in (window, stride)
    )
    for size, length in zip(windows, (height, width), strict=True):
        checks.require(size <= length, "window", window, f"at most the image's {height} x {width}")
    for step, size in zip(strides, windows, strict=True):
        checks.require(step <= size, "stride", stride, f"at most the window, {window}")
    rows = _cover(height, windows[0], strides[0])  # [positions, height]
    columns = _cover(width, windows[1], strides[1])
    covered = removal.fill(images, baseline)[:, None]
    in_row, in_column = jnp.asarray(rows), jnp.asarray(columns)

    def occluded_scores(index: Array) -> Array:
        # Index 0 is the whole image: one more variant, so that the model is in the program once.
        position = jnp.maximum(index - 1, 0)
        row, column = in_row[position // len(columns)], in_column[position % len(columns)]
        inside = row[:, :, None] & column[:, None, :] & (index > 0)[:, None, None]
        variants = jnp.where(inside[None, ..., None], covered, images[:, None])
        return masking.variant_scores(model, variants, targets)

    chunk = streaming.per_step(batch, batch_size)
    values = streaming.collect(occluded_scores, 1 + len(rows) * len(columns), chunk)
    drops = (values[:, :1] - values[:, 1:]).reshape(batch, len(rows), len(columns))
    row_share = jnp.asarray(rows / rows.sum(0), images.dtype)
    column_share = jnp.asarray(columns / columns.sum(0), images.dtype)
    return jnp.einsum("brc,rh,cw->bhw", drops, row_share, column_share, precision="highest")


def _cover(length: int, window: int, stride: int) -> np.ndarray:
    starts = np.arange(-(-(length - window) // stride) + 1) * stride
    positions = np.arange(length)
    return (positions >= starts[:, None]) & (positions < starts[:, None] + window)

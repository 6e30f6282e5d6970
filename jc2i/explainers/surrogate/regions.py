"""What surrogates share: the regions of an image, and the scores with some of them hidden."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jc2i import checks, masking, removal
from jc2i.options import Fill
from jc2i.segments import numbered, require_fits

MOST = 128
"""Regions that there is room for where segments are given: SLIC returns at most 120 for 100."""


@dataclasses.dataclass(frozen=True)
class HiddenBy(Fill):
    """What a hidden region becomes: `"mean"`, its own mean colour, or as `jc2i.options.Fill`."""

    def read(self, name: str, value: Any, images: Any) -> Any:
        """The word, or an array of the images' type."""
        if isinstance(value, str) and value == "mean":
            return value
        try:
            return super().read(name, value, images)
        except checks.Refusal as refusal:
            raise checks.Refusal(f'{refusal} or "mean"') from None


def room(options: Mapping[str, Any]) -> int:
    """How many regions an image may have, by a method's options."""
    if options["regions"] is not None:
        return options["regions"]
    return options["grid"] ** 2 if options["segments"] is None else MOST


@dataclasses.dataclass(frozen=True)
class Regions:
    """The regions of each image of a batch, numbered from 0.

    Attributes:
      of_pixel: the region of each pixel.
      number: how many regions each image has.
      room: how many there is room for.
    """

    of_pixel: Int[Array, "batch height width"]
    number: Int[Array, " batch"]
    room: int

    @property
    def used(self) -> Bool[Array, "batch regions"]:
        """Which places are an image's regions."""
        return jnp.arange(self.room)[None] < self.number[:, None]

    def painted(self, values: Float[Array, "batch regions"]) -> Float[Array, "batch height width"]:
        """Each pixel with its region's value; NaN for an image of more regions than fit."""
        maps = jax.vmap(lambda values, region: values[region])(values, self.of_pixel)
        return jnp.where((self.number <= self.room)[:, None, None], maps, jnp.nan)


def regions_of(
    images: Float[checks.Array, "batch height width channel"],
    segments: Int[checks.Array, "batch height width"] | None,
    grid: int,
    regions: int | None,
) -> Regions:
    """The regions by the options that every surrogate has.

    Args:
      images: the images.
      segments: any integers, equal within a region; None for cells of a grid.
      grid: rows and columns of cells, where there are no segments.
      regions: the regions that there is room for; None for as many as there are cells, or `MOST`.

    Returns:
      The regions.

    Raises:
      ValueError: if the segments have another size, or the grid does not fit.
    """
    batch, height, width, _ = images.shape
    places = room({"segments": segments, "grid": grid, "regions": regions})
    if segments is not None:
        require_fits(segments, images)
        of_pixel = jax.vmap(numbered)(segments)
        return Regions(of_pixel, of_pixel.max(axis=(1, 2)) + 1, places)
    checks.require(grid <= min(height, width), "grid", grid, f"at most {min(height, width)} cells")
    checks.require(places >= grid**2, "regions", regions, f"at least the grid's {grid**2} cells")
    row, column = (np.arange(side) * grid // side for side in (height, width))
    cells = jnp.asarray(row[:, None] * grid + column, jnp.int32)
    cells = jnp.broadcast_to(cells, (batch, height, width))
    return Regions(cells, jnp.full(batch, grid**2, jnp.int32), places)


def masked_scores(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    regions: Regions,
    baseline: removal.Baseline,
) -> Callable[[Bool[Array, "batch chunk regions"]], Float[Array, "batch chunk"]]:
    """The function from which regions are visible to the target's score.

    Args:
      model: images -> scores[batch, classes].
      images: the images.
      targets: class whose score is taken, one an image.
      regions: the images' regions.
      baseline: what a hidden pixel becomes: `"mean"`, its region's mean colour, or as
        `jc2i.removal.fill`.

    Returns:
      The function.
    """
    if isinstance(baseline, str) and baseline == "mean":
        hidden = jax.vmap(lambda x, region: _means(x, region, regions.room))(
            images, regions.of_pixel
        )
    else:
        hidden = removal.fill(images, baseline)

    def scores(visible: Array) -> Array:
        pixels = jax.vmap(lambda on, region: on[:, region])(visible, regions.of_pixel)
        variants = jnp.where(pixels[..., None], images[:, None], hidden[:, None])
        return masking.variant_scores(model, variants, targets)

    return scores


def _means(image: Array, region: Array, room: int) -> Array:
    """The mean colour of each pixel's region of one image."""
    sums = jnp.zeros((room, image.shape[-1]), image.dtype).at[region].add(image)
    sizes = jnp.zeros(room, image.dtype).at[region].add(jnp.ones((), image.dtype))
    return (sums / jnp.maximum(sizes, 1)[:, None])[region]

"""The score as whole patches are removed from the image in the order of the map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, removal
from jc2i.metrics.fidelity.curves import curves_by_position, removal_order
from jc2i.options import Fill, Maps, OneOf, TieKey
from jc2i.query import Cost, metric


def _cost(shape: tuple[int, ...], options: Mapping[str, Any]) -> Cost:
    rows, columns = (-(-side // options["patch_size"]) for side in shape[1:3])
    return Cost(forward=min(options["regions"], rows * columns) + 1)


@metric(
    cost=_cost,
    depends_on_scores=False,
    baseline=Fill(),
    maps=Maps(),
    rule=OneOf("samek", "quantus"),
    tie_key=TieKey(),
)
def aopc(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    maps: Float[checks.Array, "batch height width"],
    *,
    patch_size: int = 14,
    regions: int = 10,
    baseline: removal.Baseline = 0.0,
    rule: str = "samek",
    tie_key: Key[Array, ""] | None = None,
    batch_size: int | None = None,
) -> Float[Array, " batch"]:
    """Area over the perturbation curve: how far the score falls as the map's best patches go.

    1/(L + 1) sum_{k=0..L} (F(x)_c - F(x without its k most important patches)_c) (Samek et al.
    2017, (12), for one image), where the map's sum over a patch says how important it is. The patch
    size, the number L of regions and, but for the darkest value of the image there, what a patch
    becomes are those of Opti-CAM, table 4. Higher is better. Patches of equal importance go in the
    order of one random permutation. Cost: `regions` + 1 evaluations.

    Args:
      model: callable pytree, images -> scores[batch, classes]; usually probabilities.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is followed, one an image.
      maps: saliency maps; larger = removed earlier.
      patch_size: side of a patch in pixels, at most the image's shorter side. Where it does not
        divide a side, the patches at both its ends are cut by about as much (as Quantus does).
      regions: patches removed, L; an image of fewer loses all that it has.
      baseline: what a removed pixel becomes: as in `deletion_curve`.
      rule: `"samek"`, the mean over k = 0..L as printed; `"quantus"`, the mean of the L falls that
        the library Quantus returns, k = 1..L, which is (L + 1) / L of it.
      tie_key: key of the permutation that breaks ties; None for a fixed one.
      batch_size: most model evaluations in flight; None for one step of the whole batch.

    Returns:
      One mean fall an image, in the unit of the scores; NaN where the map is not finite.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    shape = images.shape[1:3]
    takes = f"at most the image's shorter side, {min(shape)} pixels"
    checks.require(patch_size <= min(shape), "patch_size", patch_size, takes)
    # What a grid of whole patches has more than the image, half of it before the image.
    more = [-side % patch_size for side in shape]
    before = [pixels // 2 for pixels in more]
    around = [(b, pixels - b) for b, pixels in zip(before, more, strict=True)]
    padded = jnp.pad(maps, ((0, 0), *around))
    rows, columns = (side // patch_size for side in padded.shape[1:])
    sums = padded.reshape(-1, rows, patch_size, columns, patch_size).sum(axis=(2, 4))
    rank = jnp.round(removal_order(sums, tie_key) * rows * columns)
    removed = min(regions, rows * columns)
    # A quarter of a patch further, so that no rounding to whole pixels moves a patch by a step.
    position = (rank + 0.25) / removed
    row, column = (
        (jnp.arange(side) + first) // patch_size for side, first in zip(shape, before, strict=True)
    )
    position = position[:, None, row[:, None], column[None]]
    fill = jnp.broadcast_to(removal.fill(images, baseline), images.shape)
    curve = curves_by_position(
        model, images, fill, True, targets, position, removed, False, True, batch_size
    )[:, 0]
    falls = curve[:, :1] - curve
    return (falls if rule == "samek" else falls[:, 1:]).mean(axis=1)

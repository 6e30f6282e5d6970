"""Maps that know nothing of the model, to compare explainers with."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int, Key

from jc2i import checks
from jc2i.query import Cost, explainer


@explainer(cost=lambda shape, options: Cost(), stochastic=True, depends_on_scores=False)
def random_map(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    batch_size: int | None = None,
) -> Float[Array, "batch height width"]:
    """A random map: every pixel's importance uniform in [0, 1). Cost: no evaluation.

    Args:
      model: not queried.
      images: images; only their size matters.
      targets: not used.
      key: one key, or one for each image; required.
      batch_size: not used.

    Returns:
      Random maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    assert key is not None  # the decorator refuses that
    batch, height, width, _ = images.shape
    draw = jax.vmap(lambda key: jax.random.uniform(key, (height * width,), images.dtype))
    return draw(key).reshape(batch, height, width)

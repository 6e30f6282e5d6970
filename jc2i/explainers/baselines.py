"""Maps that know nothing of the model, to compare explainers with."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
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


@explainer(cost=lambda shape, options: Cost(), depends_on_scores=False)
def fake_cam(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    batch_size: int | None = None,
) -> Float[Array, "batch height width"]:
    """Fake-CAM: every pixel is important but the one at the top left. Cost: no evaluation.

    S = 1, and 0 at the top left pixel, for every image (Poppi et al. 2021; Opti-CAM section 4): as
    a mask it changes no score by much, which average drop and average increase reward and average
    gain does not.

    Args:
      model: not queried.
      images: images; only their size matters.
      targets: not used.
      key: not used: the method is deterministic.
      batch_size: not used.

    Returns:
      One map for every image.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    return jnp.ones(images.shape[:3], images.dtype).at[:, 0, 0].set(0)

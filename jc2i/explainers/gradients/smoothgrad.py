"""SmoothGrad: the gradient averaged over noisy copies of the image."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, streaming
from jc2i.draws import normal
from jc2i.explainers.gradients.input_gradient import CHANNELS, reduce_channels, repeated_gradient
from jc2i.options import Number, Scalar
from jc2i.query import Cost, explainer


@explainer(
    cost=lambda shape, options: Cost(gradient=options["samples"]),
    stochastic=True,
    depends_on_scores=False,
    noise=Number(least=0, takes="a standard deviation of at least 0"),
    channels=CHANNELS,
)
def smoothgrad(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    samples: int = 60,
    noise: Scalar = 0.2,
    relative: bool = False,
    channels: str | None = "abs_sum",
    batch_size: int | None = None,
) -> Float[Array, "batch height width *channel"]:
    """SmoothGrad: the mean gradient over images with Gaussian noise.

    S(x)_i = 1/n sum_k dF(x + e_k)_c / dx_i, e_k ~ N(0, noise^2) (Smilkov et al. 2017; Fel et al.,
    MeGe, appendix B). Cost: `samples` gradient evaluations; memory does not grow with them.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: one key, or one for each image; required.
      samples: noisy copies, at least 1.
      noise: standard deviation, in the image's own units.
      relative: whether `noise` is a fraction of the image's range (max - min) instead.
      channels: `"abs_sum"`, `"sum"`, `"max_abs"`, or None; applied to the mean gradient.
      batch_size: most model evaluations in flight; None for one sample of the whole batch.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    assert key is not None  # the decorator refuses that
    shape = images.shape[1:]
    scale = jnp.full(images.shape[0], noise, images.dtype)
    if relative:
        scale = noise * (images.max(axis=(1, 2, 3)) - images.min(axis=(1, 2, 3)))

    def draw(key: Array, index: Array) -> Array:
        return normal(jax.random.fold_in(key, index), shape, images.dtype)

    def add(total: Array, index: Array, counted: Array) -> Array:
        drawn = streaming.each(lambda key: streaming.each(lambda i: draw(key, i), index), key)
        variants = images[:, None] + scale[:, None, None, None, None] * drawn
        gradients = repeated_gradient(model, variants, targets)
        return total + jnp.einsum("k,bkhwc->bhwc", counted.astype(images.dtype), gradients)

    chunk = streaming.per_step(images.shape[0], batch_size)
    total = streaming.fold(add, jnp.zeros_like(images), samples, chunk)
    return reduce_channels(total / samples, channels)

"""GradientSHAP: gradients at random points between reference images and the noisy image."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks, streaming
from jc2i.draws import normal
from jc2i.explainers.gradients.input_gradient import CHANNELS, reduce_channels, repeated_gradient
from jc2i.explainers.gradients.integrated_gradients import References
from jc2i.options import Number, Scalar
from jc2i.query import Cost, explainer


@explainer(
    cost=lambda shape, options: Cost(gradient=options["samples"]),
    stochastic=True,
    depends_on_scores=False,
    noise=Number(least=0, takes="a standard deviation of at least 0"),
    references=References(),
    channels=CHANNELS,
)
def gradient_shap(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    samples: int = 60,
    noise: Scalar = 0.0,
    references: tuple | str | float | checks.Array = ("black", "white"),
    channels: str | None = "abs_sum",
    batch_size: int | None = None,
) -> Float[Array, "batch height width *channel"]:
    """GradientSHAP: integrated gradients by random points, references and noise.

    S(x)_i = 1/n sum_k (x_k - r_k)_i dF(r_k + a_k (x_k - r_k))_c / dx_i, where x_k = x + N(0,
    noise^2), r_k is one of the references and a_k uniform in [0, 1) (expected gradients; Lundberg
    and Lee 2017 as `shap.GradientExplainer` and Captum's GradientShap have it). Without noise its
    expectation is integrated gradients averaged over the references. Cost: `samples` gradient
    evaluations; memory does not grow with them.

    Args:
      model: callable pytree, images -> scores[batch, classes].
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: one key, or one for each image; required. Sample k of an image depends on its key and k.
      samples: random points, at least 1.
      noise: standard deviation of the noise, in the image's own units.
      references: as in `integrated_gradients`: each sample draws one.
      channels: `"abs_sum"`, `"sum"`, `"max_abs"`, or None; applied to the mean.
      batch_size: most model evaluations in flight; None for one sample of the whole batch.

    Returns:
      Raw saliency maps.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    assert key is not None  # the decorator refuses that
    shape = images.shape[1:]
    starts = jnp.asarray(references)  # [references, height, width, channel]

    def draw(key: Array, index: Array) -> tuple[Array, Array, Array]:
        where, which, around = jax.random.split(jax.random.fold_in(key, index), 3)
        drawn = normal(around, shape, images.dtype)
        point = jax.random.uniform(where, (), images.dtype)
        return point, jax.random.randint(which, (), 0, len(starts)), drawn

    def add(total: Array, index: Array, counted: Array) -> Array:
        point, which, drawn = streaming.each(
            lambda key: streaming.each(lambda k: draw(key, k), index), key
        )
        start = starts[which]  # [batch, chunk, height, width, channel], or of ones there
        path = images[:, None] + noise * drawn - start
        variants = start + point[..., None, None, None] * path
        gradients = repeated_gradient(model, variants, targets)
        counts = counted.astype(images.dtype)
        return total + jnp.einsum("k,bkhwc,bkhwc->bhwc", counts, path, gradients)

    chunk = streaming.per_step(images.shape[0], batch_size)
    total = streaming.fold(add, jnp.zeros_like(images), samples, chunk)
    return reduce_channels(total / samples, channels)

"""Eigen-CAM: the direction in which the activations of a layer vary most."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jc2i import checks
from jc2i.explainers.cam.layers import LAYER, Layer, cuts, finish
from jc2i.query import Cost, explainer


@explainer(
    cost=lambda shape, options: Cost(forward=1),
    depends_on_scores=False,
    **LAYER,
)
def eigen_cam(
    model: Callable,
    images: Float[checks.Array, "batch height width channel"],
    targets: Int[checks.Array, " batch"],
    *,
    key: Key[Array, "*batch"] | None = None,
    layer: Layer = None,
    channel_axis: int | None = None,
    prefix_tokens: int | None = None,
    center: bool = False,
    relu: bool = True,
    resize: bool = True,
    batch_size: int | None = None,
) -> Float[Array, "batch tall wide"]:
    """Eigen-CAM: the activations of a layer along their first right singular vector.

    S(x) = relu(A v), A the activation as a matrix [cells, features], A = U diag(s) V^T and v the
    first column of V (Muhammad and Yeasin 2020, equations (3) and (4)). The sign of v, which a
    decomposition leaves open, is the one with which the map's product with the mean of the features
    is not negative; a rectifier's activations are then positive everywhere. `center=True` takes
    each feature's mean over the cells off first, as pytorch-grad-cam does, whose sign is its linear
    algebra library's. The map sees no score: it is the same for every class and calibration.
    Cost: 1 forward evaluation, of the part of the model in front of the layer.

    Args:
      model: callable pytree, images -> scores[batch, classes], with a named activation.
      images: images, in [0, 1] unless the model says otherwise.
      targets: class whose score is explained, one an image.
      key: not used: the method is deterministic.
      layer: name of an activation [batch, rows, columns, features] or [batch, tokens, features]
        (`jc2i.taps.names`), or several, whose maps are min-max normalised and averaged; None for
        the last that lies on a grid over the image.
      channel_axis: which axis of the activation counts the features, -1 or 1; None where the grid
        tells (one that fits both ways is refused).
      prefix_tokens: how many class and register tokens lead the patches; None where the number of
        tokens tells.
      center: whether each feature's mean over the cells is taken off first.
      relu: whether the map's negative part is cut off.
      resize: whether the map is upsampled to the image's size (bilinear), or stays the layer's.
      batch_size: most model evaluations in flight; None for the whole batch at once.

    Returns:
      Raw saliency maps, of the image's size or, with `resize=False`, the layer's.

    Raises:
      ValueError: for bad input, naming the argument; for an unknown layer, listing those there are.
    """
    found = cuts(model, images, targets, layer, channel_axis, prefix_tokens)
    maps = [_first(opened.activation.astype(images.dtype), center) for opened in found]
    return finish(maps, images, relu, resize)


def _first(activation: Array, center: bool) -> Array:
    batch, rows, columns, features = activation.shape
    mean = activation.mean(axis=-1)
    cells = activation.reshape(batch, rows * columns, features)
    cells = cells - cells.mean(axis=1, keepdims=True) if center else cells
    # s U is A V: the smaller of A A^T and A^T A has all that is needed of either.
    if rows * columns <= features:
        squares, vectors = jnp.linalg.eigh(jnp.einsum("bik,bjk->bij", cells, cells))
        projected = vectors[..., -1] * jnp.sqrt(jnp.maximum(squares[:, -1:], 0))
    else:
        _, vectors = jnp.linalg.eigh(jnp.einsum("bik,bil->bkl", cells, cells))
        projected = jnp.einsum("bik,bk->bi", cells, vectors[..., -1])
    maps = projected.reshape(batch, rows, columns)
    sign = jnp.where((maps * mean).sum(axis=(1, 2), keepdims=True) < 0, -1, 1)
    return maps * sign.astype(maps.dtype)

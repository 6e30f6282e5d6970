"""What the paper spoils a model with, so that its explanations should become worse (section 4.2).

The smaller degradation is a part of the larger one: the labels or weights that 5 % change are among
those that 10 % change, and change in the same way.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jc2i.checks import one_of, require

DEVIATION = 0.5
"""Standard deviation of the noise, in the weights' own unit (appendix E.2: N(0, 0.5))."""


def inverted(
    labels: Int[np.ndarray, " images"], share: float, *, classes: int, seed: int
) -> Int[np.ndarray, " images"]:
    """Labels of which a share are wrong: another class, each as probable, in place of the image's.

    The paper says "switched" and "inverted" labels, and "5, 10 and 30 % of bad labels"
    (section 4.2), not what they become.

    Args:
      labels: the class of each image.
      share: how many of them become wrong, 0 to 1.
      classes: the number of classes, at least 2.
      seed: chooses the images and their new classes.

    Returns:
      The labels to train on.
    """
    _require_share(share)
    require(classes >= 2, "classes", classes, "at least 2")
    random = np.random.default_rng((seed, 1))
    chosen = random.permutation(len(labels))[: round(share * len(labels))]
    steps = random.integers(1, classes, len(labels))
    wrong = np.array(labels)
    wrong[chosen] = (wrong[chosen] + steps[chosen]) % classes
    return wrong


def with_noise(
    model: Any, share: float, *, seed: int | tuple[int, ...], noise_on: str = "parameters"
) -> Any:
    """A model with Gaussian noise of standard deviation 0.5 added to weights of its convolutions.

    Its convolutions are its weights of rank 4. What follows them (batch norms' statistics, the last
    layer) stays as it was trained.

    Args:
      model: a pytree.
      share: how much of the model changes, 0 to 1.
      seed: chooses the weights and the noise; another for each fold.
      noise_on: what the share is of: `"parameters"`, the weights of each convolution (appendix
        E.2), or `"layers"`, the convolutions, all of whose weights change then (section 4.2).

    Returns:
      The model with other weights.

    Raises:
      ValueError: for a model without a convolution.
    """
    _require_share(share)
    one_of("noise_on", noise_on, ("parameters", "layers"))
    leaves, structure = jax.tree.flatten(model)
    kernels = [i for i, leaf in enumerate(leaves) if jnp.ndim(leaf) == 4]
    require(bool(kernels), "model", "no weights of rank 4", "a model with convolutions")
    random = np.random.default_rng(seed)
    chosen_layers = random.permutation(kernels)
    if noise_on == "layers":
        chosen_layers = chosen_layers[: round(share * len(kernels))]
    # What is drawn does not depend on the share: a larger one only changes more.
    for i in kernels:
        kernel = np.asarray(leaves[i])
        noise = random.normal(0, DEVIATION, kernel.shape)
        order = random.permutation(kernel.size).reshape(kernel.shape)
        if noise_on == "parameters":
            noise[order >= round(share * kernel.size)] = 0
        elif i not in chosen_layers:
            continue
        leaves[i] = jnp.asarray((kernel + noise).astype(kernel.dtype))
    return jax.tree.unflatten(structure, leaves)


def _require_share(share: float) -> None:
    require(0 <= share <= 1, "share", share, "a number from 0 to 1")

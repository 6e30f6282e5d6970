"""The architectures by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from jc2i.checks import Refusal, describe, invalid
from jc2i.models.architectures import (
    VGG,
    EfficientNet,
    Lipschitz,
    ResNet,
    ResNetCifar,
    Small,
    VGGCifar,
    VisionTransformer,
)
from jc2i.models.architectures.efficientnet import SCALES
from jc2i.models.architectures.resnet import BLOCKS
from jc2i.models.architectures.vgg import CONVOLUTIONS
from jc2i.models.architectures.vision_transformer import DIMENSIONS
from jc2i.models.classifier import Classifier, weights, with_weights

ARCHITECTURES: dict[str, tuple[type[Classifier], dict[str, Any]]] = {
    **{f"resnet{depth}": (ResNet, {"depth": depth}) for depth in BLOCKS},
    "resnet18_cifar": (ResNet, {"depth": 18, "small_images": True}),
    "vgg16": (VGG, {"depth": 16, "batch_norm": False}),
    "vgg16_bn": (VGG, {"depth": 16, "batch_norm": True}),
    **{f"efficientnet_{variant}": (EfficientNet, {"variant": variant}) for variant in SCALES},
    **{f"resnet{depth}_cifar": (ResNetCifar, {"depth": depth}) for depth in (20, 32, 44, 56)},
    **{f"vgg{depth}_bn_cifar": (VGGCifar, {"depth": depth}) for depth in CONVOLUTIONS},
    **{name: (VisionTransformer, {"architecture": name}) for name in DIMENSIONS},
    "small": (Small, {}),
    "lipschitz": (Lipschitz, {}),
}
"""The class of each architecture, and the arguments that its name stands for."""


def names() -> tuple[str, ...]:
    """The names that `create`, `from_torch` and saved models go by.

    Returns:
      Every architecture's name.
    """
    return tuple(ARCHITECTURES)


def create(name: str, *, classes: int, key: jax.Array, **options: Any) -> Classifier:
    """A new model in evaluation mode, its weights drawn at random.

    Kernels are normal with variance 2 / fan-in (He et al. 2015, equation 10), or with a standard
    deviation of 0.02 in transformers, whose class token and position embedding are drawn likewise;
    biases are 0, norms the identity. Those of the 1-Lipschitz network are made orthonormal then.

    Args:
      name: one of `names()`.
      classes: the number of classes.
      key: a `jax.random.key`.
      **options: the architecture's own: `mean`, `std`, `normalize`, `channels`, `dtype` for
        all, `base_filters`, `dropout` for residual networks (18, 34 and 50 layers), `shortcut` for
        those on CIFAR (20 and more), `padding`, `epsilon` for EfficientNets, `size`, `hidden` for
        ImageNet's VGG, and these and `widths` for the small one, `size`, `patch`, `width`,
        `depth`, `heads` and `epsilon` for the transformers; `Lipschitz` lists its own.

    Returns:
      A callable pytree `images -> logits`.

    Raises:
      ValueError: for an unknown name or option, or an option out of its range.
    """
    model = blank(name, classes=classes, **options)
    old = weights(model)
    deviations = {n: model.initial_deviation(n, value.shape) for n, value in old.items()}
    deviations = {n: deviation for n, deviation in deviations.items() if deviation is not None}
    sizes = [old[n].size for n in deviations]
    if not isinstance(key, jax.Array):
        raise invalid("key", describe(key), "a jax.random.key")
    # One draw for all: a draw compiles again for each shape, which takes seconds.
    drawn = np.split(np.asarray(jax.random.normal(key, (sum(sizes),))), np.cumsum(sizes)[:-1])
    new = {
        n: part.reshape(old[n].shape) * deviation
        for (n, deviation), part in zip(deviations.items(), drawn, strict=True)
    }
    return with_weights(model, old | new).drawn()


def blank(name: str, **options: Any) -> Classifier:
    """A model in evaluation mode whose kernels are zero, for weights from elsewhere.

    Args:
      name: one of `names()`.
      **options: as `create` takes them, `classes` among them.

    Returns:
      The model.

    Raises:
      ValueError: for an unknown name or option.
    """
    build = _builder(name, options)
    try:
        # As one program: each array of a shape of its own is another to compile, and takes seconds.
        return nnx.jit(build)()
    except ValueError:
        return build()  # the refusal without JAX's remarks on tracebacks


def outline(name: str, **options: Any) -> Classifier:
    """A model whose weights are shapes alone, which takes no memory however large they are.

    Args:
      name: as `blank` takes it.
      **options: likewise.

    Returns:
      The model, for `with_weights`.

    Raises:
      ValueError: as `blank` does.
    """
    try:
        return nnx.eval_shape(_builder(name, options))
    except Refusal as error:
        raise Refusal(str(error)) from None  # without JAX's remarks on tracebacks


def _builder(name: str, options: dict[str, Any]) -> Callable[[], Classifier]:
    if name not in ARCHITECTURES:
        raise invalid("name", repr(name), f"one of {', '.join(names())}")
    build, fixed = ARCHITECTURES[name]
    known = [
        parameter.name
        for parameter in inspect.signature(build.__init__).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise invalid("options", ", ".join(unknown), f"those of {name}: {', '.join(known)}")
    return functools.partial(build, **fixed, **options)

"""The architectures by name."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from jc2i import checks
from jc2i.checks import Refusal, describe, invalid, require
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
from jc2i.models.classifier import Classifier, shapes, weights, with_weights

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
    key = checks.key("key", key)
    model = blank(name, classes=classes, **options)
    old = weights(model)
    deviations = {n: model.initial_deviation(n, value.shape) for n, value in old.items()}
    deviations = {n: deviation for n, deviation in deviations.items() if deviation is not None}
    sizes = [old[n].size for n in deviations]
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
    counts = jax.tree.leaves(
        {name: build.keywords[name] for name in _OPTIONS if name in build.keywords}
    )
    if any(isinstance(count, int) and count > USUAL for count in counts):
        count = sum(map(math.prod, shapes(outline(name, **options)).values()))
        got = f"those of a model of {count} weights"
        require(count <= MOST_WEIGHTS, "options", got, f"those of at most {MOST_WEIGHTS}")
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


USUAL = 4096
"""Up to it a count makes no model that is too large."""

MOST_WEIGHTS = 2**31
"""Of a model: 8 GiB."""


def _whole(most: int) -> Callable[[str, Any], int]:
    return lambda name, value: checks.whole(name, value, most=most)


def _widths(name: str, value: Any) -> tuple[int, ...]:
    takes = "a list of whole numbers above 0, at most 16"
    several = isinstance(value, list | tuple) and 0 < len(value) <= 16
    require(several, name, describe(value), takes)
    try:
        return tuple(checks.whole(name, width, most=10**6) for width in value)
    except Refusal:
        raise invalid(name, describe(tuple(value)), takes) from None


_OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("classes", "channels", "hidden", "width", "base_filters"), _whole(10**6)),
    **dict.fromkeys(("size", "patch", "depth", "heads"), _whole(2**14)),
    "widths": _widths,
    "epsilon": checks.number,
    "normalize": checks.flag,
}
"""What makes of an option the one form that an architecture sees, where it does not itself."""


def _builder(name: str, options: dict[str, Any]) -> functools.partial[Classifier]:
    known_name = isinstance(name, str) and name in ARCHITECTURES
    require(known_name, "name", describe(name), f"one of {', '.join(names())}")
    build, fixed = ARCHITECTURES[name]
    known = {
        parameter.name: parameter.default
        for parameter in inspect.signature(build.__init__).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    unknown = [option for option in options if option not in known]
    if unknown:
        raise invalid("options", ", ".join(unknown), f"those of {name}: {', '.join(known)}")
    read = {
        option: _OPTIONS[option](option, value)
        if option in _OPTIONS and not (value is None and known[option] is None)
        else value
        for option, value in options.items()
    }
    return functools.partial(build, **fixed, **read)

"""Models and explainers at fault."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .judge import Expected
from .malformed import Input, inputs, junk


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Behind:
    """A network with something behind it."""

    network: Any
    function: Callable = dataclasses.field(metadata={"static": True})

    def __call__(self, images):
        return self.function(self.network(images))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Before:
    """A network with something before it."""

    network: Any
    function: Callable = dataclasses.field(metadata={"static": True})

    def __call__(self, images):
        return self.network(self.function(images))


def raises(error):
    def function(*arguments, **options):
        raise error

    return function


def asks(images):
    """Looks at values, as no traced function can."""
    return images if images.sum() > 0 else -images


# What a model may return in place of scores[batch, classes].
RETURNS = {
    "integers": lambda scores: scores.astype(jnp.int32),
    "truths": lambda scores: scores > 0,
    "complex numbers": lambda scores: scores.astype(jnp.complex64),
    "a row less": lambda scores: scores[1:],
    "one row": lambda scores: scores[:1],
    "more rows": lambda scores: jnp.concatenate([scores, scores]),
    "one class": lambda scores: scores[:, :1],
    "no class": lambda scores: scores[:, :0],
    "an axis less": lambda scores: scores[:, 0],
    "an axis more": lambda scores: scores[..., None],
    "transposed scores": lambda scores: scores.T,
    "the mean": lambda scores: scores.mean(),
    "a tuple": lambda scores: (scores, scores),
    "a pair of numbers": lambda scores: (8, 4),
    "a list": lambda scores: [scores],
    "a dict": lambda scores: {"logits": scores},
    "None": lambda scores: None,
    "a word": lambda scores: "cat",
    "an object": lambda scores: object(),
    "keys": lambda scores: jax.random.split(jax.random.key(0), scores.shape),
}
RAISES = [
    ValueError("of mine\nin two lines"),
    TypeError("of mine" * 1000),
    KeyError("layer"),
    RuntimeError("of mine"),
    AssertionError(),
    ZeroDivisionError("division by zero"),
    NotImplementedError(),
    MemoryError("too much"),
]


@dataclasses.dataclass(frozen=True)
class Model:
    """A model. One that is asked at other batches than it closes over may be refused then."""

    several: bool = True


@dataclasses.dataclass(frozen=True)
class Explainer:
    """An explainer, as an argument of a metric; of the images' size, if its maps must be."""


@inputs.register
def _(kind: Model, good: Any) -> Iterator[Input]:
    yield from junk("a class")
    yield "a number", 7, Expected.REFUSAL
    yield "an array", np.zeros((8, 4), np.float32), Expected.REFUSAL
    for label, function in RETURNS.items():
        yield f"returns {label}", Behind(good, function), Expected.REFUSAL
    for error in RAISES:
        yield f"raises {type(error).__name__}", Before(good, raises(error)), Expected.REFUSAL
    yield "asks for values", Before(good, asks), Expected.REFUSAL
    yield "makes NumPy's arrays", Before(good, np.asarray), Expected.REFUSAL
    yield "takes nothing", lambda: None, Expected.REFUSAL
    yield "takes two", lambda images, labels: images, Expected.REFUSAL
    yield "takes another size", Before(good, lambda images: images[..., :1]), Expected.REFUSAL
    of_three = Before(good, lambda images: images.reshape(3, *images.shape[1:]))
    yield "closes over three images", of_three, Expected.REFUSAL


EXPLAINERS = {
    "the images": lambda model, images, targets, *, key=None: images,
    "numbers": lambda model, images, targets, *, key=None: images.mean((1, 2, 3)),
    "one number": lambda model, images, targets, *, key=None: images.mean(),
    "one map": lambda model, images, targets, *, key=None: images[0, ..., 0],
    "a map less": lambda model, images, targets, *, key=None: images[1:, ..., 0],
    "no map": lambda model, images, targets, *, key=None: images[:0, ..., 0],
    "words": lambda model, images, targets, *, key=None: "map",
    "nothing": lambda model, images, targets, *, key=None: None,
    "a tuple": lambda model, images, targets, *, key=None: (images[..., 0], images[..., 0]),
    "complex maps": lambda model, images, targets, *, key=None: images[..., 0] * 1j,
    "a list": lambda model, images, targets, *, key=None: [images[..., 0]],
}


@inputs.register
def _(kind: Explainer, good: Any) -> Iterator[Input]:
    yield from junk("a class")
    yield "a number", 7, Expected.REFUSAL
    for label, function in EXPLAINERS.items():
        yield f"returns {label}", function, Expected.REFUSAL
    for error in RAISES:
        yield f"raises {type(error).__name__}", raises(error), Expected.REFUSAL
    yield "takes nothing", lambda: None, Expected.REFUSAL
    yield "takes no key", lambda model, images, targets: images[..., 0], Expected.EITHER


def spoilt(network, **weights):
    """The same network with other weights: nothing is compiled for it."""
    return dataclasses.replace(network, weights={**network.weights, **weights})

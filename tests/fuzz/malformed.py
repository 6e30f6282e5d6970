"""Bad inputs, and the good ones at the edge, by what an argument takes.

Which are bad follows from the kind of the argument: nothing here knows a function. A kind is one of
`jc2i.options`, whose instances the registry holds, or one of those below.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jc2i import options
from jc2i.explainers.cam.opti_cam import Start
from jc2i.explainers.gradients.integrated_gradients import References
from jc2i.explainers.surrogate.regions import HiddenBy

from .judge import Expected

Input = tuple[str, Any, Expected]
"""What is bad about it, the value, what it should come to."""

LONG = [0.5] * 5000
NOTHING = object()


class _Strange:
    """Something whose text is of 16 kB and several lines."""

    def __repr__(self) -> str:
        return "strange\n" * 2000


class _Closed:
    """Something that nothing can be asked of."""

    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")


def _deleted():
    array = jnp.ones((2, 3))
    array.delete()
    return array


JUNK = {
    "None": None,
    "a word": "some",
    "a long list": LONG,
    "lists of other lengths": [[1.0], [1.0, 2.0]],
    "a dict": {"a": 1},
    "an object": NOTHING,
    "a set": {1, 2},
    "bytes": b"1",
    "a class": int,
    "an exception": ValueError("an error\nof two lines"),
    "a long text": _Strange(),
    "an imaginary number": 1j,
    "a shape": jax.ShapeDtypeStruct((2, 3), np.float32),
    "an array of objects": np.full(3, None),
    "an array of words": np.full(3, "a"),
    "dates": np.zeros(3, "datetime64[s]"),
    "records": np.zeros(3, [("a", np.float32)]),
    "a key": jax.random.key(0),
    "a duration": np.timedelta64(1, "ns"),
    "a masked number": np.ma.masked,
    "a deleted array": _deleted(),
    "5,000 digits": 10**5000,
    "a closed object": _Closed(),
}
"""What nothing takes, unless its kind says so."""

TOO_LARGE = (10**9, 2**40, 2**63, 10**30)
INFINITE = {"NaN": np.nan, "infinity": np.inf, "minus infinity": -np.inf}


# Kinds of arguments that no option has.


@dataclasses.dataclass(frozen=True)
class Values:
    """An array.

    Attributes:
      rank: how many axes; None for any.
      of: which of `"float"`, `"integer"` and `"bool"` it may hold.
      finite: whether NaN and infinity are refused; otherwise they are as `spoils` says.
      spoils: whether a NaN spoils one image's result, and no other's.
      tied: whether it must have as many entries as other arguments.
      small: whether an array may be empty.
      lists: whether a list of numbers will do.
      range: bounds of its values.
      images: whether these are images, which a huge number is refused in.
    """

    rank: int | None = None
    of: tuple[str, ...] = ("float",)
    finite: bool = True
    spoils: bool = False
    tied: bool = True
    empty: bool = False
    lists: bool = False
    range: tuple[float, float] | None = None
    images: bool = False


@dataclasses.dataclass(frozen=True)
class Key:
    """A key: one, or one for each image."""

    each: bool = False
    optional: bool = False
    raw: bool = True


@dataclasses.dataclass(frozen=True)
class Labels:
    """One class a row."""

    classes: int


@dataclasses.dataclass(frozen=True)
class Function:
    """Something that can be called; models and explainers have bad ones of their own."""

    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Other:
    """An argument of its own kind, whose bad values are given."""

    bad: tuple[Any, ...] = ()
    good: tuple[Any, ...] = ()
    junk: tuple[str, ...] = tuple(JUNK)


KINDS = {"float": jnp.floating, "integer": jnp.integer, "bool": jnp.bool_}


@functools.singledispatch
def inputs(kind: Any, good: Any) -> Iterator[Input]:
    """The inputs of a kind, made from a good one."""
    raise TypeError(f"teach this suite what {kind} takes")


def junk(*but: str) -> Iterator[Input]:
    for label, value in JUNK.items():
        if label not in but:
            yield label, value, Expected.REFUSAL


def bad(**values: Any) -> Iterator[Input]:
    for label, value in values.items():
        yield label, value, Expected.REFUSAL


def _numbers(values: Any) -> Iterator[Input]:
    for value in values:
        yield repr(value)[:40], value, Expected.REFUSAL


@inputs.register
def _(kind: Values, good: Any) -> Iterator[Input]:
    good = np.asarray(good)
    yield from junk("None") if kind.lists else junk()
    if kind.lists:
        yield "None", None, Expected.REFUSAL
    elif good.ndim:
        yield "a list", good.tolist(), Expected.REFUSAL
    refused = {
        "objects": np.full(good.shape, None),
        "words": np.full(good.shape, "a"),
        "complex": good.astype(np.complex64),
        "dates": np.zeros(good.shape, "datetime64[s]"),
        "durations": np.zeros(good.shape, "timedelta64[s]"),
        "keys": jax.random.split(jax.random.key(0), good.shape or ()),
        "masked": np.ma.masked_array(good, np.zeros(good.shape, bool)),
    }
    for name, dtypes in {
        "float": [np.float32],
        "integer": [np.uint8, np.int32, np.int64],
        "bool": [bool],
    }.items():
        if name not in kind.of:
            refused |= {f"{np.dtype(d).name} values": np.nan_to_num(good).astype(d) for d in dtypes}
    if kind.rank is not None:
        refused["an axis more"] = good[None]
        refused["a column"] = good[..., None]
        refused["a number"] = np.asarray(good.reshape(-1)[0])
        if good.ndim:
            refused["an axis less"] = good[0]
    if good.ndim and not kind.empty:
        refused["no entry"] = good[:0]
        refused["nothing in each"] = good[..., :0]
    if good.ndim and kind.tied:
        refused["an entry less"] = good[:-1]
        refused["an entry more"] = np.concatenate([good, good[:1]])
        refused["one entry"] = good[:1]
    for label, value in refused.items():
        yield label, value, Expected.REFUSAL
    if "float" in kind.of and good.dtype.kind == "f":
        yield from _floats(kind, good)
    taken = {"an array of JAX's": jnp.asarray(good)}
    if good.ndim:
        taken["reversed strides"] = good[..., ::-1][..., ::-1]
    taken["other byte order"] = good.astype(good.dtype.newbyteorder(">"))
    locked = good.copy()
    locked.setflags(write=False)
    taken["not to be written"] = locked
    for label, value in taken.items():
        yield label, value, Expected.VALUE


def _floats(kind: Values, good: np.ndarray) -> Iterator[Input]:
    for label, value in INFINITE.items():
        spoilt = good.copy()
        spoilt.reshape(-1)[0] = value
        expected = Expected.SPOILT if kind.spoils else Expected.EITHER
        yield label, spoilt, Expected.REFUSAL if kind.finite else expected
        if kind.finite:
            yield f"{label} throughout", np.full_like(good, value), Expected.REFUSAL
    if kind.range is not None:
        yield "above its range", np.full_like(good, kind.range[1] + 1), Expected.REFUSAL
        yield "below its range", np.full_like(good, kind.range[0] - 1), Expected.REFUSAL
    for dtype in (np.float16, np.float64, jnp.bfloat16, np.longdouble, jnp.float8_e5m2):
        yield f"{np.dtype(dtype).name}", good.astype(dtype), Expected.VALUE
    if kind.range is None:
        yield "zeros", np.zeros_like(good), Expected.VALUE
        yield "subnormal", good * np.float32(1e-40), Expected.VALUE
        yield "large", good * np.float32(1e8), Expected.VALUE
        yield "huge", good * np.float32(1e20), Expected.REFUSAL if kind.images else Expected.VALUE
        yield "beyond float32", good.astype(np.float64) * 1e300, Expected.REFUSAL


@inputs.register
def _(kind: Key, good: Any) -> Iterator[Input]:
    yield from junk(*["None"] * kind.optional, "a key")
    one = jax.random.key(0)
    yield "an integer", 7, Expected.REFUSAL
    yield "floats", np.zeros(2, np.float32), Expected.REFUSAL
    yield "three words", np.zeros(3, np.uint32), Expected.REFUSAL
    yield "signed words", np.zeros(2, np.int32), Expected.REFUSAL
    yield "a table of keys", jax.random.split(one, (2, 2)), Expected.REFUSAL
    yield "no keys", jax.random.split(one, 0), Expected.REFUSAL
    yield "keys of another number", jax.random.split(one, 97), Expected.REFUSAL
    yield "raw keys of another number", np.zeros((97, 2), np.uint32), Expected.REFUSAL
    if kind.raw:
        yield "a raw key", np.array([0, 1], np.uint32), Expected.VALUE
    yield "a key of another generator", jax.random.key(0, impl="rbg"), Expected.EITHER


@inputs.register
def _(kind: Labels, good: Any) -> Iterator[Input]:
    good = np.asarray(good, np.int64)
    yield from junk()
    yield from bad(
        floats=good.astype(np.float32),
        truths=good > 0,
        complex=good.astype(np.complex64),
        objects=good.astype(object),
        column=good[:, None],
        row=good[None],
        one_hot=np.eye(kind.classes)[good],
        none=good[:0],
        fewer=good[:-1],
        one=good[:1],
        more=np.concatenate([good, good]),
        number=1,
        negative=np.where(np.arange(len(good)) == 0, -1, good),
        above=np.where(np.arange(len(good)) == 0, kind.classes, good),
        far_above=np.where(np.arange(len(good)) == 0, 2**40, good),
        wraps_to_0=np.where(np.arange(len(good)) == 0, 2**32, good),
        huge=np.where(np.arange(len(good)) == 0, np.uint64(2**63), good.astype(np.uint64)),
        huge_list=[10**30, *good[1:].tolist()],
        truths_list=[True] * len(good),
        floats_list=[0.0] * len(good),
        nested_list=[[0]] * len(good),
        infinite=np.full(len(good), np.inf),
        durations=good.astype("timedelta64[s]"),
        masked=np.ma.masked_array(good, np.zeros(len(good), bool)),
    )
    for label, value in {
        "bytes of integers": good.astype(np.uint8),
        "small integers": good.astype(np.int8),
        "large integers": good.astype(np.uint64),
        "other byte order": good.astype(">i4"),
        "an array of JAX's": jnp.asarray(good),
        "a list": good.tolist(),
    }.items():
        yield label, value, Expected.VALUE


@inputs.register
def _(kind: Function, good: Any) -> Iterator[Input]:
    yield from junk("a class", *["None"] * kind.optional)
    yield "a number", 7, Expected.REFUSAL


@inputs.register
def _(kind: Other, good: Any) -> Iterator[Input]:
    for label in kind.junk:
        yield label, JUNK[label], Expected.REFUSAL
    for value in kind.bad:
        yield repr(value)[:40], value, Expected.REFUSAL
    for value in kind.good:
        yield repr(value)[:40], value, Expected.VALUE


# The kinds of options.


@inputs.register
def _(kind: options.Whole, good: Any) -> Iterator[Input]:
    yield from junk()
    below = [value for value in (0, -1, -(2**40)) if value < kind.least]
    yield from _numbers(
        [
            *below,
            *(value for value in TOO_LARGE if value > kind.most),
            2.5,
            2.0,
            True,
            np.float32(2),
            np.nan,
            np.inf,
        ]
    )
    yield from bad(truth=np.bool_(True), several=np.array([2, 3]), float_array=np.array(2.0))
    if good is not None:
        for label, value in {"NumPy's": np.int32(good), "an array of one": np.array(good)}.items():
            yield label, value, Expected.VALUE


@inputs.register
def _(kind: options.Number, good: Any) -> Iterator[Input]:
    yield from junk()
    yield from _numbers([np.nan, np.inf, -np.inf, 1e300, -1e300, 10**400, True, "1.0"])
    low, high = kind.least, kind.most
    beyond = [low - 1, high + 1, kind.above, kind.above - 1]
    yield from _numbers([number for number in beyond if np.isfinite(number)])
    yield from bad(
        several=np.array([0.5, 0.5]), truth=np.bool_(True), none=np.zeros(0), column=np.ones((1, 1))
    )
    if good is not None:
        taken = {
            "NumPy's": np.float64(good),
            "half": np.float16(good),
            "an array of JAX's": jnp.asarray(good, np.float32),
            "an array of rank 0": np.asarray(good, ">f8"),
        }
        for label, value in taken.items():
            yield label, value, Expected.VALUE
    if np.isinf(high) and kind.above <= 0 <= max(low, 0):
        yield "a large number", 1e10, Expected.EITHER
    if low <= 0 and kind.above < 0:
        yield "zero", 0, Expected.VALUE
    if kind.above == 0 or low <= 0:
        yield "a small number", 1e-10, Expected.EITHER
        yield "a number that underflows", 1e-60, Expected.EITHER


@inputs.register
def _(kind: options.Numbers, good: Any) -> Iterator[Input]:
    yield from junk("a long list")
    yield from bad(
        none=[],
        words=[0.5, "a"],
        nan=[0.5, np.nan],
        nested=[[0.5]],
        table=np.ones((2, 2)),
        empty=np.zeros(0),
        truths=[True, False],
        whole_truth=True,
        infinite=np.array([np.inf]),
    )


@inputs.register
def _(kind: options.Floats, good: Any) -> Iterator[Input]:
    yield from junk()
    yield from bad(
        nan=np.nan,
        infinite=np.array([np.inf]),
        none=np.zeros(0),
        truth=True,
        truths=np.array([True]),
        deep=np.ones((1,) * (kind.rank + 1)),
        huge=1e300,
        words=["a"],
        other=np.ones(97),
    )
    if np.isfinite(kind.least):
        yield "below", kind.least - 1.0, Expected.REFUSAL


@inputs.register
def _(kind: options.OneOf, good: Any) -> Iterator[Input]:
    yield from junk(*["None"] * (None in kind.choices))
    yield from _numbers([True, 2.5, 97, np.nan, "", " ".join(["word"] * 3000), ["a"], ("sum",)])
    word = next((choice for choice in kind.choices if isinstance(choice, str)), None)
    if word is not None:
        yield "upper case", word.upper(), Expected.REFUSAL
        yield "bytes of it", word.encode(), Expected.REFUSAL
        yield "a list of it", [word], Expected.REFUSAL
    if isinstance(good, str):
        yield "a word of NumPy's", np.str_(good), Expected.VALUE


@inputs.register
def _(kind: options.Flag, good: Any) -> Iterator[Input]:
    yield from junk()
    yield from _numbers([0, 1, 1.0, "false", "True", np.nan, np.int32(1), [True]])
    yield from bad(several=np.array([True, False]), a_float=np.array(1.0))
    yield "NumPy's", np.bool_(good), Expected.VALUE
    yield "an array", jnp.asarray(bool(good)), Expected.VALUE


@inputs.register
def _(kind: options.Text, good: Any) -> Iterator[Input]:
    yield from junk()
    yield from _numbers([7, True, "", "a layer that there is not", "layer1#0#0", "#1", "x" * 5000])
    yield from bad(none=[], mixed=["layer1", 7], empty=(), words=np.array(["layer1"]))


@inputs.register
def _(kind: options.Fill, good: Any) -> Iterator[Input]:
    hidden = isinstance(kind, HiddenBy)
    yield from junk()
    yield from _numbers(
        [True, "black", "", np.nan, np.inf, -np.inf, 10**400, "mean" * (not hidden)]
    )
    yield from bad(
        nan_colour=(0.1, np.nan, 0.2),
        two_channels=(0.1, 0.2),
        none=[],
        table=np.zeros((3, 3)),
        bytes=np.zeros((8, 9, 3), np.uint8),
        image=np.zeros((7, 9, 3), np.float32),
        batch=np.zeros((97, 8, 9, 3), np.float32),
        spoilt=np.full((8, 9, 3), np.inf, np.float32),
        deep=np.zeros((1, 1, 8, 9, 3), np.float32),
        complex=np.zeros(3, np.complex64),
        too_large_for_float32=1e300,
    )
    yield "NumPy's", np.float32(0.5), Expected.VALUE
    yield "a whole number", 1, Expected.VALUE
    yield "a negative number", -0.5, Expected.VALUE


@inputs.register
def _(kind: References, good: Any) -> Iterator[Input]:
    yield from junk()
    yield from _numbers([True, "grey", "", np.nan, np.inf, 10**400, 1e300])
    yield from bad(
        words=("black", "grey"),
        none=(),
        nan=("black", np.nan),
        two_channels=(0.1, 0.2),
        nan_colour=(0.1, np.nan, 0.2),
        truths=(True, False, True),
        nested=(("black",), "white"),
        spoilt=np.full((8, 9, 3), np.inf, np.float32),
        image=np.zeros((7, 9, 3), np.float32),
        batch=np.zeros((2, 8, 9, 3), np.float32),
        bytes=np.zeros((8, 9, 3), np.uint8),
    )


@inputs.register
def _(kind: Start, good: Any) -> Iterator[Input]:
    yield from junk()
    yield from _numbers([True, np.nan, np.inf, 1e300, 10**400])
    yield from bad(
        nan=np.full(6, np.nan, np.float32),
        other=np.zeros((3, 6), np.float32),
        deep=np.zeros((1, 8, 6), np.float32),
        none=np.zeros(0, np.float32),
        features=np.zeros((8, 5), np.float32),
    )


@inputs.register
def _(kind: options.Maps, good: Any) -> Iterator[Input]:
    yield from inputs(MAPS, good)
    yield "another size", np.zeros((len(good), 3, 3), np.float32), Expected.REFUSAL
    yield "channels", np.zeros((*good.shape, 3), np.float32), Expected.REFUSAL


MAPS = Values(3, of=("float", "integer", "bool"), finite=False, spoils=True)
"""Saliency maps of any real type."""


@inputs.register
def _(kind: options.PerImage, good: Any) -> Iterator[Input]:
    of = ("integer",) if kind.integers else ("float", "integer", "bool")
    yield from inputs(Values(kind.rank, of=of), good)
    if good.ndim == 3:
        yield "another size", np.zeros((len(good), 3, 3), np.int32), Expected.REFUSAL
        for label, value in {
            "below 0": -7,
            "above the pixels": 10**6,
            "the largest": 2**31 - 1,
        }.items():
            yield label, np.where(good == 0, value, good).astype(np.int32), Expected.VALUE
        yield "beyond 32 bits", np.where(good == 0, 2**40, good.astype(np.int64)), Expected.REFUSAL
        yield "unsigned", good.astype(np.uint64), Expected.VALUE


@inputs.register
def _(kind: options.TieKey, good: Any) -> Iterator[Input]:
    yield from inputs(Key(optional=True), good)


@inputs.register
def _(kind: options.Sides, good: Any) -> Iterator[Input]:
    yield from junk()
    yield from _numbers([0, -1, 2.5, True, (2,), (2, 3, 4), (2, 0), (2, 2.5), (True, 2), 2**40])


@inputs.register
def _(kind: options.Maybe, good: Any) -> Iterator[Input]:
    for label, value, expected in inputs(kind.kind, good):
        if value is not None:
            yield label, value, expected

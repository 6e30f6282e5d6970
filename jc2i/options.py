"""What an option of a method takes: a table in the method's decorator, read before any tracing.

Each kind turns what a caller gave into the one form that the method sees, or refuses it by name.
Whole numbers, words and truth values are static: another value is another program. Numbers and
arrays are arguments of the program, so that a sweep over their values compiles once.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jc2i import checks, removal
from jc2i.normalization import as_maps

Scalar = int | float | np.integer | np.floating | Float[checks.Array, ""]
"""How a number with a point is annotated: given as one, it reaches the method as an array."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number within bounds.

    Attributes:
      least: the least that is taken.
      bounded: whether the memory that a method needs does not grow with it.
      most: the largest that is taken.
    """

    least: int = 1
    bounded: bool = True
    most: int = checks.MOST

    def read(self, name: str, value: Any, images: Any) -> int:
        """The number as Python's."""
        del images
        takes = "a whole number above 0" if self.least == 1 else f"a whole number from {self.least}"
        return checks.whole(name, value, takes, self.least, self.most)


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number within bounds; an argument of the program, in the images' type."""

    least: int | float = -math.inf
    most: int | float = math.inf
    above: int | float = -math.inf
    takes: str = "a finite number"

    def read(self, name: str, value: Any, images: Any) -> Any:
        """The number as an array of rank 0."""
        number = checks.number(name, value, self.takes, self._holds)
        # On the host where it is known: an array on a device is a program to compile.
        numpy = np if checks.is_concrete(number) else jnp
        return numpy.asarray(number, images.dtype)

    def _holds(self, number: float) -> bool:
        finite = math.isfinite(number)
        return finite and self.least <= number <= self.most and number > self.above


@dataclasses.dataclass(frozen=True)
class Numbers:
    """One number, or several of one kind; arguments of the program, as an array of rank 1."""

    number: Number = Number()

    def read(self, name: str, value: Any, images: Any) -> Any:
        """The numbers in the images' type."""
        takes = f"{self.number.takes}, or several"
        several = isinstance(value, list | tuple) or (checks.is_array(value) and value.ndim == 1)
        entries = list(value) if several else [value]
        checks.require(bool(entries), name, checks.describe(value), takes)
        try:
            numbers = [self.number.read(name, entry, images) for entry in entries]
        except checks.Refusal:
            raise checks.invalid(name, checks.describe(value), takes) from None
        return (np if checks.is_concrete(*numbers) else jnp).stack(numbers)


@dataclasses.dataclass(frozen=True, init=False)
class OneOf:
    """One of a few words or whole numbers, None perhaps among them."""

    choices: tuple[str | int | None, ...]

    def __init__(self, *choices: str | int | None) -> None:
        object.__setattr__(self, "choices", choices)

    def read(self, name: str, value: Any, images: Any) -> str | int | None:
        """The choice itself."""
        del images
        value = checks.item_of(value)
        known = isinstance(value, str | int | None) and not isinstance(value, bool)
        takes = " or ".join(map(repr, self.choices))
        checks.require(known and value in self.choices, name, checks.describe(value), takes)
        return value


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    def read(self, name: str, value: Any, images: Any) -> bool:
        """The truth value as Python's."""
        del images
        return checks.flag(name, value)


@dataclasses.dataclass(frozen=True)
class Text:
    """Any word, or several: the name of a layer."""

    several: bool = False

    def read(self, name: str, value: Any, images: Any) -> str | tuple[str, ...]:
        """The word, or a tuple of them."""
        del images
        if self.several and isinstance(value, list | tuple) and value:
            if all(isinstance(word, str) for word in value):
                return tuple(map(str, value))
        takes = "a name, or several" if self.several else "a name"
        checks.require(isinstance(value, str), name, checks.describe(value), takes)
        return str(value)


@dataclasses.dataclass(frozen=True)
class Maybe:
    """None, or what another kind takes."""

    kind: Any

    @property
    def by_image(self) -> bool:
        """Whether what is not None has one entry an image."""
        return getattr(self.kind, "by_image", False)

    def read(self, name: str, value: Any, images: Any) -> Any:
        """None, or what the other kind makes of it."""
        if value is None:
            return None
        try:
            return self.kind.read(name, value, images)
        except checks.Refusal as refusal:
            raise checks.Refusal(f"{refusal}, or None") from None


@dataclasses.dataclass(frozen=True)
class Sides:
    """One whole number above 0 for both sides, or one for each of height and width."""

    def read(self, name: str, value: Any, images: Any) -> tuple[int, int]:
        """Two whole numbers."""
        takes = "one or two whole numbers above 0"
        pair = value if isinstance(value, list | tuple) else (value, value)
        checks.require(len(pair) == 2, name, checks.describe(value), takes)
        try:
            height, width = (Whole().read(name, side, images) for side in pair)
        except checks.Refusal:
            raise checks.invalid(name, checks.describe(value), takes) from None
        return height, width


@dataclasses.dataclass(frozen=True)
class Fill:
    """What a removed pixel becomes (`jc2i.removal`)."""

    def read(self, name: str, value: Any, images: Any) -> Any:
        """The word, or an array of the images' type."""
        return removal.read(name, value, images)


@dataclasses.dataclass(frozen=True)
class TieKey:
    """None, or one `jax.random.key` for all images."""

    def read(self, name: str, value: Any, images: Any) -> Any:
        """The key, typed."""
        del images
        if value is None:
            return None
        takes = "one jax.random.key, or None"
        return checks.key(name, value, takes)


@dataclasses.dataclass(frozen=True)
class Floats:
    """Finite numbers of at most `rank` axes, the same for all images; an argument of the program.

    None is refused: a default of None makes an option that must be given.
    """

    rank: int
    least: int | float = -math.inf
    takes: str = "an array of numbers"

    def read(self, name: str, value: Any, images: Any) -> Any:
        """The numbers in the images' type."""
        values = checks.finite_numbers(name, value, self.takes, images.dtype)
        got = checks.describe(value)
        checks.require(values.ndim <= self.rank, name, got, self.takes)
        if checks.is_concrete(values):
            fits = bool((np.asarray(values) >= self.least).all())
            checks.require(fits, name, f"values out of range in {got}", self.takes)
        return values


@dataclasses.dataclass(frozen=True)
class PerImage:
    """An array with one entry an image, numbers of any kind; `rank` axes if given."""

    by_image: ClassVar[bool] = True

    rank: int | None = None
    integers: bool = False
    takes: str = "an array with one entry for each image"

    def read(self, name: str, value: Any, images: Any) -> Any:
        """The array."""
        takes = f"{self.takes} ({images.shape[0]})"
        value = checks.array(name, value, takes, of=("integer",) if self.integers else checks.REAL)
        fits = value.ndim > 0 and value.shape[0] == images.shape[0] and value.size > 0
        fits = fits and (self.rank is None or value.ndim == self.rank)
        checks.require(fits, name, checks.describe(value), takes)
        # Integers in one type, so that a program is not compiled again for each.
        return jnp.asarray(checks.held(name, value, np.int32 if self.integers else None))


@dataclasses.dataclass(frozen=True)
class Maps:
    """Saliency maps of the images' size, in any type of real numbers."""

    by_image: ClassVar[bool] = True

    def read(self, name: str, value: Any, images: Any) -> Any:
        """The maps as floats; NaN and infinity stay, and make that image's result NaN."""
        maps = as_maps(name, value, images.shape[:3])
        return maps.astype(jnp.promote_types(maps.dtype, images.dtype))


@dataclasses.dataclass(frozen=True)
class Anything:
    """An array, which is an argument of the program, or else something static."""

    def read(self, name: str, value: Any, images: Any) -> Any:
        """As it is; a plain number with a point becomes an argument of the program."""
        if isinstance(value, bool | str | int) or value is None:
            return value
        if isinstance(value, float | np.floating):
            return Number().read(name, value, images)
        value = tuple(value) if isinstance(value, list) else value
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            value = np.asarray(value) if isinstance(value, np.generic) else value
            value = checks.array(name, value, "an array of numbers", of=checks.REAL)
            return jnp.asarray(checks.held(name, value))
        try:
            hash(value)
        except TypeError:
            got = checks.describe(value)
            raise checks.invalid(name, got, "an array, or a hashable option") from None
        return value


OWN = ("model", "images", "targets", "key", "batch_size")
"""Arguments that every method means the same by."""


def kinds(signature: inspect.Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """The kind of each option: the one given, or what its default's type says."""
    return {
        name: given.get(name, _of_default(parameter.default))
        for name, parameter in signature.parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD and name not in OWN
    }


def _of_default(default: Any) -> Any:
    if isinstance(default, bool):
        return Flag()
    if isinstance(default, int):
        return Whole(min(1, default))
    if isinstance(default, float):
        return Number()
    return Text() if isinstance(default, str) else Anything()


def from_words(words: Sequence[str], kinds: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Options as a command line gives them, each as name=value.

    Args:
      words: such as `"steps=300"` and `"baseline=blur"`.
      kinds: what options take, by name, where it is known.

    Returns:
      Values by name: Python's literals, and words as they are; "true", "false" and "none" in any
      case where an option takes a truth value or None.

    Raises:
      ValueError: for another form, and for an option that is given twice.
    """
    given: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        checks.require(bool(equals), "option", repr(word), "name=value")
        checks.require(name not in given, "option", f"{name!r} more than once", "each once")
        given[name] = _value(value, kinds.get(name))
    return given


def _value(text: str, kind: Any) -> Any:
    """What a word of the command line means to an option: a value of Python's, or the word."""
    word, inner = text.strip().casefold(), kind.kind if isinstance(kind, Maybe) else kind
    if isinstance(inner, Flag) and word in ("true", "false"):
        return word == "true"
    if isinstance(kind, Maybe) and word == "none":
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text

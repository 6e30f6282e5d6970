"""The public functions, each with a call that works and what its arguments take."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax

from .judge import Case, Expected
from .malformed import NOTHING, inputs


@dataclasses.dataclass(frozen=True)
class Subject:
    """A public function.

    Attributes:
      name: with its namespace.
      function: takes arguments by name.
      arguments: those of a call that works.
      kinds: what each argument takes.
      also: what else a refusal may call an argument.
      more: further inputs (argument, label, value, expected).
      varies: whether the result's shape depends on the values.
      other: what inputs come to, by argument and label, of which the kind's rule is not true; None
        leaves them out.
    """

    name: str
    function: Callable
    arguments: dict[str, Any]
    kinds: dict[str, Any]
    also: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    more: tuple[tuple[str, str, Any, Expected], ...] = ()
    varies: bool = False
    other: dict[tuple[str, str], Expected | None] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def result(self) -> Any:
        """What the call that works gives."""
        return jax.block_until_ready(self.function(**self.arguments))

    def cases(self) -> Iterator[Case]:
        """Every bad input."""
        every = [
            (argument, label, value, expected)
            for argument, kind in self.kinds.items()
            for label, value, expected in inputs(kind, self.arguments.get(argument, NOTHING))
        ]
        for argument, label, value, expected in (*every, *self.more):
            expected = self.other.get((argument, label), expected)
            if expected is None:
                continue
            names = (argument, *self.also.get(argument, ()))
            changed = {**self.arguments, argument: value}
            yield Case(
                f"{self.name}({argument}: {label})",
                functools.partial(self.function, **changed),
                expected,
                names,
                None if self.varies else lambda: self.result,
            )

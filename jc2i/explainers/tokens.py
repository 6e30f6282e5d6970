"""The grid that a transformer's tokens lie on, by arithmetic on their number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jc2i import checks

MOST_PREFIX_TOKENS = 16
"""Tokens before the patches that arithmetic alone finds; more have to be said."""


class TokenGrid(NamedTuple):
    """Where tokens lie: `prefix` that belong to no place, then `rows` x `columns` row by row."""

    prefix: int
    rows: int
    columns: int


def grid_of_tokens(
    tokens: int, height: int, width: int, prefix_tokens: int | None = None
) -> TokenGrid:
    """How many tokens come before the patches of an image, and the grid that the patches lie on.

    A patch is a square of a whole number s of pixels, so that the grid is the image's sides divided
    by s, both rounded down or both up, and has more than one cell. Of the grids that are no larger
    than the number of tokens, the largest leaves the fewest over: a class token, a distillation
    token, registers. Where that is one of patches that do not divide the image, and there is one of
    patches that do, with more tokens left over, arithmetic does not tell them apart.

    Args:
      tokens: the number of tokens.
      height: rows of the image in pixels.
      width: columns of the image in pixels.
      prefix_tokens: how many come before the patches, from 0; None to find it, up to 16.

    Returns:
      The number of tokens before the patches, and the rows and columns of patches.

    Raises:
      ValueError: if no such grid leaves that many tokens over, or two kinds of grids do, naming
        `prefix_tokens`.
    """
    left_over = range(MOST_PREFIX_TOKENS + 1) if prefix_tokens is None else (prefix_tokens,)
    found = [
        TokenGrid(tokens - rows * columns, rows, columns)
        for rows, columns in _grids(height, width)
        if rows * columns > 1 and tokens - rows * columns in left_over
    ]
    image = f"a {height} x {width} image"
    got = f"{prefix_tokens} for {tokens} tokens of {image}"
    takes = "how many tokens come before those of a grid of square patches over the image"
    checks.require(bool(found), "prefix_tokens", got, takes)
    fewest = min(found, key=lambda grid: grid.prefix)
    dividing = [grid for grid in found if _divides(grid.rows, height, grid.columns, width)]
    if dividing and fewest not in dividing:
        either = min(dividing, key=lambda grid: grid.prefix)
        takes = " or ".join(
            f"{grid.prefix} (a grid of {grid.rows} x {grid.columns})" for grid in (fewest, either)
        )
        raise checks.invalid("prefix_tokens", got, takes)
    return fewest


def _divides(rows: int, height: int, columns: int, width: int) -> bool:
    """Whether a grid's patches are squares that fill the image."""
    return height % rows == 0 and width % columns == 0 and height // rows == width // columns


def _grids(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Those of sides that divide the image first, then rounded down, then up."""
    sides = range(1, max(height, width) + 1)
    down = [(height // s, width // s) for s in sides]
    up = [(-(-height // s), -(-width // s)) for s in sides]
    yield from (a for a, b in zip(down, up, strict=True) if a == b)
    yield from (grid for grid in down if all(grid))
    yield from up

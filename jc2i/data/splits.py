"""Splits: disjoint by construction, and how a split asked for maps to the splits stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Int

from jc2i.checks import describe, invalid, is_several, require, whole

STORED = ("train", "validation", "test")
HALVES = ("calibration", "evaluation")
MOST_IMAGES = 10**8
"""Images of which the order is drawn: more are a slip of the hand, and their numbers gigabytes."""
SPLITS = (*STORED, "all", *HALVES)
# Folder and key names that mean the same split.
_SPELLINGS = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def disjoint_splits(
    n: int, sizes: Sequence[int], *, seed: int
) -> tuple[Int[np.ndarray, " _"], ...]:
    """Index sets that cannot overlap: one random permutation, cut in pieces.

    Each piece is in random order, so its beginning is a random sample too.

    Args:
      n: the number of images.
      sizes: the number of images in each piece, all positive, at most `n` together.
      seed: chooses the permutation, 0 to 2**32 - 1.

    Returns:
      One array of indices in 0..n-1 for each size.

    Raises:
      ValueError: a size is not positive, or the sizes do not fit in `n`.
    """
    n = whole("n", n, most=MOST_IMAGES)
    seed = whole("seed", seed, "a whole number from 0 to 2**32 - 1", 0, 2**32 - 1)
    takes = f"a list of positive sizes of at most {n} together (n)"
    several = is_several(sizes) and len(sizes) > 0
    require(several, "sizes", describe(sizes), takes)
    sizes = [whole("sizes", size, takes) for size in sizes]
    require(sum(sizes) <= n, "sizes", describe(sizes), takes)
    # RandomState's stream is frozen for good; the newer Generator's may change between versions.
    permutation = np.random.RandomState(seed).permutation(n)
    ends = np.cumsum(sizes)
    return tuple(np.split(permutation[: ends[-1]], ends[:-1]))


def split_of(name: str) -> str | None:
    """The split a folder or key name stands for (`"val"`: `"validation"`), or None."""
    return _SPELLINGS.get(name.lower())


def may_hold(stored: str | None, split: str) -> bool:
    """Whether images stored as `stored` (None: the source has no splits) can serve `split`."""
    return split == "all" or stored == split or (split in HALVES and stored != "train")


def stored_splits(split: str, available: Collection[str | None], where: str) -> list[str | None]:
    """The stored splits that make up the split asked for.

    `"all"` is every stored split; `"calibration"` and `"evaluation"` are cut from the test images,
    or where there are none from the validation images, never from training images.

    Args:
      split: one of `SPLITS`.
      available: the splits the source has; None for a source without splits.
      where: the source, for the message.

    Returns:
      Stored splits, in the order train, validation, test.

    Raises:
      ValueError: the source has no images for `split`.
    """
    ordered = [stored for stored in (*STORED, None) if stored in available]
    held_out = [stored for stored in ("test", "validation", None) if stored in available]
    if split == "all":
        return ordered
    if split in HALVES and held_out:
        return held_out[:1]
    if split in ordered:
        return [split]
    options = [*filter(None, ordered), "all", *(HALVES if held_out else ())]
    raise invalid("split", repr(split), f"{_listed(options)} (what {where} has)")


def half(n: int, split: str) -> Int[np.ndarray, " _"]:
    """The indices of the calibration or evaluation half of `n` held-out images.

    Args:
      n: the number of held-out images, at least 2.
      split: `"calibration"` or `"evaluation"`.

    Returns:
      Indices, the same on every call.

    Raises:
      ValueError: `n` is below 2.
    """
    if n < 2:
        raise invalid("split", f"{split!r} of {n} image", "at least 2 held-out images to divide")
    return disjoint_splits(n, (n // 2, n - n // 2), seed=0)[HALVES.index(split)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)

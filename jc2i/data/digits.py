"""Scikit-learn's handwritten digits, which come with the package."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np

from jc2i.data.dataset import Dataset
from jc2i.data.pixels import Resizing
from jc2i.data.splits import stored_splits

TRAINING_IMAGES = 300


def load_digits(split: str, *, resizing: Resizing) -> Dataset:
    """The 1,797 digits in their published order, upsampled; one channel, float in [0, 1].

    The order matters: the first 300 (the training images) are by the first few writers, later
    ones by writers a model trained on those has not seen, which is what makes it over-confident.
    Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI repository, 1998.

    Args:
      split: one of `SPLITS`; `"train"` is the first 300, `"test"` the others.
      resizing: how each image gets its size: 16x16 if it has none (stored: 8x8).

    Returns:
      The data set.

    Raises:
      ValueError: there is no such split.
    """
    from sklearn import datasets  # costs as much to import as jax

    stored = cast(Any, datasets.load_digits())
    parts: dict[str | None, slice] = {
        "train": slice(0, TRAINING_IMAGES),
        "test": slice(TRAINING_IMAGES, None),
    }
    chosen = stored_splits(split, parts, "digits")
    index = np.concatenate([np.arange(len(stored.target))[parts[name]] for name in chosen])
    # Stored as counts of 0 to 16 in cells of 4x4 bits.
    images = (stored.images[index, :, :, None] / 16).astype(np.float32)
    return Dataset(
        dataclasses.replace(resizing, size=resizing.size or (16, 16)).arrays(images),
        stored.target[index].astype(np.int32),
        tuple(str(digit) for digit in stored.target_names),
        "digits",
    )

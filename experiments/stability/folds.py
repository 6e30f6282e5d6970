"""k-fold cross-training: disjoint folds, and one model a fold, trained on all the others.

The scheme knows no architecture: a way to train is any function of images, labels and a key.
"""

from __future__ import annotations

import inspect
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jc2i import models
from jc2i.checks import invalid, require, whole
from jc2i.data import Dataset

Train = Callable[..., Any]
"""`train(images, labels, key) -> model`, or `train(images, labels, key, folder)` where the function
takes a folder of its own to keep checkpoints in. Images are as the data set has them (where they
are many, they may be encoded still: `numpy.asarray` decodes), the model is a callable pytree
`images -> logits`, and the key is the same for every fold."""


def stratified_folds(
    labels: Int[np.ndarray, " images"], k: int, *, seed: int
) -> Int[np.ndarray, " images"]:
    """Disjoint folds of equal size, to one image, each with equal parts of every class.

    Args:
      labels: the class of each image.
      k: the number of folds, at least 2.
      seed: chooses which images are together.

    Returns:
      The fold of each image, 0 to k - 1.

    Raises:
      ValueError: for fewer than two folds, or more than images; for a class with fewer images than
        folds, which one fold would be without.
    """
    labels = np.asarray(labels)
    k = whole("k", k, "at least 2 folds", least=2)
    require(k <= len(labels), "k", f"{k} folds", f"at most the {len(labels)} images")
    classes, counts = np.unique(labels, return_counts=True)
    scarce = int(counts.argmin())
    if counts[scarce] < k:
        got = f"{counts[scarce]} images of class {classes[scarce]} for {k} folds"
        raise invalid("k", got, "folds that each hold an image of every class")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    # Dealt out class by class, on through the classes: sizes of folds too differ by one at most.
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), np.int32)
    folds[by_class] = np.arange(len(labels)) % k
    return folds


def cross_train(
    train: Train,
    dataset: Dataset,
    folds: Int[np.ndarray, " images"],
    *,
    key: jax.Array,
    folder: Path,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = True,
) -> list[Any]:
    """One model a fold, each trained on the images of all other folds.

    Where there are several devices, each trains a fold while the others train theirs; on one, the
    folds are trained one after the other. A model of this package (`jc2i.models.Classifier`) is
    kept in the folder as soon as it is trained, and read the next time; others are trained again
    unless their function keeps them.

    Args:
      train: a way to train, see `Train`.
      dataset: images and their classes, perhaps with wrong ones among them.
      folds: the fold of each image, from `stratified_folds`.
      key: what every fold's training starts from, so that all begin with the same weights.
      folder: where models and checkpoints are kept: a folder for this training alone.
      devices: where to train; None for all of this host.
      progress: whether to say which folds are done.

    Returns:
      The models, in the order of the folds.
    """
    takes_folder = "folder" in inspect.signature(train).parameters
    k = int(folds.max()) + 1

    def trained(fold: int) -> Any:
        kept = folder / f"fold{fold}"
        if (kept / "model.json").is_file():
            return models.load(kept)
        others = dataset.subset(np.flatnonzero(folds != fold))
        own = {"folder": folder / f"fold{fold}-training"} if takes_folder else {}
        model = train(others.images, others.labels, key, **own)
        if isinstance(model, models.Classifier):
            models.save(model, kept)
        if progress:
            print(f"{folder.name}: fold {fold + 1} of {k} is trained", flush=True)
        return model

    devices = jax.local_devices() if devices is None else devices
    if len(devices) == 1:
        return [trained(fold) for fold in range(k)]
    free: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def on_a_device(fold: int) -> Any:
        device = free.get()
        try:
            with jax.default_device(device):
                return trained(fold)
        finally:
            free.put(device)

    with ThreadPoolExecutor(min(k, len(devices))) as pool:
        return list(pool.map(on_a_device, range(k)))

"""How a fold is trained unless the user says otherwise: by the loop of experiments/train.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.train import Training, fit, new_model
from jc2i.data import Dataset


@dataclasses.dataclass(frozen=True)
class DefaultTraining:
    """`train(images, labels, key, folder) -> model` with checkpoints, resumed where it stopped.

    Attributes:
      training: how to train; its seed chooses the first weights.
      dataset: the whole data set. What a model subtracts from images is that of all its images, and
        so a constant of the compiled training step, which the folds share.
    """

    training: Training
    dataset: Dataset

    def __call__(self, images: np.ndarray, labels: np.ndarray, key: jax.Array, folder: Path) -> Any:
        """Trains a fold's model."""
        part = dataclasses.replace(
            self.dataset, images=images, labels=np.asarray(labels, np.int32), boxes=None
        )
        model = new_model(self.training, None, self.dataset)
        device = getattr(jax.config, "jax_default_device")  # noqa: B009 (types know no such name)
        devices = None if device is None else [device]
        return fit(model, part, self.training, folder, devices)

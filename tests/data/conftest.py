from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two splits of 4x4 images whose pixels say which image they are; only train has "cow"."""
    root = tmp_path / "animals"
    for value, path in enumerate(
        ["train/cat/a.png", "train/cow/b.png", "train/dog/c.png", "val/dog/d.png", "val/cat/e.png"]
    ):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file)
    return root

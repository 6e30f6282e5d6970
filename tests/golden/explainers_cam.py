"""Makes explainers_cam.npz: a small network's weights, images and Captum's LayerGradCam.

Run `python tests/golden/explainers_cam.py` where torch and captum are installed. The network is
convolution, rectifier, convolution of stride 2, rectifier, dense; images are 9x10, so that rows and
columns cannot be confused. Everything is stored channels last. Captum upsamples with
`LayerAttribution.interpolate(..., "bilinear")`: PyTorch's interpolate, align_corners=False.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np


def main() -> None:
    import torch
    from captum.attr import LayerAttribution, LayerGradCam

    random = np.random.default_rng(11)
    shapes = {
        "kernel1": (3, 3, 3, 4),
        "bias1": (4,),
        "kernel2": (3, 3, 4, 6),
        "bias2": (6,),
        "dense": (5 * 5 * 6, 5),
        "bias3": (5,),
    }
    arrays = {
        name: (random.standard_normal(shape) / np.sqrt(max(np.prod(shape[:-1]) / 4, 4)))
        for name, shape in shapes.items()
    }
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    arrays["images"] = random.uniform(size=(3, 9, 10, 3)).astype(np.float32)
    arrays["targets"] = np.array([0, 4, 2])

    def tensor(name: str) -> torch.Tensor:
        return torch.tensor(arrays[name].astype(float))

    first, second = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 6, 3, 2, padding=1)
    dense = torch.nn.Linear(150, 5)
    model = torch.nn.Sequential(
        first, torch.nn.ReLU(), second, torch.nn.ReLU(), torch.nn.Flatten(), dense
    ).double()
    with torch.no_grad():
        for layer, name in ((first, "1"), (second, "2")):
            layer.weight.copy_(tensor("kernel" + name).permute(3, 2, 0, 1))
            layer.bias.copy_(tensor("bias" + name))
        # Flattened channels last here, channels first there.
        dense.weight.copy_(tensor("dense").reshape(5, 5, 6, 5).permute(3, 2, 0, 1).reshape(5, -1))
        dense.bias.copy_(tensor("bias3"))
    images, targets = tensor("images").permute(0, 3, 1, 2), torch.tensor(arrays["targets"])
    for name, layer in (("layer1", model[1]), ("layer2", model[3])):
        for prefix, relu in ((name, True), (f"{name}_raw", False)):
            found = LayerGradCam(model, layer).attribute(images, targets, relu_attributions=relu)
            arrays[prefix] = found[:, 0].detach().numpy().astype(np.float32)
            large = LayerAttribution.interpolate(found, (9, 10), "bilinear")
            arrays[f"{prefix}_upsampled"] = large[:, 0].detach().numpy().astype(np.float32)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()

"""Makes explainers_torchray.npz: a small network's weights, an image and TorchRay's masks of it.

Run `PYTHONPATH=WHERE python tests/golden/explainers_torchray.py`, where WHERE is a folder with
TorchRay 1.0.0.2 (`pip install --no-deps --target WHERE torchray`) and torch is installed. What
TorchRay imports for its benchmarks and figures only is replaced by empty modules. Convolutions of
stride 2 with rectifiers, mean over pixels, dense; everything is stored channels last.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import numpy as np

STEPS = (2, 11, 101)
"""TorchRay's `max_iter`: it returns the mask before its last step."""


def main() -> None:
    import torch
    import torch.nn.functional as F

    for name in ("matplotlib", "matplotlib.pyplot", "pymongo", "requests", "torchvision"):
        sys.modules.setdefault(name, mock.MagicMock())
    from torchray.attribution import extremal_perturbation as torchray

    random = np.random.default_rng(3)
    shapes = {"kernel1": (5, 5, 3, 8), "kernel2": (3, 3, 8, 12), "dense": (12, 5)}
    weights = {
        name: (random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)
        for name, shape in shapes.items()
    }
    weights["dense"] *= 8  # so that the score weighs against the area
    weights |= {"bias1": np.full(8, 0.1, np.float32), "bias2": np.full(12, -0.1, np.float32)}
    # Smooth, and not square: rows and columns cannot be confused.
    coarse = torch.tensor(random.standard_normal((1, 3, 9, 8)))
    smooth = F.interpolate(coarse, (64, 57), mode="bicubic")
    image = torch.sigmoid(2 * smooth + 0.3 * torch.tensor(random.standard_normal((1, 3, 64, 57))))
    image, target = image.float(), 2
    tensors = {name: torch.tensor(value) for name, value in weights.items()}

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for i in "12":
                kernel = tensors["kernel" + i].permute(3, 2, 0, 1)
                x = F.relu(F.conv2d(x, kernel, tensors["bias" + i], stride=2, padding=1))
            return x.mean(dim=(2, 3)) @ tensors["dense"]

    model = Network()
    golden = {**weights, "image": image.movedim(1, -1).numpy(), "target": np.array([target])}

    perturbation = torchray.Perturbation(image)
    golden["pyramid"] = perturbation.pyramid.movedim(1, -1).numpy()[:, ::3, ::3]
    generator = torchray.MaskGenerator((64, 57), 7, 21)
    inside = torch.tensor(random.uniform(size=(1, 1, *generator.shape_in)).astype(np.float32))
    inside = (1.6 * inside - 0.3).clamp(0, 1).requires_grad_(True)
    cropped, mask = generator.generate(inside)
    reference = torch.ones(1, mask.numel())
    reference[0, : int(mask.numel() * 0.9)] = 0
    loss = ((mask.reshape(1, -1).sort(dim=1)[0] - reference) ** 2).mean(dim=1)
    (gradient,) = torch.autograd.grad(loss.sum(), inside)
    seen = perturbation.apply(cropped)
    golden |= {
        "coarse": inside.detach().numpy()[:, 0],
        "mask": mask.detach().numpy()[:, 0, ::3, ::3],
        "area_loss": loss.detach().numpy(),
        "area_gradient": gradient.numpy()[:, 0],
        "seen": seen.detach().movedim(1, -1).numpy()[:, ::3, ::3],
    }
    runs: dict[str, dict] = {f"{steps}": {"max_iter": steps} for steps in STEPS}
    runs["delete"] = {"max_iter": 11, "variant": torchray.DELETE_VARIANT}
    runs["contrastive"] = {"max_iter": 11, "reward_func": torchray.contrastive_reward}
    runs["fade"] = {"max_iter": 11, "perturbation": torchray.FADE_PERTURBATION, "jitter": False}
    runs["areas"] = {"max_iter": 11, "areas": [0.05, 0.3]}
    for name, options in runs.items():
        masks, history = torchray.extremal_perturbation(model, image, target, **options)
        golden[f"{name}/map"] = masks.sum(dim=0)[0].numpy()
        golden[f"{name}/reward"] = history[:, 0].numpy()
        golden[f"{name}/area"] = history[:, 1].numpy()
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **golden)


if __name__ == "__main__":
    main()

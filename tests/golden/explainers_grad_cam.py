"""Makes explainers_grad_cam.npz: a small network's weights, images and pytorch-grad-cam's maps.

Run `python tests/golden/explainers_grad_cam.py` where torch, OpenCV and grad-cam 1.5.7 are
installed; what grad-cam imports of other packages is not used and need not be. The network is
convolution, rectifier, convolution of stride 2, batch normalisation, rectifier, dense; images are
9x10. Everything is computed in float64 but for what the package itself casts, and stored channels
last. Maps are as the package returns them: rectified, min-max normalised, resized by OpenCV and
normalised once more.

Departures from the package as it stands: Score-CAM's masks are upsampled with pixel centres at
half-integers (its `UpsamplingBilinear2d` aligns corners), and of Eigen-CAM the projection is kept
before the rectifier, since its sign is that of LAPACK's singular vector.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np

LAYERS = ("layer1", "layer2")


def draw() -> dict[str, np.ndarray]:
    """Weights and images; the scores are large beside the 1e-6 that Grad-CAM++ divides with."""
    random = np.random.default_rng(12)
    shapes = {
        "kernel1": (3, 3, 3, 4),
        "bias1": (4,),
        "kernel2": (3, 3, 4, 6),
        "dense": (5 * 5 * 6, 5),
        "bias3": (5,),
        "mean": (6,),
        "scale": (6,),
        "shift": (6,),
    }
    arrays = {
        name: 2 * random.standard_normal(shape) / np.sqrt(max(np.prod(shape[:-1]), 4))
        for name, shape in shapes.items()
    }
    arrays["dense"] *= 20
    arrays["variance"] = random.uniform(0.5, 2, 6)
    arrays = {name: value.astype(np.float32) for name, value in arrays.items()}
    arrays["images"] = random.uniform(size=(3, 9, 10, 3)).astype(np.float32)
    arrays["targets"] = np.array([0, 4, 2])
    return arrays


def main() -> None:
    for name in ("ttach", "torchvision", "torchvision.transforms.functional", "sklearn"):
        sys.modules[name] = mock.MagicMock()
    for name in ("torchvision.transforms", "sklearn.decomposition", "matplotlib"):
        sys.modules[name] = mock.MagicMock()
    sys.modules["matplotlib.lines"] = mock.MagicMock()
    sys.modules["tqdm"] = mock.MagicMock(tqdm=lambda steps: steps)
    import pytorch_grad_cam as peer
    import torch
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    assert isinstance(peer, types.ModuleType)
    arrays = draw()

    def tensor(name: str) -> torch.Tensor:
        return torch.tensor(arrays[name].astype(float))

    first = torch.nn.Conv2d(3, 4, 3, padding=1)
    second = torch.nn.Conv2d(4, 6, 3, 2, padding=1, bias=False)
    norm, dense = torch.nn.BatchNorm2d(6), torch.nn.Linear(150, 5)
    stack = [first, torch.nn.ReLU(), second, norm, torch.nn.ReLU(), torch.nn.Flatten(), dense]
    model = torch.nn.Sequential(*stack).double().eval()
    with torch.no_grad():
        for layer, name in ((first, "1"), (second, "2")):
            layer.weight.copy_(tensor("kernel" + name).permute(3, 2, 0, 1))
        first.bias.copy_(tensor("bias1"))
        norm.running_mean.copy_(tensor("mean"))
        norm.running_var.copy_(tensor("variance"))
        norm.weight.copy_(tensor("scale"))
        norm.bias.copy_(tensor("shift"))
        # Flattened channels last here, channels first there.
        dense.weight.copy_(tensor("dense").reshape(5, 5, 6, 5).permute(3, 2, 0, 1).reshape(5, -1))
        dense.bias.copy_(tensor("bias3"))
    images = tensor("images").permute(0, 3, 1, 2)
    targets = [ClassifierOutputTarget(int(target)) for target in arrays["targets"]]
    layers = {"layer1": [model[1]], "layer2": [model[4]], "both": [model[1], model[4]]}
    methods = {
        "grad_cam": peer.GradCAM,
        "grad_cam_plus_plus": peer.GradCAMPlusPlus,
        "xgrad_cam": peer.XGradCAM,
        "hires_cam": peer.HiResCAM,
        "layer_cam": peer.LayerCAM,
        "score_cam": peer.ScoreCAM,
        "ablation_cam": peer.AblationCAM,
    }
    torch.nn.UpsamplingBilinear2d = lambda size: torch.nn.Upsample(size=size, mode="bilinear")
    torch.from_numpy, from_numpy = (lambda a: from_numpy(a).double()), torch.from_numpy
    for name, method in methods.items():
        for layer, modules in layers.items():
            if not (name == "ablation_cam" and layer == "both"):
                arrays[f"{name}_{layer}"] = method(model, modules)(images, targets)
    torch.from_numpy = from_numpy
    arrays["full_grad"] = peer.FullGrad(model, [])(images.requires_grad_(), targets)
    for layer, count in (("layer1", 2), ("layer2", 5)):
        activations = model[:count](images).detach().numpy()
        arrays[f"eigen_cam_{layer}"] = get_2d_projection(activations)
    arrays = {k: v.astype(np.float32) if v.dtype == float else v for k, v in arrays.items()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()

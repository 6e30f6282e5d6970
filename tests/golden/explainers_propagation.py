"""Makes explainers_propagation.npz: a small network and Captum's attributions by changed gradients.

Run `python tests/golden/explainers_propagation.py` where torch and captum are installed. The
network has what such methods stumble over: an average pooling, a residual sum, biases everywhere.
No max pooling: behind a rectifier Captum's DeepLIFT (0.9) takes the gradient of it, and the sum of
its contributions is not the change of the score. Images are 9x10; everything is stored channels
last, and computed in float64.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np


def main() -> None:
    import torch
    from captum.attr import Deconvolution, DeepLift, DeepLiftShap, GuidedBackprop
    from torch import nn

    random = np.random.default_rng(11)
    shapes = {
        "kernel1": (3, 3, 3, 4),
        "bias1": (4,),
        "kernel2": (3, 3, 4, 4),
        "bias2": (4,),
        "dense1": (4, 6),
        "bias3": (6,),
        "dense2": (6, 5),
        "bias4": (5,),
    }
    weights = {
        name: random.standard_normal(shape) / np.sqrt(max(np.prod(shape[:-1]) / 3, 3))
        for name, shape in shapes.items()
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    images = random.uniform(size=(3, 9, 10, 3)).astype(np.float32)
    references = random.uniform(size=(4, 9, 10, 3)).astype(np.float32)
    targets = np.array([0, 4, 2])

    class Network(nn.Module):
        def __init__(self, elu: bool) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3, padding=1)
            self.second = nn.Conv2d(4, 4, 3, padding=1)
            self.third, self.fourth = nn.Linear(4, 6), nn.Linear(6, 5)
            self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
            self.last = nn.ELU() if elu else nn.ReLU()
            self.pool = nn.AvgPool2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.pool(self.relu1(self.first(x)))
            x = self.relu2(self.second(x)) + x
            return self.fourth(self.last(self.third(x.mean(dim=(2, 3)))))

    def network(elu: bool) -> Network:
        net = Network(elu).double()
        with torch.no_grad():
            for layer, kernel, bias in (
                (net.first, "kernel1", "bias1"),
                (net.second, "kernel2", "bias2"),
                (net.third, "dense1", "bias3"),
                (net.fourth, "dense2", "bias4"),
            ):
                value = torch.tensor(weights[kernel].astype(float))
                layer.weight.copy_(value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T)
                layer.bias.copy_(torch.tensor(weights[bias].astype(float)))
        return net.eval()

    def channels_first(x: np.ndarray) -> torch.Tensor:
        return torch.tensor(x.astype(float)).movedim(-1, 1)

    x, y = channels_first(images), torch.tensor(targets)
    r = channels_first(references)
    golden = {**weights, "images": images, "references": references, "targets": targets}
    for name, elu in (("relu", False), ("elu", True)):
        net = network(elu)
        golden[f"{name}/scores"] = net(x).detach().numpy()
        found = {
            "deeplift": DeepLift(net).attribute(x.clone(), r[:3], target=y),
            "deeplift_black": DeepLift(net).attribute(x.clone(), target=y),
            "deeplift_shap": DeepLiftShap(net).attribute(x.clone(), r, target=y),
        }
        if not elu:
            found["guided_backprop"] = GuidedBackprop(net).attribute(x.clone(), y)
            found["deconvnet"] = Deconvolution(net).attribute(x.clone(), y)
        for key, value in found.items():
            golden[f"{name}/{key}"] = value.detach().movedim(1, -1).numpy().astype(np.float32)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **golden)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum's, of the hooks it sets
        main()

"""Makes explainers_captum.npz: a small network's weights, images and Captum's attributions.

Run `python tests/golden/explainers_captum.py` where torch and captum are installed. Two networks
of one shape, one with rectifiers and one with softplus: convolution, activation, convolution of
stride 2, activation, mean over pixels, dense. Images are 9x10, so that rows and columns cannot be
confused; everything is stored channels last.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

METHODS = {
    "riemann_right": "riemann_right",
    "riemann_left": "riemann_left",
    "riemann_middle": "riemann_middle",
    "trapezoid": "riemann_trapezoid",
    "gauss_legendre": "gausslegendre",
}
WINDOWS = {
    # Name: window, stride. The second's last windows are cut by the border in both axes.
    "5_2": ((5, 5), (2, 2)),
    "4_3": ((4, 4), (3, 3)),
    "2x3_1x2": ((2, 3), (1, 2)),
    "9x10": ((9, 10), (1, 1)),
}


def main() -> None:
    import torch
    import torch.nn.functional as F
    from captum.attr import InputXGradient, IntegratedGradients, Occlusion, Saliency

    random = np.random.default_rng(7)
    shapes = {
        "kernel1": (3, 3, 3, 4),
        "bias1": (4,),
        "kernel2": (3, 3, 4, 6),
        "bias2": (6,),
        "dense": (6, 5),
        "bias3": (5,),
    }
    weights = {
        name: (random.standard_normal(shape) / np.sqrt(max(np.prod(shape[:-1]) / 4, 4)))
        for name, shape in shapes.items()
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    images = random.uniform(size=(3, 9, 10, 3)).astype(np.float32)
    reference = random.uniform(size=(9, 10, 3)).astype(np.float32)
    targets = np.array([0, 4, 2])

    # In float64: what is compared with is exact to float32.
    first, second = (
        torch.tensor(weights[k].astype(float)).permute(3, 2, 0, 1) for k in ("kernel1", "kernel2")
    )
    bias1, bias2, dense, bias3 = (
        torch.tensor(weights[k].astype(float)) for k in ("bias1", "bias2", "dense", "bias3")
    )

    def network(activation):
        def forward(x: torch.Tensor) -> torch.Tensor:
            x = activation(F.conv2d(x, first, bias1, padding=1))
            x = activation(F.conv2d(x, second, bias2, stride=2, padding=1))
            return x.mean(dim=(2, 3)) @ dense + bias3

        return forward

    def channels_first(x: np.ndarray) -> torch.Tensor:
        return torch.tensor(x.astype(float)).movedim(-1, 1)

    def store(name: str, value: torch.Tensor) -> None:
        golden[name] = value.detach().movedim(1, -1).numpy().astype(np.float32)

    x, y = channels_first(images), torch.tensor(targets)
    start = channels_first(reference[None]).expand_as(x)
    golden = {**weights, "images": images, "reference": reference, "targets": targets}
    for name, activation in (("relu", torch.relu), ("softplus", F.softplus)):
        forward = network(activation)
        golden[f"{name}/scores"] = forward(x).numpy().astype(np.float32)
        store(f"{name}/saliency", Saliency(forward).attribute(x.clone(), y, abs=False))
        store(f"{name}/input_x_gradient", InputXGradient(forward).attribute(x.clone(), y))
        black = IntegratedGradients(forward).attribute(
            x.clone(), 0.0, target=y, n_steps=7, method="riemann_right"
        )
        store(f"{name}/integrated_gradients/black", black)
    forward = network(torch.relu)
    for ours, theirs in METHODS.items():
        value = IntegratedGradients(forward).attribute(
            x.clone(), start, target=y, n_steps=7, method=theirs
        )
        store(f"relu/integrated_gradients/{ours}", value)
    for key, (window, stride) in WINDOWS.items():
        value = Occlusion(forward).attribute(
            x,
            sliding_window_shapes=(3, *window),
            strides=(3, *stride),
            target=y,
            baselines=start,
        )
        store(f"relu/occlusion/{key}", value[:, :1])
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **golden)


if __name__ == "__main__":
    main()

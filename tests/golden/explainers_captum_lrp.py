"""Makes explainers_captum_lrp.npz: a small sequential network and Captum's relevances of it.

Run `python tests/golden/explainers_captum_lrp.py` where torch and captum are installed. Two
convolutions with rectifiers and a max pooling between, two dense layers, biases everywhere: what
Captum's LRP (0.9) has rules for and gets right. Relevance starts as the target's score; images are
9x10; everything is stored channels last, and computed in float64.

`python tests/golden/explainers_captum_lrp.py limits` prints what becomes of a residual sum and of a
batch normalisation without biases elsewhere, beside gradient x input, under epsilon near zero.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

EPSILON, GAMMA = 1e-3, 0.25


def main() -> None:
    import torch
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
    from torch import nn

    random = np.random.default_rng(13)
    shapes = {
        "kernel1": (3, 3, 3, 4),
        "bias1": (4,),
        "kernel2": (3, 3, 4, 6),
        "bias2": (6,),
        "dense1": (4, 5, 6, 7),
        "bias3": (7,),
        "dense2": (7, 5),
        "bias4": (5,),
    }
    weights = {
        name: (random.standard_normal(shape) / np.sqrt(max(np.prod(shape[:-1]) / 3, 3)))
        for name, shape in shapes.items()
    }
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    images = random.uniform(size=(3, 9, 10, 3)).astype(np.float32)

    def network() -> nn.Sequential:
        layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(120, 7),
            nn.ReLU(),
            nn.Linear(7, 5),
        ).double()
        parts = (layer for layer in layers if hasattr(layer, "weight"))
        names = ("kernel1", "kernel2", "dense1", "dense2")
        with torch.no_grad():
            for number, (layer, name) in enumerate(zip(parts, names, strict=True), start=1):
                value = torch.tensor(weights[name].astype(float))
                value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T
                layer.weight.copy_(value.reshape(layer.weight.shape))
                layer.bias.copy_(torch.tensor(weights[f"bias{number}"].astype(float)))
        return layers.eval()

    x = torch.tensor(images.astype(float)).movedim(-1, 1)
    scores = network()(x).detach().numpy()
    # Scores above zero: Captum's gamma favours the supporting weights of no other.
    targets = scores.argmax(1)
    assert scores.max(1).min() > 0

    def relevance(net: nn.Module, rule=None) -> np.ndarray:
        # Captum has no rule for a flattening, and asks for one of every module.
        for layer in net.modules():
            if isinstance(layer, nn.Flatten):
                layer.rule = EpsilonRule(1e-12)  # nothing may divide by zero
            elif rule and isinstance(layer, nn.Conv2d | nn.Linear):
                layer.rule = rule()
        found = LRP(net).attribute(x.clone(), target=torch.tensor(targets))
        return found.detach().movedim(1, -1).numpy()

    rules = {
        "epsilon": lambda: EpsilonRule(EPSILON),
        "gamma_without_bias": lambda: GammaRule(GAMMA, set_bias_to_zero=True),
        "alpha1_beta0_without_bias": lambda: Alpha1_Beta0_Rule(set_bias_to_zero=True),
    }
    golden = {**weights, "images": images, "scores": scores, "targets": targets}
    for name, rule in rules.items():
        golden[name] = relevance(network(), rule).astype(np.float32)
    if sys.argv[1:] != ["limits"]:
        np.savez_compressed(Path(__file__).with_suffix(".npz"), **golden)
        return

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU()
            self.second, self.relu2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.ReLU()
            self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu1(self.first(x))
            x = self.relu2(self.second(x)) + x
            return self.last(self.pool(x).flatten(1))

    def normalised() -> nn.Module:
        layers = [
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 5, bias=False),
        ]
        layers[1].running_mean += 0.5
        layers[1].bias.data += 0.3
        return nn.Sequential(*layers)

    torch.manual_seed(0)
    for label, net in (("residual sum", Residual()), ("batch normalisation", normalised())):
        net = net.double().eval()
        chosen = net(x).detach().numpy()[np.arange(3), targets]
        slope = torch.autograd.grad(
            net(given := x.clone().requires_grad_())[np.arange(3), targets].sum(), given
        )[0]
        product = (slope * x).movedim(1, -1).numpy()
        try:
            found = relevance(net)
        except Exception as error:  # noqa: BLE001 (what it says is what is asked)
            print(label, type(error).__name__, str(error)[:200])
            continue
        print(label, "scores", chosen, "sums of relevance", found.sum((1, 2, 3)))
        print("  from gradient x input", np.abs(found - product).max() / np.abs(product).max())


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum's, of the hooks it sets
        main()

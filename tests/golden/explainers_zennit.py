"""Makes explainers_zennit.npz: relevances of five networks by zennit, and what they are of.

Run `python tests/golden/explainers_zennit.py` where torch and zennit 0.5.1 are installed, with the
names of networks to make those alone again (`vgg16_bn`, ImageNet's, takes 6 GB of memory). What
zennit imports of torchvision is not used and need not be. The networks are those of
`benchmarks/pytorch_networks.py` with additions as zennit asks for them (`zennit.layer.Sum`), their
weights drawn by name as `models_logits.py` draws them. Batch norms are merged before: what zennit's
canoniser leaves of one still divides by the root of 1 + 1e-5. Relevance starts as the target's
logit, everything is computed in float64 and stored channels last; of maps of 224x224 pixels a
digest is.
"""

from __future__ import annotations

import json
import runpy
import sys
import types
from pathlib import Path

import numpy as np

LOGITS = runpy.run_path(str(Path(__file__).with_name("models_logits.py")))
NETWORKS = {
    # Images, height, width.
    "resnet20_cifar A": (2, 24, 20),
    "resnet20_cifar B": (2, 24, 20),
    "resnet18": (1, 33, 40),
    "vgg16_bn_cifar": (1, 32, 32),
    "vgg16_bn": (1, 224, 224),
}
CLASSES = 10
EPSILON = 1e-6


def images(network: str) -> np.ndarray:
    """Images [batch, height, width, 3] in [0, 1], in float32."""
    shape = (*NETWORKS[network], 3)
    return np.random.default_rng(len(network)).uniform(size=shape).astype(np.float32)


def targets(network: str) -> np.ndarray:
    """A class for each image."""
    return 3 + 2 * np.arange(NETWORKS[network][0])


def digest(relevance: np.ndarray) -> np.ndarray:
    """Of maps of 224x224 pixels the means and root mean squares of squares of 16x16, or the maps.

    Args:
      relevance: relevance[batch, height, width, channel].

    Returns:
      The maps, or [2, batch, 14, 14, channel].
    """
    relevance = np.asarray(relevance, np.float64)
    batch, height, width, channels = relevance.shape
    if height < 224:
        return relevance
    squares = relevance.reshape(batch, height // 16, 16, width // 16, 16, channels)
    return np.stack([squares.mean((2, 4)), np.sqrt(np.square(squares).mean((2, 4)))])


def main() -> None:
    # zennit's canonisers of torchvision's networks, which are all that it needs torchvision for.
    sys.modules["zennit.torchvision"] = types.ModuleType("zennit.torchvision")
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval
    from zennit import composites, rules
    from zennit.layer import Sum
    from zennit.types import Convolution

    def merge(module: nn.Module) -> None:
        """Puts every batch norm into the convolution that is its module's child before it."""
        before = None
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
                setattr(module, name, nn.Identity())
            merge(child)
            before = name, child

    resnet20, basic_resnet, vgg16 = (
        LOGITS["NETWORKS"][name] for name in ("resnet20", "basic_resnet", "vgg16")
    )
    networks = {
        "resnet20_cifar A": lambda: resnet20(CLASSES, projection=False, addition=Sum),
        "resnet20_cifar B": lambda: resnet20(CLASSES, addition=Sum),
        "resnet18": lambda: basic_resnet(CLASSES, addition=Sum),
        "vgg16_bn_cifar": lambda: vgg16(CLASSES, size=32, batch_norm=True, hidden=512),
        "vgg16_bn": lambda: vgg16(CLASSES, size=224, batch_norm=True),
    }
    mean, std = (
        torch.tensor(LOGITS[n], dtype=torch.float64).reshape(1, 3, 1, 1) for n in ("MEAN", "STD")
    )
    options = {"epsilon": EPSILON, "stabilizer": EPSILON}
    box = {"low": (0 - mean) / std, "high": (1 - mean) / std}

    def everywhere(rule):
        """One rule of every linear map."""
        layer_map = composites.layer_map_base(EPSILON)
        return composites.LayerMapComposite([*layer_map, (Convolution, rule), (nn.Linear, rule)])

    several = {
        "epsilon": everywhere(rules.Epsilon(EPSILON)),
        "epsilon_plus": composites.EpsilonPlus(**options),
        "epsilon_plus_flat": composites.EpsilonPlusFlat(**options),
        "epsilon_alpha2_beta1": composites.EpsilonAlpha2Beta1(**options),
        "epsilon_gamma_box": composites.EpsilonGammaBox(**box, **options),
    }
    every = several | {
        "z_plus": everywhere(rules.ZPlus(EPSILON)),
        "alpha_beta": everywhere(rules.AlphaBeta(2, 1, EPSILON)),
        "gamma": everywhere(rules.Gamma(0.25, EPSILON)),
        "w_square": everywhere(rules.WSquare(EPSILON)),
        "flat": everywhere(rules.Flat(EPSILON)),
        "epsilon_alpha2_beta1_flat": composites.EpsilonAlpha2Beta1Flat(**options),
    }
    used = dict.fromkeys(NETWORKS, several)
    used["resnet20_cifar B"] = every
    used["vgg16_bn"] = {name: several[name] for name in ("epsilon_plus", "epsilon_gamma_box")}
    path, cases = Path(__file__).with_suffix(".npz"), sys.argv[1:] or NETWORKS
    golden = dict(np.load(path)) if sys.argv[1:] else {}
    for case in cases:
        network = networks[case]()
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # zennit's hooks ask for what went in
        shapes = {
            name: list(value.shape)
            for name, value in network.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        golden[f"{case}/shapes"] = np.array(json.dumps(shapes))
        drawn = {n: torch.from_numpy(LOGITS["tensor"](n, tuple(s))) for n, s in shapes.items()}
        network.load_state_dict(drawn, strict=False)
        network.double().eval()
        x = (torch.from_numpy(images(case)).double().permute(0, 3, 1, 2) - mean) / std
        chosen = F.one_hot(torch.from_numpy(targets(case)), CLASSES)
        plain = network(x).detach()
        golden[f"{case}/logits"] = plain.numpy()
        merge(network)
        for name, composite in used[case].items():
            given = x.clone().requires_grad_()
            with composite.context(network) as modified:
                logits = modified(given)
                assert torch.allclose(logits, plain)
                (relevance,) = torch.autograd.grad(logits, given, chosen * logits.detach())
            relevance = relevance.permute(0, 2, 3, 1).numpy()
            golden[f"{case}/{name}"] = digest(relevance).astype(np.float32)
    np.savez_compressed(path, **golden)


if __name__ == "__main__":
    main()

"""Makes explainers_lxt.npz: relevances of a small vision transformer by LXT's explicit rules.

Run `python tests/golden/explainers_lxt.py` where torch and lxt 2.1 are installed. The weights carry
timm's names and are drawn as `models_logits.py` draws them; the network is written with LXT's
functions alone (AttnLRP, Achtibat et al. 2024). Relevance starts as the target's logit, everything
is computed in float64 and stored channels last.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

LOGITS = runpy.run_path(str(Path(__file__).with_name("models_logits.py")))
CLASSES = 5
DIMENSIONS = {"size": 12, "patch": 4, "width": 8, "depth": 2, "heads": 2}
EPSILON = 1e-8
TARGETS = np.array([1, 4, 0])


def images() -> np.ndarray:
    """Images [batch, height, width, 3] in [0, 1], in float32."""
    shape = (len(TARGETS), DIMENSIONS["size"], DIMENSIONS["size"], 3)
    return np.random.default_rng(3).uniform(size=shape).astype(np.float32)


def tensors() -> dict[str, np.ndarray]:
    """The weights by timm's names."""
    width, patch = DIMENSIONS["width"], DIMENSIONS["patch"]
    tokens = 1 + (DIMENSIONS["size"] // patch) ** 2
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "norm.weight": (width,),
        "head.weight": (CLASSES, width),
    }
    for block in (f"blocks.{i}" for i in range(DIMENSIONS["depth"])):
        shapes |= {
            f"{block}.norm1.weight": (width,),
            f"{block}.attn.qkv.weight": (3 * width, width),
            f"{block}.attn.proj.weight": (width, width),
            f"{block}.norm2.weight": (width,),
            f"{block}.mlp.fc1.weight": (4 * width, width),
            f"{block}.mlp.fc2.weight": (width, 4 * width),
        }
    biases = {
        name.replace("weight", "bias"): shape[:1]
        for name, shape in shapes.items()
        if name.endswith("weight")
    }
    return {name: LOGITS["tensor"](name, shape) for name, shape in (shapes | biases).items()}


def main() -> None:
    import torch
    import torch.nn.functional as F
    from lxt.explicit import functional as lxt

    weights = {name: torch.from_numpy(value).double() for name, value in tensors().items()}
    mean, std = (
        torch.tensor(LOGITS[n], dtype=torch.float64).reshape(1, 3, 1, 1) for n in ("MEAN", "STD")
    )
    width, patch, heads = (DIMENSIONS[n] for n in ("width", "patch", "heads"))

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = weights[f"{name}.weight"].flatten(1)
        return lxt.linear_epsilon(x, weight, weights[f"{name}.bias"], EPSILON)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        # As `lxt.layer_norm`, whose epsilon cannot be chosen.
        function = lxt.layer_norm_grad_fn
        return function.apply(x, weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6, EPSILON)

    def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return lxt.add2(x, y, epsilon=EPSILON)

    def gelu(x: torch.Tensor) -> torch.Tensor:
        # A product with a constant passes relevance on, as LXT does at activations.
        return lxt.mul2(x, (F.gelu(x) / x).detach())

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def attend(x: torch.Tensor, name: str) -> torch.Tensor:
        query, key, value = map(split, dense(x, f"{name}.qkv").chunk(3, dim=-1))
        scores = lxt.matmul(query, key.transpose(-1, -2), epsilon=EPSILON)
        attention = lxt.softmax(lxt.mul2(scores, (width // heads) ** -0.5), -1)
        attended = lxt.matmul(attention, value, epsilon=EPSILON)
        return dense(attended.transpose(1, 2).flatten(2), f"{name}.proj")

    def network(x: torch.Tensor) -> torch.Tensor:
        # [batch, row, column, channel, y, x of a patch]
        x = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).permute(0, 2, 4, 1, 3, 5)
        x = dense(x.flatten(3), "patch_embed.proj").flatten(1, 2)
        x = torch.cat([weights["cls_token"].expand(len(x), 1, width), x], dim=1)
        x = add(x, weights["pos_embed"])
        for block in (f"blocks.{i}" for i in range(DIMENSIONS["depth"])):
            x = add(x, attend(norm(x, f"{block}.norm1"), f"{block}.attn"))
            hidden = gelu(dense(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
            x = add(x, dense(hidden, f"{block}.mlp.fc2"))
        return dense(norm(x, "norm")[:, 0], "head")

    given = (torch.from_numpy(images()).double().permute(0, 3, 1, 2) - mean) / std
    given.requires_grad_()
    logits = network(given)
    chosen = F.one_hot(torch.from_numpy(TARGETS), CLASSES)
    (relevance,) = torch.autograd.grad(logits, given, chosen * logits.detach())
    golden = {"logits": logits.detach().numpy()}
    golden["relevance"] = relevance.permute(0, 2, 3, 1).numpy().astype(np.float32)
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **golden)


if __name__ == "__main__":
    main()

"""Makes explainers_attention.npz: raw attention, rollout and TIBAV of transformers' ViT.

Run `python tests/golden/explainers_attention.py` where torch and transformers are installed (made
with torch 2.13.0 and transformers 5.23.0). Attention maps and their gradients are those of Hugging
Face's network, with the images and the weights of `explainers_lxt.py`. Relevance is that of the
same network written with the rules of Chefer, Gur and Wolf 2021 as their code has them
(hila-chefer/Transformer-Explainability: `modules/layers_ours.py` and `baselines/ViT/ViT_LRP.py`,
alpha = 1), one image at a time, as there. Everything is computed in float64.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from explainers_lxt import CLASSES, DIMENSIONS, TARGETS, images, tensors

EPSILON = 1e-6  # of layer norms


def main() -> None:
    import torch
    import torch.nn.functional as F
    from models_transformers import NETWORKS, draw

    network = NETWORKS["vision_transformer"](
        CLASSES,
        EPSILON,
        "eager",
        hidden_size=DIMENSIONS["width"],
        num_hidden_layers=DIMENSIONS["depth"],
        num_attention_heads=DIMENSIONS["heads"],
        intermediate_size=4 * DIMENSIONS["width"],
        image_size=DIMENSIONS["size"],
        patch_size=DIMENSIONS["patch"],
    ).eval()
    drawn = draw(network, 0)
    assert all(np.array_equal(drawn[name], values) for name, values in tensors().items())
    network = network.double()
    weights = {name: torch.from_numpy(values).double() for name, values in drawn.items()}

    def divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        safe = b.clamp(min=1e-9) + b.clamp(max=1e-9)
        return a / torch.where(safe == 0, 1e-9, safe) * (b != 0)

    def ruled(forward: Any, rule: Any) -> Any:
        """A function through which relevance goes back by a rule in place of a gradient."""

        class Ruled(torch.autograd.Function):
            @staticmethod
            def forward(context: Any, *inputs: torch.Tensor) -> torch.Tensor:
                context.save_for_backward(*inputs)
                return forward(*inputs)

            @staticmethod
            def backward(context: Any, relevance: torch.Tensor) -> Any:
                return rule(relevance, *context.saved_tensors)

        return Ruled.apply

    def in_proportion(function: Any, relevance: Any, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """x dy/dx R / y for each of a function's inputs x."""
        with torch.enable_grad():
            inputs = tuple(x.detach().requires_grad_() for x in inputs)
            output = function(*inputs)
        found = torch.autograd.grad(output, inputs, divide(relevance, output.detach()))
        return [x.detach() * way for x, way in zip(inputs, found, strict=True)]

    def halves(function: Any, relevance: torch.Tensor, *inputs: torch.Tensor) -> Any:
        return tuple(part / 2 for part in in_proportion(function, relevance, *inputs))

    def normalised(relevance: torch.Tensor, *inputs: torch.Tensor) -> Any:
        parts = in_proportion(torch.add, relevance, *inputs)
        sizes = [part.sum().abs() for part in parts]
        whole = sizes[0] + sizes[1]
        return tuple(
            part * divide(divide(size, whole) * relevance.sum(), part.sum())
            for part, size in zip(parts, sizes, strict=True)
        )

    def supporting(relevance: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        parts = [(x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))]
        share = divide(relevance, sum(F.linear(*part) for part in parts))
        return sum(values * (share @ kernel) for values, kernel in parts)

    def dense(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        rule = functools.partial(lambda R, x: supporting(R, x, weight))
        return ruled(lambda x: F.linear(x, weight, bias), rule)(x)

    def passing(forward: Any) -> Any:
        return ruled(forward, lambda relevance, *_: relevance)

    def product(equation: str) -> Any:
        function = functools.partial(torch.einsum, equation)
        return ruled(function, functools.partial(halves, function))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        parameters = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return passing(lambda x: F.layer_norm(x, x.shape[-1:], *parameters, EPSILON))(x)

    add = ruled(torch.add, normalised)

    def attend(x: torch.Tensor, name: str, kept: list[torch.Tensor]) -> torch.Tensor:
        heads = dense(x, f"{name}.qkv").unflatten(-1, (3, DIMENSIONS["heads"], -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        scores = product("bhqc,bhkc->bhqk")(query, key)
        scale = query.shape[-1] ** -0.5
        attention = passing(lambda scores: torch.softmax(scores * scale, -1))(scores)
        kept.append(attention)
        attended = product("bhqk,bhkc->bhqc")(attention, value)
        return dense(attended.transpose(1, 2).flatten(2), f"{name}.proj")

    def written_out(pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The logits, and the attention maps."""
        kept: list[torch.Tensor] = []
        kernel, bias = (weights[f"patch_embed.proj.{part}"] for part in ("weight", "bias"))
        patches = F.conv2d(pixels, kernel, bias, stride=DIMENSIONS["patch"])
        patches = patches.flatten(2).transpose(1, 2)
        x = torch.cat([weights["cls_token"].expand(len(patches), 1, -1), patches], dim=1)
        x = (x + weights["pos_embed"]).requires_grad_()
        for block in (f"blocks.{i}" for i in range(DIMENSIONS["depth"])):
            x = add(x, attend(norm(x, f"{block}.norm1"), f"{block}.attn", kept))
            hidden = dense(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
            x = add(x, dense(passing(F.gelu)(hidden), f"{block}.mlp.fc2"))
        return dense(norm(x, "norm")[:, 0], "head"), kept

    def multiplied(matrices: list[torch.Tensor]) -> torch.Tensor:
        """The product, later blocks on the left: the class token's row, without its own entry."""
        joint = matrices[0]
        for matrix in matrices[1:]:
            joint = matrix @ joint
        return joint[0, 1:]

    found: dict[str, list] = {name: [] for name in ("logits", "raw", "rollout", "tibav")}
    relevances, gradients = [], []
    eye = torch.eye(1 + (DIMENSIONS["size"] // DIMENSIONS["patch"]) ** 2).double()
    for image, target in zip(images(), TARGETS, strict=True):
        pixels = torch.from_numpy(image).double().permute(2, 0, 1)[None]
        output = network(pixels, output_attentions=True)
        attentions, logits = output.attentions, output.logits
        gradient = torch.autograd.grad(logits[0, target], attentions)
        again, kept = written_out(pixels)
        assert torch.allclose(again, logits, atol=1e-10)
        start = F.one_hot(torch.tensor([target]), CLASSES).double()
        relevance = torch.autograd.grad(again, kept, start)
        averages = [attention[0].mean(0) + eye for attention in attentions]
        rows = [average / average.sum(-1, keepdim=True) for average in averages]
        positive = [
            eye + (a * b)[0].clamp(min=0).mean(0) for a, b in zip(gradient, relevance, strict=True)
        ]
        found["logits"].append(logits[0])
        found["raw"].append(attentions[-1][0].mean(0)[0, 1:])
        found["rollout"].append(multiplied(rows))
        found["tibav"].append(multiplied(positive))
        relevances.append(torch.cat(relevance))
        gradients.append(torch.cat(gradient))
    golden = {name: torch.stack(values) for name, values in found.items()}
    golden |= {"relevance": torch.stack(relevances), "gradient": torch.stack(gradients)}
    np.savez_compressed(
        Path(__file__).with_suffix(".npz"),
        **{name: values.detach().numpy() for name, values in golden.items()},
    )


if __name__ == "__main__":
    main()

"""Makes models_transformers.json: a vision transformer of Hugging Face's, its weights by name.

Run `python tests/golden/models_transformers.py` where torch and transformers are installed (made
with torch 2.13.0 and transformers 5.23.0). The same network is written down twice, its weights
drawn by timm's names and by torchvision's, with another epsilon each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from models_imagenet import NETWORKS, entries, tensor

# For each of Hugging Face's names: timm's, and torchvision's as its published files have them.
NAMES = {
    "vit.embeddings.cls_token": ("cls_token", "class_token"),
    "vit.embeddings.position_embeddings": ("pos_embed", "encoder.pos_embedding"),
    "vit.embeddings.patch_embeddings.projection": ("patch_embed.proj", "conv_proj"),
    "vit.layernorm": ("norm", "encoder.ln"),
    "classifier": ("head", "heads.head"),
}
BLOCK_NAMES = {
    "attention.o_proj": ("attn.proj", "self_attention.out_proj"),
    "layernorm_before": ("norm1", "ln_1"),
    "layernorm_after": ("norm2", "ln_2"),
    "mlp.fc1": ("mlp.fc1", "mlp.linear_1"),
    "mlp.fc2": ("mlp.fc2", "mlp.linear_2"),
}
CASES = {"timm": (0, 1e-6), "torchvision": (1, 1e-2)}
SIZE = 16
CLASSES = 7
BASE = "base"
"""The network of ViT-B/16 and DeiT-B/16 in full, by timm's names, on 64 pixels."""
BASE_SIZE = 64


def images(size: int) -> np.ndarray:
    """Two images [2, size, size, 3] in [0, 1]."""
    return np.random.default_rng(0).uniform(size=(2, size, size, 3)).astype(np.float32)


def cotangent(classes: int) -> np.ndarray:
    """Which sum of the logits [2, classes] the input gradient is taken of."""
    return np.random.default_rng(1).standard_normal((2, classes)).astype(np.float32)


def draw(model: Any, convention: int) -> dict[str, np.ndarray]:
    """The weights by the names of a convention, put into Hugging Face's network too."""
    import torch

    drawn: dict[str, np.ndarray] = {}
    theirs: dict[str, np.ndarray] = {}
    for name, value in model.state_dict().items():
        if any(f".{part}_proj." in name for part in "qkv"):
            continue
        name_there = _renamed(name, convention)
        drawn[name_there] = theirs[name] = tensor(name_there, tuple(value.shape))
    width = model.config.hidden_size
    for layer in range(model.config.num_hidden_layers):
        prefix = (f"blocks.{layer}.attn.qkv.", f"{_encoder(layer)}.self_attention.in_proj_")
        for leaf, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
            name_there = prefix[convention] + leaf
            drawn[name_there] = tensor(name_there, shape)
            for part, values in zip("qkv", np.split(drawn[name_there], 3), strict=True):
                theirs[f"vit.layers.{layer}.attention.{part}_proj.{leaf}"] = values
    model.load_state_dict({name: torch.from_numpy(values) for name, values in theirs.items()})
    return drawn


def _renamed(name: str, convention: int) -> str:
    if name in NAMES:
        return NAMES[name][convention]
    layer, leaf = name.rsplit(".", 1)
    if not layer.startswith("vit.layers."):
        return f"{NAMES[layer][convention]}.{leaf}"
    _, _, index, part = layer.split(".", 3)
    prefix = (f"blocks.{index}", _encoder(int(index)))[convention]
    return f"{prefix}.{BLOCK_NAMES[part][convention]}.{leaf}"


def _encoder(layer: int) -> str:
    return f"encoder.layers.encoder_layer_{layer}"


def evaluate(model: Any, pixels: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """In float64: logits, the input gradient of their weighted sum, the attention maps."""
    import torch

    x = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).double().requires_grad_()
    output = model.double()(x, output_attentions=True)
    (output.logits * torch.from_numpy(weights)).sum().backward()
    assert x.grad is not None
    return {
        "logits": output.logits.detach().numpy(),
        "gradient": x.grad.numpy().transpose(0, 2, 3, 1),
        "attention": np.stack([maps.detach().numpy() for maps in output.attentions]),
    }


def _written(drawn: dict[str, np.ndarray], values: dict[str, np.ndarray]) -> dict[str, Any]:
    rounded = {
        name: [float(f"{number:.7g}") for number in array.ravel()] for name, array in values.items()
    }
    return {"shapes": {name: list(array.shape) for name, array in drawn.items()}} | rounded


def main() -> None:
    golden = {}
    for case, (convention, epsilon) in CASES.items():
        # Eager attention keeps its maps.
        model = NETWORKS["vision_transformer"](
            CLASSES,
            epsilon,
            "eager",
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=192,
            image_size=SIZE,
            patch_size=4,
        ).eval()
        drawn = draw(model, convention)
        values = evaluate(model, images(SIZE), cotangent(CLASSES))
        # The first image's, of the last block: small, and behind all the others.
        values["attention"] = values["attention"][-1, 0]
        golden[case] = _written(drawn, values)
    model = NETWORKS["vision_transformer"](CLASSES, 1e-6, "eager", image_size=BASE_SIZE).eval()
    drawn = draw(model, 0)
    values = evaluate(model, images(BASE_SIZE), cotangent(CLASSES))
    gradient = values["gradient"].ravel()[entries(BASE_SIZE)]
    golden[BASE] = _written(drawn, {"logits": values["logits"], "gradient": gradient})
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()

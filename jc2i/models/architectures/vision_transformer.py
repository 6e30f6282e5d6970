"""Vision transformers.

Sources: Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), equations 1 to 4; Touvron
et al., "Training data-efficient image transformers" (ICML 2021), whose DeiT without distillation is
the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from jc2i.checks import count, positive, require
from jc2i.models.classifier import DEEPEST, Classifier
from jc2i.models.layers import compute_in, dense, layer_norm, patch_embedding

DIMENSIONS = {
    "vit_b16": {"size": 224, "patch": 16, "width": 768, "depth": 12, "heads": 12},
    "deit_b16": {"size": 224, "patch": 16, "width": 768, "depth": 12, "heads": 12},
    "vit_small": {"size": 32, "patch": 4, "width": 192, "depth": 6, "heads": 3},
    "vit_small_56": {"size": 56, "patch": 4, "width": 96, "depth": 4, "heads": 3},
}
"""The dimensions that each architecture has unless told otherwise; the small ones are this
package's, for images of 32 to 64 pixels, the last with weights of less than 2 MB."""


class VisionTransformer(Classifier):
    """A vision transformer: patches and a class token through blocks of attention.

    It names its activations, with tokens in the order class token, then patches row by row:

    - `patches`: the patch embedding as a grid [batch, height, width, channel]
    - `block{i}.norm1`: the tokens [batch, tokens, channel] after the layer norm in front of a
      block's attention; that of the last block is Opti-CAM's layer
    - `block{i}.grid`: the patches among them, as a grid [batch, height, width, channel]. The
      attention of the block reads them from there: where methods of the Grad-CAM family look
    - `block{i}.attention`: the attention maps [batch, heads, tokens, tokens], rows summing to 1
    - `block{i}`: the tokens [batch, tokens, channel] that a block returns
    - `norm`: the tokens after the last layer norm; `pool`: its class token; `logits`

    There is no dropout, in training neither.

    Args:
      architecture: `"vit_b16"`, `"deit_b16"`, `"vit_small"` or `"vit_small_56"`, which sets the
        dimensions.
      classes: the number of classes.
      size: the height and width of the images, a multiple of `patch`.
      patch: the height and width of a patch.
      width: the number of channels of a token, a multiple of `heads`.
      depth: the number of blocks, at most `DEEPEST`.
      heads: the number of attention maps in a block.
      epsilon: what layer norms add to the variance: 1e-6 in timm and torchvision, 1e-12 in models
        of Hugging Face's `transformers`.
      channels: the number of channels of the images.
      mean: see `Classifier`.
      std: see `Classifier`.
      normalize: see `Classifier`.
      dtype: see `Classifier`; attention maps are computed in float32, whatever it is.
    """

    def __init__(
        self,
        architecture: str,
        *,
        classes: int,
        size: int | None = None,
        patch: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        epsilon: float = 1e-6,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        normalize: bool = True,
        dtype: str = "float32",
    ) -> None:
        asked = {"size": size, "patch": patch, "width": width, "depth": depth, "heads": heads}
        chosen = DIMENSIONS[architecture] | {n: v for n, v in asked.items() if v is not None}
        count(**chosen)
        size, patch, width, depth, heads = (chosen[name] for name in asked)
        require(depth <= DEEPEST, "depth", depth, f"at most {DEEPEST}")
        require(size % patch == 0, "size", size, f"a multiple of {patch}, the patch")
        require(width % heads == 0, "width", width, f"a multiple of {heads}, the heads")
        positive(epsilon=epsilon)
        super().__init__(
            architecture,
            classes=classes,
            channels=channels,
            size=size,
            mean=mean,
            std=std,
            normalize=normalize,
            dtype=dtype,
        )
        self.patch, self.width, self.depth, self.heads = patch, width, depth, heads
        self.epsilon = epsilon
        tokens = 1 + (size // patch) ** 2
        # The attributes are named as timm's are.
        self.cls_token = nnx.Param(jnp.zeros((1, 1, width)))
        self.pos_embed = nnx.Param(jnp.zeros((1, tokens, width)))
        self.patch_embed = patch_embedding(channels, width, patch)
        self.blocks = nnx.List([_Block(f"block{i}", width, heads, epsilon) for i in range(depth)])
        self.norm = layer_norm(width, epsilon)
        self.head = dense(width, classes)
        compute_in(self, dtype)

    def forward(
        self, values: Float[jax.Array, "batch size size channels"]
    ) -> Float[jax.Array, "batch classes"]:
        """The logits of normalised images."""
        grid = checkpoint_name(self.patch_embed(values), "patches")
        token = jnp.broadcast_to(self.cls_token[...], (len(grid), 1, self.width))
        tokens = _join(token.astype(grid.dtype), grid) + self.pos_embed[...].astype(grid.dtype)
        for block in self.blocks:
            tokens = checkpoint_name(block(tokens), block.name)
        tokens = checkpoint_name(self.norm(tokens), "norm")
        return self.head(checkpoint_name(tokens[:, 0], "pool"))

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that build this model again."""
        own = ("size", "patch", "width", "depth", "heads", "epsilon")
        return super().options | {name: getattr(self, name) for name in own}

    def initial_deviation(self, name: str, shape: tuple[int, ...]) -> float | None:
        """0.02 for kernels, the class token and the position embedding, as DeiT and timm have."""
        return 0.02 if name.endswith(("kernel", "cls_token", "pos_embed")) else None

    def torch_names(self, layer: tuple[str | int, ...]) -> tuple[str, ...]:
        """What published files call a layer: timm's name, then torchvision's, new and old."""
        if layer[0] == "blocks":
            _, index, part = layer
            timm, new, old = _BLOCK_NAMES[str(part)]
            encoder = f"encoder.layers.encoder_layer_{index}"
            return f"blocks.{index}.{timm}", f"{encoder}.{new}", f"{encoder}.{old}"
        timm, torchvision = _NAMES[str(layer[0])]
        return timm, torchvision, torchvision


# By our names: timm's, torchvision's.
_NAMES = {
    "cls_token": ("cls_token", "class_token"),
    "pos_embed": ("pos_embed", "encoder.pos_embedding"),
    "patch_embed": ("patch_embed.proj", "conv_proj"),
    "norm": ("norm", "encoder.ln"),
    "head": ("head", "heads.head"),
}

# timm's, torchvision's since 0.13, torchvision's before, in which its published files are written.
_BLOCK_NAMES = {
    "norm1": ("norm1", "ln_1", "ln_1"),
    "qkv": ("attn.qkv", "self_attention.in_proj", "self_attention.in_proj"),
    "proj": ("attn.proj", "self_attention.out_proj", "self_attention.out_proj"),
    "norm2": ("norm2", "ln_2", "ln_2"),
    "fc1": ("mlp.fc1", "mlp.0", "mlp.linear_1"),
    "fc2": ("mlp.fc2", "mlp.3", "mlp.linear_2"),
}


class _Block(nnx.Module):
    """Self-attention, then two dense layers, each behind a layer norm and with a way around it."""

    def __init__(self, name: str, width: int, heads: int, epsilon: float) -> None:
        self.name = name
        self.heads = heads
        self.norm1 = layer_norm(width, epsilon)
        self.qkv = dense(width, 3 * width)
        self.proj = dense(width, width)
        self.norm2 = layer_norm(width, epsilon)
        self.fc1 = dense(width, 4 * width)
        self.fc2 = dense(4 * width, width)

    def __call__(
        self, tokens: Float[jax.Array, "batch tokens width"]
    ) -> Float[jax.Array, "batch tokens width"]:
        normalised = checkpoint_name(self.norm1(tokens), f"{self.name}.norm1")
        tokens = tokens + self.attend(normalised)
        hidden = jax.nn.gelu(self.fc1(self.norm2(tokens)), approximate=False)
        return tokens + self.fc2(hidden)

    def attend(
        self, tokens: Float[jax.Array, "batch tokens width"]
    ) -> Float[jax.Array, "batch tokens width"]:
        """softmax(Q K^T / sqrt(channels of a head)) V, and a dense layer over the heads."""
        batch, length, width = tokens.shape
        side = round((length - 1) ** 0.5)
        grid = tokens[:, 1:].reshape(batch, side, side, width)
        tokens = _join(tokens[:, :1], checkpoint_name(grid, f"{self.name}.grid"))
        heads = self.qkv(tokens).reshape(batch, length, 3, self.heads, width // self.heads)
        query, key, value = jnp.moveaxis(heads, 2, 0)
        scores = (
            jnp.einsum("bqhc,bkhc->bhqk", query, key, preferred_element_type=jnp.float32)
            * (width // self.heads) ** -0.5
        )
        attention = jax.nn.softmax(scores).astype(tokens.dtype)
        attention = checkpoint_name(attention, f"{self.name}.attention")
        attended = jnp.einsum("bhqk,bkhc->bqhc", attention, value)
        return self.proj(attended.reshape(batch, length, width))


def _join(
    token: Float[jax.Array, "batch 1 channels"],
    grid: Float[jax.Array, "batch height width channels"],
) -> Float[jax.Array, "batch tokens channels"]:
    """The class token and the patches of a grid as one sequence."""
    patches = grid.reshape(grid.shape[0], -1, grid.shape[3])
    return jnp.concatenate([token, patches], axis=1)

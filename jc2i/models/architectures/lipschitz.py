"""The 1-Lipschitz network of Fel et al., and it in training.

Source: Fel, Vigouroux, Cadène and Serre, "How Good is your Explanation? Algorithmic Stability
Measures to Assess the Quality of Explanations for Deep Neural Networks" (WACV 2022), table 4, which
is made of deel-lip's layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from jc2i.checks import describe, one_of, require, whole
from jc2i.models.classifier import Classifier, weights, with_weights
from jc2i.models.layers import Dropout, compute_in, convolution, dense
from jc2i.models.operator_norm import convolution_norm_bound, matrix_norm_bound
from jc2i.models.orthonormal import (
    NORMALIZATIONS,
    coefficient,
    largest_singular_value,
    orthonormalized,
)


class Lipschitz(Classifier):
    """The 1-Lipschitz network, whose logits of two images are no further apart than their pixels.

    Convolutions, parametric rectifiers and average pooling, then a dense layer, none of which
    stretches its input.

    It names its activations `convolution0`, `convolution1`, ... (each after its rectifier, where
    it has one, and before the pooling), `logits`.

    A model that `create`, `load` or training gives holds plain weights that keep the promise, and
    computes plain convolutions; `layer_bounds` computes what it keeps. `trainable()` is the same
    network with weights that are free, and normalised at every call: that is what gradient descent
    moves, and `finished()` turns it back. Logits are small, and cannot grow: the loss takes them at
    a temperature far below 1.

    Args:
      classes: the number of classes.
      size: the height and width of the images.
      widths: the channels of the convolutions; all but the last have a rectifier and a dropout.
      dropout: the part of the pooled values that a step of training leaves out, in [0, 1). What is
        left is scaled up, so that a step's network is steeper than the one that is evaluated.
      normalization: what a convolution is divided by, once its kernel's matrix is orthonormal:
        `"operator"`, its own largest singular value at the size of its images; `"kernel"`, the root
        of the number of the kernel's pixels (as deel-torchlip), never less and so flatter; or
        `"average"`, deel-lip's factor, which exceeds 1 for some kernels: see `average_coefficient`.
      bjorck_steps: steps of Björck's iteration, which takes a matrix's singular values to 1; 0
        leaves them as they are, 1 at most.
      power_iterations: steps of the power iteration at each call in training, which goes on from
        where the last call left it.
      channels: the number of channels of the images.
      mean: see `Classifier`.
      std: see `Classifier`; 1 in every channel, since anything below multiplies the gradient.
      normalize: see `Classifier`.
      dtype: see `Classifier`.
    """

    def __init__(
        self,
        *,
        classes: int,
        size: int = 32,
        widths: Sequence[int] = (48, 96, 96),
        dropout: float = 0.2,
        normalization: str = "operator",
        bjorck_steps: int = 15,
        power_iterations: int = 1,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        normalize: bool = True,
        dtype: str = "float32",
    ) -> None:
        require(len(widths) > 0 and min(widths) > 0, "widths", tuple(widths), "numbers above 0")
        halvings = 2 ** len(widths)
        whole("size", size, f"a whole number of at least {halvings}", halvings)
        one_of("normalization", normalization, NORMALIZATIONS)
        whole("bjorck_steps", bjorck_steps, "a whole number from 0", 0)
        whole("power_iterations", power_iterations)
        super().__init__(
            "lipschitz",
            classes=classes,
            channels=channels,
            size=size,
            mean=mean,
            std=std,
            normalize=normalize,
            dtype=dtype,
        )
        require(set(self.std) == {1.0}, "std", self.std, "1 for each channel")
        self.widths = tuple(map(int, widths))
        self.normalization = normalization
        self.bjorck_steps = int(bjorck_steps)
        self.power_iterations = int(power_iterations)
        inputs = (channels, *self.widths[:-1])
        self.convolutions = nnx.List(
            [convolution(i, o, bias=True) for i, o in zip(inputs, self.widths, strict=True)]
        )
        # 0.25 is He et al.'s ("Delving Deep into Rectifiers", 2015) and PyTorch's.
        self.slopes = nnx.List([nnx.Param(jnp.full(width, 0.25)) for width in self.widths[:-1]])
        self.dropout = Dropout(dropout)
        self.head = dense(self.sizes[-1] ** 2 * self.widths[-1], classes)
        compute_in(self, dtype)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Height and width of what enters each convolution, and of what enters the dense layer."""
        assert self.size is not None
        return tuple(self.size // 2**halvings for halvings in range(len(self.widths) + 1))

    def forward(
        self,
        values: Float[jax.Array, "batch size size channels"],
        key: jax.Array | None = None,
    ) -> Float[jax.Array, "batch classes"]:
        """The logits of normalised images."""
        for index, layer in enumerate(self.convolutions):
            values = layer(values)
            rectified = index < len(self.slopes)
            if rectified:
                slope = self.slopes[index][...].astype(values.dtype)
                values = jnp.where(values >= 0, values, slope * values)
            values = checkpoint_name(values, f"convolution{index}")
            # A mean of four halves the norm at least: twice it is 1-Lipschitz.
            values = 2 * nnx.avg_pool(values, (2, 2), strides=(2, 2))
            if rectified:
                values = self.dropout(
                    values, key if key is None else jax.random.fold_in(key, index)
                )
        return self.head(values.reshape(values.shape[0], -1))

    @property
    def draws(self) -> bool:
        """Whether a call needs a key now: in training with dropout."""
        return self.dropout.draws

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that build this model again."""
        own = {
            name: getattr(self, name)
            for name in ("size", "widths", "normalization", "bjorck_steps", "power_iterations")
        }
        return super().options | own | {"dropout": self.dropout.rate}

    def drawn(self) -> Lipschitz:
        """With weights that keep the promise, whatever they are: those drawn at random do not."""
        # Bounded by its number of pixels, not measured, which would take seconds for a network that
        # training measures anyway.
        return self._constrained("kernel")

    def trainable(self) -> Constrained:
        """The same network with free weights, for gradient descent."""
        return Constrained(self)

    def _constrained(self, normalization: str) -> Lipschitz:
        """With each weight replaced by the one that it stands for, computed on the host."""
        values: dict[str, Any] = {n: np.asarray(value) for n, value in weights(self).items()}
        for name, value in values.items():
            if name.startswith("slopes"):
                values[name] = np.clip(value, -1, 1)
            elif name.endswith("kernel"):
                matrix = _orthonormalized(_matrix(value).astype(np.float64), self.bjorck_steps)
                values[name] = matrix.reshape(value.shape)
        for index in range(len(self.widths)):
            name = f"convolutions.{index}.kernel"
            values[name] = _scaled(values[name], self.sizes[index], normalization)
        return with_weights(self, values)


def _matrix(kernel: Any) -> Any:
    """A kernel as a matrix: what goes into an output channel, by output channel."""
    return kernel.reshape(-1, kernel.shape[-1])


def _orthonormalized(matrix: np.ndarray, steps: int) -> np.ndarray:
    """A matrix after Björck's iteration, in float64, by what that does to its singular values."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / max(values[0], np.finfo(np.float32).tiny)
    for _ in range(steps):
        values = 1.5 * values - 0.5 * values**3
    # So that rounding to float32 leaves none above 1.
    return (left * values) @ right * (1 - 1e-6)


def _scaled(kernel: np.ndarray, size: int, normalization: str) -> np.ndarray:
    if normalization == "operator":
        # As the kernel will be kept; the bound of zeros is zero.
        bound = convolution_norm_bound(kernel.astype(np.float32), size)
        return kernel / max(bound, np.finfo(np.float32).tiny) * (1 - 1e-6)
    return kernel * coefficient(normalization, kernel.shape[:2], size)


class Singular(nnx.Variable):
    """A vector that a layer stretches most, as the power iteration has it by now."""


class Constrained(nnx.Module):
    """A 1-Lipschitz network in training: its weights are free, and normalised at every call.

    A dense layer's matrix, and a convolution's kernel as a matrix [height width inputs, outputs],
    is divided by its largest singular value and made orthonormal by Björck's iteration; then a
    convolution is divided by its operator's largest singular value, at the size of its images (see
    `Lipschitz`, `normalization`). Slopes of rectifiers are clipped to [-1, 1]. Gradients go through
    all of it, but through the clipping, which they pass by, so that a slope comes back.

    Singular values are those of the power iteration, whose vectors are variables of this module
    (`Singular`): as the statistics of a batch norm they move with each call in training, and are
    used as they are in evaluation.

    Args:
      model: where to start; it is unchanged.
    """

    def __init__(self, model: Lipschitz) -> None:
        self.model = with_weights(model, weights(model))
        matrices = [_matrix(layer.kernel[...]) for layer in (*model.convolutions, model.head)]
        self.of_matrices = nnx.List(
            [
                Singular(jnp.asarray(np.linalg.svd(matrix, full_matrices=False)[2][0]))
                for matrix in matrices
            ]
        )
        random, operators = np.random.default_rng(0), []
        for layer, size in zip(model.convolutions, model.sizes, strict=False):
            if model.normalization == "operator":
                shape = (1, size, size, layer.kernel.shape[2])
                operators.append(Singular(jnp.float32(random.standard_normal(shape))))
        self.of_operators = nnx.List(operators)
        self.deterministic = True  # as nnx calls what `train()` and `eval()` switch

    def __call__(
        self, images: Float[Any, "batch size size channels"], key: jax.Array | None = None
    ) -> Float[jax.Array, "batch classes"]:
        """The logits of images in [0, 1], by the normalised weights."""
        return self.normalized()(images, key)

    @property
    def draws(self) -> bool:
        """Whether a call needs a key now: in training with dropout."""
        return self.model.draws

    def normalized(self) -> Lipschitz:
        """The network with the weights that the free ones stand for now."""
        model = self.model
        values = weights(model)
        for index in range(len(model.slopes)):
            slope = values[f"slopes.{index}"]
            clipped = jnp.clip(slope, -1, 1)
            values[f"slopes.{index}"] = slope + jax.lax.stop_gradient(clipped - slope)
        names = [f"convolutions.{index}.kernel" for index in range(len(model.widths))]
        for name, vector in zip([*names, "head.kernel"], self.of_matrices, strict=True):
            kernel = values[name]
            matrix = _matrix(kernel)
            matrix = matrix / self._stretch(_multiplied, matrix, vector)
            values[name] = orthonormalized(matrix, model.bjorck_steps).reshape(kernel.shape)
        for index, name in enumerate(names):
            kernel, size = values[name], model.sizes[index]
            factor = coefficient(model.normalization, kernel.shape[:2], size)
            if model.normalization == "operator":
                factor = 1 / self._stretch(_convolved, kernel, self.of_operators[index])
            values[name] = factor * kernel
        return with_weights(model, values)

    def _stretch(self, apply: Any, kernel: jax.Array, vector: Singular) -> jax.Array:
        steps = self.model.power_iterations
        value, moved = largest_singular_value(apply, kernel, vector[...], steps)
        if not self.deterministic:
            vector[...] = moved
        return value

    def finished(self) -> Lipschitz:
        """The network with the weights that the free ones stand for, measured and not estimated.

        Singular values of matrices are those of a decomposition in float64; a convolution is
        divided by a proven bound of its operator (`convolution_norm_bound`), which takes seconds.

        Returns:
          A plain model in evaluation mode.
        """
        finished = self.model._constrained(self.model.normalization)
        finished.eval()
        return finished


def _multiplied(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, vector, precision="highest")


def _convolved(kernel: jax.Array, images: jax.Array) -> jax.Array:
    tall, wide = kernel.shape[0] // 2, kernel.shape[1] // 2
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        (1, 1),
        ((tall, tall), (wide, wide)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )


def layer_bounds(model: Lipschitz) -> dict[str, float]:
    """How much each layer of a network can stretch its input, by sound bounds, computed now.

    Args:
      model: a 1-Lipschitz network as `create`, `load` or training gives it, whatever its weights.

    Returns:
      By layer: `"preprocess"`, one over the smallest standard deviation; `"convolutions.0"`, ...,
      see `convolution_norm_bound`; `"slopes.0"`, ..., the largest slope's size, or 1; `"pools"`, 1,
      since twice the mean of four values that no other mean has is 1-Lipschitz; `"head"`, see
      `matrix_norm_bound`. Bounds are of the layers as they are written, not of their rounding in
      float32.
    """
    takes = "a 1-Lipschitz network of jc2i.models"
    require(isinstance(model, Lipschitz), "model", describe(model), takes)
    bounds = {"preprocess": max(1 / std for std in model.std) if model.normalize else 1.0}
    for index, layer in enumerate(model.convolutions):
        kernel = np.asarray(layer.kernel[...])
        bounds[f"convolutions.{index}"] = convolution_norm_bound(kernel, model.sizes[index])
    for index, slope in enumerate(model.slopes):
        bounds[f"slopes.{index}"] = max(1.0, float(np.abs(slope[...]).max()))
    bounds["pools"] = 1.0
    bounds["head"] = matrix_norm_bound(np.asarray(model.head.kernel[...]))
    return bounds


def lipschitz_bound(model: Lipschitz) -> float:
    """A bound of a network's Lipschitz constant in the Euclidean norm: the product of its layers'.

    It bounds the largest singular value of the logits' Jacobian at any image, and so the length of
    any logit's gradient; that of a difference of two logits by sqrt(2) times it.

    Args:
      model: see `layer_bounds`.

    Returns:
      The bound.
    """
    return float(np.prod(list(layer_bounds(model).values())))

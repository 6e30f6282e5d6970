"""What every architecture here shares: normalisation inside the model, layers, named weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from jc2i.checks import Array, array, describe, finite_numbers, held, one_of, require, whole

DEEPEST = 1202
"""The most layers, or blocks of a transformer: those of the deepest published residual network.

Building a deeper one takes minutes, for which a stranger's file need only hold a number.
"""


class Classifier(nnx.Module):
    """A classifier `images -> logits`, callable and a pytree whose leaves are its weights.

    It is built in evaluation mode (batch norms use their running statistics) and with blank
    weights, which `create`, `load` or `from_torch` fill. `train()` and `eval()` switch the mode in
    place. Everything but the weights is static.

    Args:
      architecture: the name under which `create` builds it.
      classes: the number of classes.
      channels: the number of channels of the images.
      size: the height and width of the images, or None where any will do.
      mean: for each channel, what is subtracted from the images (0 by default).
      std: for each channel, what the difference is divided by (1 by default).
      normalize: False keeps `mean` and `std` at hand but leaves the images as they are.
      dtype: in which the layers compute, `"float32"` or `"bfloat16"`; weights and logits stay
        float32.
    """

    def __init__(
        self,
        architecture: str,
        *,
        classes: int,
        channels: int,
        size: int | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        normalize: bool,
        dtype: str = "float32",
    ) -> None:
        self.architecture = architecture
        self.classes = whole("classes", classes)
        self.channels = channels = whole("channels", channels)
        self.size = size
        self.mean = _per_channel("mean", mean, channels, default=0.0)
        self.std = _per_channel("std", std, channels, default=1.0)
        require(min(self.std) > 0, "std", self.std, "numbers above 0")
        self.normalize = normalize
        one_of("dtype", dtype, ("float32", "bfloat16"))
        self.dtype = dtype

    def __call__(
        self, images: Float[Array, "batch height width channels"], key: jax.Array | None = None
    ) -> Float[jax.Array, "batch classes"]:
        """The logits of images in [0, 1]; `key` is for what draws, in training only."""
        values = self.preprocess(images).astype(self.dtype)
        logits = self.forward(values, **({"key": key} if self.draws else {}))
        return checkpoint_name(logits.astype(jnp.float32), "logits")

    @property
    def draws(self) -> bool:
        """Whether a call needs a key now, which `forward` then takes."""
        return False

    def forward(
        self, values: Float[jax.Array, "batch height width channels"]
    ) -> Float[jax.Array, "batch classes"]:
        """The logits of normalised images; each architecture's own."""
        raise NotImplementedError

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that build this model again, as JSON can hold them."""
        names = ("classes", "channels", "mean", "std", "normalize", "dtype")
        return {name: getattr(self, name) for name in names}

    def initial_deviation(self, name: str, shape: tuple[int, ...]) -> float | None:
        """With which standard deviation `create` draws a weight; None leaves it as it is built."""
        return float(np.sqrt(2.0 / np.prod(shape[:-1]))) if name.endswith("kernel") else None

    def drawn(self) -> Classifier:
        """The model that `create` gives for this one, whose weights it drew: itself, if any do."""
        return self

    def trainable(self) -> nnx.Module:
        """What training moves: the model, or another module whose `finished()` is one like it."""
        return self

    def preprocess(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[jax.Array, "batch height width channels"]:
        """The images as the first layer takes them: (images - mean) / std.

        Args:
          images: in [0, 1].

        Returns:
          Normalised images, or the same ones for a model with `normalize=False`.

        Raises:
          ValueError: for another rank, number of channels, size, or an integer type.
        """
        size = ("height", "width") if self.size is None else (self.size, self.size)
        takes = f"floats[batch, {size[0]}, {size[1]}, {self.channels}] in [0, 1]"
        shape = (None, self.size, self.size, self.channels)
        given = array("images", images, f"{takes} ({self.architecture})", shape=shape)
        values = jnp.asarray(held("images", given))
        if not self.normalize:
            return values
        return (values - jnp.asarray(self.mean, values.dtype)) / jnp.asarray(self.std, values.dtype)


def _per_channel(
    argument: str, values: Sequence[float] | None, channels: int, default: float
) -> tuple[float, ...]:
    if values is None:
        return (default,) * channels
    takes = f"one number for each of {channels} channels"
    found = finite_numbers(argument, values, takes, np.float64)
    require(found.shape == (channels,), argument, describe(values), takes)
    return tuple(map(float, found))


def require_classifier(model: Any) -> None:
    """Refuses what is no classifier of this package."""
    takes = "a classifier of jc2i.models"
    require(isinstance(model, Classifier), "model", describe(model), takes)


def weights(model: Classifier) -> dict[str, jax.Array]:
    """A model's weights by name, such as `"layer1.0.conv1.kernel"`."""
    return {_name(path): value[...] for path, value in nnx.to_flat_state(nnx.state(model))}


def shapes(model: Classifier) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's weights by name, of an outline's too."""
    return {_name(path): value.shape for path, value in nnx.to_flat_state(nnx.state(model))}


ModelType = TypeVar("ModelType", bound=Classifier)


def with_weights(model: ModelType, values: Mapping[str, Any], *, cast: bool = True) -> ModelType:
    """The same model with other weights.

    Args:
      model: any classifier of this package.
      values: an array for every name that `weights(model)` has.
      cast: whether each is cast to the type of the one it replaces.

    Returns:
      A new model; the one given is unchanged.
    """
    graph, state = nnx.split(model)
    flat = [
        (path, old.replace(jnp.asarray(values[_name(path)], old.dtype if cast else None)))
        for path, old in nnx.to_flat_state(state)
    ]
    return nnx.merge(graph, nnx.from_flat_state(flat))


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def require_same_shapes(
    source: str, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Any], takes: str
) -> None:
    """Refuses weights that are not exactly the expected ones, naming a few of each difference."""
    missing = [f"{name} {list(expected[name])}" for name in expected if name not in found]
    surplus = [f"{name} {list(np.shape(found[name]))}" for name in found if name not in expected]
    misshapen = [
        f"{name} {list(np.shape(found[name]))} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and np.shape(found[name]) != shape
    ]
    _require_none(source, {"missing": missing, "surplus": surplus, "misshapen": misshapen}, takes)


_MOST_NAMED = 4
_VARIANCES = (".var", ".running_var")


def require_sound(source: str, values: Mapping[str, Any]) -> None:
    """Refuses weights with which no network computes, by name: of some, the first few.

    Args:
      source: the file, for the message.
      values: arrays by our or by PyTorch's name.

    Raises:
      ValueError: some are no floats, NaN or infinite in float32, or variances below 0.
    """
    floats = {n: v for n, v in values.items() if jnp.issubdtype(v.dtype, jnp.floating)}
    # As models compute: what float64 holds may be infinite in float32.
    with np.errstate(over="ignore"):
        extremes = {
            n: np.array([np.min(v, initial=0), np.max(v, initial=0)], np.float32)
            for n, v in floats.items()
        }
    problems = {
        "no floats": [f"{n} {v.dtype}" for n, v in values.items() if n not in floats],
        "NaN or infinite": [n for n, found in extremes.items() if not np.isfinite(found).all()],
        "variances below 0": [
            n for n, found in extremes.items() if n.endswith(_VARIANCES) and found[0] < 0
        ],
    }
    _require_none(source, problems, "finite floats, and variances of 0 or more")


def _few(names: Sequence[str], most: int) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def _require_none(source: str, problems: Mapping[str, Sequence[str]], takes: str) -> None:
    found = {what: names for what, names in problems.items() if names}
    most = _MOST_NAMED if len(found) == 1 else _MOST_NAMED // 2
    got = "; ".join(f"{what}: {_few(names, most)}" for what, names in found.items())
    require(not got, "path", f"{source} ({got})", takes)

"""Settings of every test: eight virtual CPU devices, shapes checked at run time; small models."""

from __future__ import annotations

import dataclasses
import os

# Before JAX is imported: afterwards both are ignored.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
FLAGS = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
if "xla_backend_optimization_level" not in FLAGS:
    # Most of a test's time is compilation: the least effort on the code halves it. A part of the
    # suite runs at the level that users run: `make test-optimized`.
    FLAGS += " --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = FLAGS.strip()

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from jax.ad_checkpoint import checkpoint_name  # noqa: E402

# Every jaxtyping annotation of the package is enforced by beartype, in tests only.
jaxtyping.install_import_hook("jc2i", "beartype.beartype")

from jc2i.caching import keep_compiled_programs  # noqa: E402

# The second run of a test compiles little: half its time.
keep_compiled_programs()


def pytest_configure(config):
    # Without it a program is compiled as ever: a file is half written where another worker writes
    # it at this moment, or was killed.
    config.addinivalue_line("filterwarnings", "ignore:Error .* persistent compilation cache")


# A slow machine is no failure of a property.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConvNet:
    """Convolution, activation, convolution of stride 2, activation, mean over pixels, dense."""

    weights: dict[str, jax.Array]
    activation: str = dataclasses.field(default="relu", metadata={"static": True})

    @classmethod
    def random(cls, activation="relu", classes=4, channels=3, seed=0):
        random = np.random.default_rng(seed)
        shapes = {
            "kernel1": (3, 3, channels, 4),
            "bias1": (4,),
            "kernel2": (3, 3, 4, 6),
            "bias2": (6,),
            "dense": (6, classes),
            "bias3": (classes,),
        }
        scales = {name: 2 / max(np.prod(shape[:-1]) ** 0.5, 2) for name, shape in shapes.items()}
        drawn = {name: scales[name] * random.standard_normal(shapes[name]) for name in shapes}
        return cls({name: jnp.float32(value) for name, value in drawn.items()}, activation)

    def __call__(self, images):
        weights, activation = self.weights, getattr(jax.nn, self.activation)
        layout = ("NHWC", "HWIO", "NHWC")
        padding = ((1, 1), (1, 1))
        values = images
        for stride, layer in ((1, "1"), (2, "2")):
            values = jax.lax.conv_general_dilated(
                values, weights["kernel" + layer], (stride,) * 2, padding, dimension_numbers=layout
            )
            values = activation(values + weights["bias" + layer].reshape(1, 1, 1, -1))
            values = checkpoint_name(values, f"layer{layer}")
        return values.mean(axis=(1, 2)) @ weights["dense"] + weights["bias3"].reshape(1, -1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """Each class's score is a weighted sum of the pixels."""

    weights: jax.Array

    @classmethod
    def random(cls, shape=(8, 8, 2), classes=3, seed=0):
        random = np.random.default_rng(seed)
        return cls(jnp.float32(random.standard_normal((*shape, classes))))

    def __call__(self, images):
        return jnp.einsum("bhwc,hwck->bk", images, self.weights, precision="highest")


@pytest.fixture(scope="session")
def convnet():
    """A maker of small convolutional networks: `convnet(activation=, classes=, seed=)`."""
    return ConvNet.random


@pytest.fixture(scope="session")
def linear():
    """A maker of linear models: `linear(shape, classes=, seed=)`."""
    return Linear.random


@pytest.fixture
def untyped():
    """The user's view: annotations are enforced in tests only."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

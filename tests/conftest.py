"""Settings of every test: eight virtual CPU devices, shapes checked at run time; small models."""

from __future__ import annotations

import collections
import dataclasses
import gc
import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

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


# Each compiled program takes some thirty mappings of memory. Linux allows a process 65,530, and XLA
# crashes beyond.
MAPPINGS, MOST_MAPPINGS = Path("/proc/self/maps"), 25_000
TESTS = itertools.count(1)


@pytest.fixture(autouse=True)
def few_mappings():
    yield
    if next(TESTS) % 16 or not MAPPINGS.exists():
        return
    if MAPPINGS.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


def pytest_terminal_summary(terminalreporter):
    """How many bad inputs came to what, of those that tests recorded (tests/fuzz)."""
    counts = collections.Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", []):
                if name == "inputs" and report.when == "call":
                    counts.update(value)
    if counts:
        parts = ", ".join(f"{count} {name}" for name, count in counts.items())
        terminalreporter.line(f"{sum(counts.values())} bad inputs: {parts}")


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
class Transformer:
    """Patches of 3 x 3 pixels and a class token through two blocks of attention and dense layers.

    It names its attention maps alone, `attention0` and `attention1`.
    """

    weights: dict[str, jax.Array]

    WIDTH, HEADS, BLOCKS = 6, 2, 2

    @classmethod
    def random(cls, classes=4, channels=3, class_token=True, seed=0):
        random = np.random.default_rng(seed)
        width = cls.WIDTH
        shapes = {"embed": (9 * channels, width), "head": (width, classes)}
        for block in range(cls.BLOCKS):
            shapes |= {f"qkv{block}": (width, 3 * width), f"proj{block}": (width, width)}
            shapes |= {f"up{block}": (width, 2 * width), f"down{block}": (2 * width, width)}
        scales = dict.fromkeys(shapes, 0.5) | {"head": 0.15}  # probabilities far from 0 and 1
        drawn = {name: scales[name] * random.standard_normal(shapes[name]) for name in shapes}
        drawn |= {f"{name}_bias": 0.1 * random.standard_normal(shapes[name][1]) for name in shapes}
        if class_token:
            drawn["token"] = random.standard_normal(width)
        return cls({name: jnp.float32(value) for name, value in drawn.items()})

    def __call__(self, images):
        rows, columns = images.shape[1] // 3, images.shape[2] // 3
        patches = images[:, : rows * 3, : columns * 3].reshape(len(images), rows, 3, columns, 3, -1)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), rows * columns, -1)
        tokens = self._dense(patches, "embed")
        if "token" in self.weights:
            token = jnp.broadcast_to(self.weights["token"], (len(tokens), 1, self.WIDTH))
            tokens = jnp.concatenate([token.astype(tokens.dtype), tokens], axis=1)
        for block in range(self.BLOCKS):
            tokens = tokens + self._attend(self._norm(tokens), block)
            hidden = jax.nn.relu(self._dense(self._norm(tokens), f"up{block}"))
            tokens = tokens + self._dense(hidden, f"down{block}")
        pooled = tokens[:, 0] if "token" in self.weights else tokens.mean(axis=1)
        return self._dense(pooled, "head")

    def _dense(self, values, name):
        bias = self.weights[f"{name}_bias"]
        return values @ self.weights[name] + bias.reshape((1,) * (values.ndim - 1) + (-1,))

    def _norm(self, tokens):
        centred = tokens - tokens.mean(axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + 1e-6)

    def _attend(self, tokens, block):
        heads = self._dense(tokens, f"qkv{block}").reshape(*tokens.shape[:2], 3, self.HEADS, -1)
        query, key, value = jnp.moveaxis(heads, 2, 0)
        scores = jnp.einsum("bqhc,bkhc->bhqk", query, key) * heads.shape[-1] ** -0.5
        attention = checkpoint_name(jax.nn.softmax(scores), f"attention{block}")
        attended = jnp.einsum("bhqk,bkhc->bqhc", attention, value).reshape(tokens.shape)
        return self._dense(attended, f"proj{block}")


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
def transformer():
    """A maker of small vision transformers: `transformer(classes=, class_token=, seed=)`."""
    return Transformer.random


@pytest.fixture(scope="session")
def linear():
    """A maker of linear models: `linear(shape, classes=, seed=)`."""
    return Linear.random


@pytest.fixture
def of_two():
    """Runs a Python program as two processes of one run, on this host."""

    def run(*command, devices=1, during=None, seconds=300):
        """The exit code and errors of each; `during` is called with the two while they run."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        here = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[1]),
            # The last of two equal flags counts: only the number of devices is another than here.
            "XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count={devices}",
            # As many threads as eight devices have: XLA:CPU adds in an order that depends on it.
            "NPROC": "8",
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": "2",
        }
        processes = [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=here | {"JAX_PROCESS_ID": str(number)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]
        try:
            if during:
                during(processes)
            errors = [process.communicate(timeout=seconds)[1] for process in processes]
            return [(process.returncode, e) for process, e in zip(processes, errors, strict=True)]
        finally:
            for process in processes:
                process.kill()

    return run


@pytest.fixture
def untyped():
    """The user's view: annotations are enforced in tests only."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

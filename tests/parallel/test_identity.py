from __future__ import annotations

import dataclasses
import functools
import json
import os
import runpy
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i import calibrators, explainers, models, parallel
from jc2i.parallel import digest

SCRIPT = Path(__file__).with_name("process.py")


def assert_distinct(values):
    assert len({digest(value) for value in values}) == len(values)


def test_types_and_values_are_told_apart():
    plain = [1, "1", 1.0, True, None, b"1", 1j, 0.0, -0.0, ..., "", float("nan")]
    arrays = [np.int32(1), np.int64(1), jnp.ones(1), jnp.ones((1, 1)), jnp.ones(1, jnp.bfloat16)]
    keys = [jax.random.key(0), jax.random.key(1), jax.random.key(0, impl="rbg")]
    several = [[1], (1,), {1}, {1: 1}, {"1": 1}, [[1], 2], [1, [2]], [1, 2], ["a", "bc"]]
    assert_distinct([*plain, *arrays, *keys, *several, ["ab", "c"], slice(1), range(1), np.float32])
    assert digest(1, 2) != digest((1, 2)) != digest([1, 2])
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(np.arange(3.0)) == digest(np.arange(6.0)[::2] / 2)
    # A weakly typed number gives other results than one of a type of its own.
    assert digest(jnp.asarray(1.0)) != digest(jnp.float32(1))


def test_models_that_differ_in_what_is_static():
    def made(**options):
        key = jax.random.key(0)
        return models.create("small", classes=3, key=key, channels=3, size=8, **options)

    model, mean = made(), (0.5, 0.5, 0.5)
    assert digest(model) == digest(made()) == digest(jax.tree.map(np.asarray, model))
    changed = [made(mean=mean), made(std=mean), made(dtype="bfloat16"), made(normalize=False)]
    scores = [
        score(network, calibrator)
        for score in (jc2i.logits, jc2i.probabilities)
        for network in (model, changed[0])
        for calibrator in (None, calibrators.Identity(), calibrators.Temperature(jnp.float32(2)))
    ]
    plain = jc2i.probabilities(model, softmax="plain")
    assert_distinct([model, *changed, *scores, plain, jax.tree.map(lambda x: 2 * x, model)])
    padded = [equinox.nn.Conv2d(3, 4, 3, padding=p, key=jax.random.key(0)) for p in (0, 1)]
    activations = [
        equinox.nn.MLP(2, 2, 4, 1, activation=f, key=jax.random.key(0))
        for f in (jax.nn.relu, jax.nn.gelu, jnp.tanh, lambda x: x)
    ]
    assert_distinct([*padded, *activations])


def test_functions_by_what_they_compute():
    def times(factor):
        return lambda values: factor * values

    def plus(factor):
        return lambda values: factor + values

    def default(values, factor=2):
        return factor * values

    weights = np.ones(3)
    closed = [times(2), times(3), times(2.0), times(weights), times(2 * weights), plus(2), default]
    partials = [functools.partial(default, factor=f) for f in (2, 3)]
    named = [explainers.rise, explainers.occlusion, jnp.sum, np.sum, len, jax.nn.relu, jax.nn.gelu]
    assert_distinct([*closed, *partials, *named, functools.partial(explainers.rise, masks=3)])
    assert digest(times(2)) == digest(times(2))
    assert digest(jax.jit(times(2))) == digest(jax.jit(times(2))) != digest(jax.jit(times(3)))


GAIN = 1.0


def reads_a_global(values):
    """One sentence."""
    return GAIN * values


def test_functions_by_the_globals_that_they_read(monkeypatch):
    before = digest(reads_a_global)
    monkeypatch.setattr(reads_a_global, "__doc__", "Another sentence.")
    assert digest(reads_a_global) == before
    monkeypatch.setitem(globals(), "GAIN", 5.0)
    assert digest(reads_a_global) != before


def test_code_and_not_its_place_or_its_documentation():
    def made(source):
        there: dict = {}
        exec(source, there)
        return there["f"]

    same = ["def f(x):\n  return x + 1", "def f(x):\n  'What it does.'\n\n  # Why.\n  return x + 1"]
    # A docstring takes a place among the constants, and so shifts their numbers.
    documented = made("def f(x):\n  'Another word.'\n  return x + 1")
    assert digest(made(same[1])) == digest(documented)
    assert digest(made(same[0])) != digest(made("def f(x):\n  return x + 2"))
    assert digest(made("def f(x):\n  return 'a'")) != digest(made("def f(x):\n  return 'b'"))
    assert digest(made("def f(x):\n  return g(x)\ndef g(x): return 1")) != digest(
        made("def f(x):\n  return g(x)\ndef g(x): return 2")
    )


class Scorer:
    """An object with state that JAX does not know."""

    def __init__(self, gain):
        self.gain = gain

    def __call__(self, images):
        return self.gain * images


class Louder(Scorer):
    __slots__ = ("extra",)

    def __call__(self, images):
        return 2 * self.gain * images


@dataclasses.dataclass
class Options:
    steps: int = 3


def test_objects_by_their_class_and_attributes():
    louder = Louder(1)
    louder.extra = 4
    values = [Scorer(1), Scorer(2), Louder(1), louder, Options(), Options(4), Scorer, Louder]
    methods = [Scorer(1).__call__, Scorer(2).__call__]
    assert_distinct([*values, *methods, SimpleNamespace(gain=1)])
    assert digest(Scorer(1)) == digest(Scorer(1))


def test_what_holds_itself_ends():
    loop: list = [1]
    loop.append(loop)
    other: list = [1]
    other.append([1, other])

    def recursive(n):
        return recursive(n - 1)

    assert digest(loop) == digest(loop) != digest(other)
    assert digest(recursive) == digest(recursive)
    deep: list = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ValueError, match="digest: got a value nested more than 100 deep"):
        digest(deep)


@pytest.mark.parametrize("value", [threading.Lock(), object(), (x for x in ())])
def test_what_nothing_lasting_is_known_of_is_refused(value):
    with pytest.raises(ValueError, match="digest: got an object of .*, takes arrays, numbers, wor"):
        digest({"deep": [value]})


@pytest.mark.slow
def test_the_same_in_every_process():
    command = [sys.executable, str(SCRIPT), "digests"]
    # Of the same flags, on which the bits of drawn weights depend.
    environment = os.environ | {"PYTHONPATH": str(Path(parallel.__file__).parents[2])}
    found = [
        json.loads(subprocess.check_output(command, env={**environment, "PYTHONHASHSEED": seed}))
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] and len(set(found[0].values())) == len(found[0])
    # Here types are checked, which changes nothing.
    here = SimpleNamespace(**runpy.run_path(str(SCRIPT))).identified()
    for name in ("set", "partial", "network", "optimizer"):
        assert digest(here[name]) == found[0][name], name

"""Arguments for any method of the registry, made from what its decorator says that it takes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i import explainers, metrics, options, parallel, query
from jc2i.calibrators import Temperature

METHODS = {**query.methods(explainers), **query.methods(metrics)}
BATCH, HEIGHT, WIDTH = 8, 8, 9
COUNT = 6
"""What an option that counts masks, steps or cells is set to."""
WITHOUT_SCORES = {"attention_rollout", "eigen_cam", "raw_attention"}
"""Methods whose maps depend on no score at all, so that no calibration can move them."""
SIDES = {"cell": 2}
"""What an option that is a size, of which several fit in an image, is set to."""


@dataclasses.dataclass
class Case:
    """A method and arguments of one batch."""

    function: Any
    score: Any
    by_image: dict[str, Any]
    key: Any
    options: dict[str, Any]

    @property
    def method(self):
        return query.method_of(self.function)

    @property
    def optimised(self):
        """Whether it descends by gradients of scores, which amplifies rounding."""
        cost = self.method.cost((BATCH, HEIGHT, WIDTH, 3), **self.options)
        return self.method.depends_on_scores and cost.gradient > 1

    def __call__(self, rows=slice(None), score=None, images=None, **changed):
        by_image = {name: value[rows] for name, value in self.by_image.items()}
        if images is not None:
            by_image["images"] = images
        explain = {"explainer": explainers.sensitivity} if self.takes_explainer else {}
        keys = {"key": self.key[rows]} if self.method.stochastic else {}
        arguments = {**explain, **by_image, **keys, **self.options, **changed}
        return self.function(model=self.score if score is None else score, **arguments)

    @property
    def takes_explainer(self):
        return "explainer" in self.method.kinds

    def counts(self):
        """Options that are numbers of evaluations: the cost grows with them."""
        return [
            name
            for name, kind in self.method.kinds.items()
            if isinstance(kind, options.Whole) and self._grows(name)
        ]

    def _grows(self, name):
        shape, more = (BATCH, HEIGHT, WIDTH, 3), {name: self.options.get(name, COUNT) + 2}
        costs = [self.method.cost(shape, **{**self.options, **given}) for given in ({}, more)]
        return max(costs[1]) > max(costs[0])


def arguments(name, seed=0):
    """One image's arguments of every kind, for a whole batch."""
    random = np.random.default_rng(seed)
    method = METHODS[name].method
    given = {
        "images": random.uniform(0.05, 1, (BATCH, HEIGHT, WIDTH, 3)).astype(np.float32),
        "targets": np.arange(BATCH) % 4,
    }
    for option, kind in method.kinds.items():
        kind = kind.kind if isinstance(kind, options.Maybe) else kind
        if isinstance(kind, options.Maps):
            given[option] = random.random((BATCH, HEIGHT, WIDTH)).astype(np.float32)
        elif isinstance(kind, options.PerImage):
            assert kind.integers, f"teach this suite what {name} takes as {option}"
            given[option] = random.integers(0, 9, (BATCH, HEIGHT, WIDTH)).astype(np.int32)
    return given


def small(name):
    """Options that keep a method cheap: whatever counts becomes a few."""
    method, chosen = METHODS[name].method, {}
    for option, default in method.parameters.items():
        kind = method.kinds.get(option)
        kind = kind.kind if isinstance(kind, options.Maybe) else kind
        if isinstance(kind, options.Whole) and default is not None:
            chosen[option] = min(default, SIDES.get(option, COUNT))
        elif isinstance(kind, options.Floats):
            # One a feature of the small network's last layer.
            chosen[option] = np.linspace(0.2, 0.7, 6, dtype=np.float32)
    return chosen


def made(name, convnet, transformer):
    """A method's case: methods of attention maps look at the transformer."""
    model = transformer if ".attention." in METHODS[name].__module__ else convnet
    score = jc2i.probabilities(model, Temperature(jnp.float32(0.7)))
    keys = query.image_keys(jax.random.key(2), BATCH)
    return Case(METHODS[name], score, arguments(name), keys, small(name))


@pytest.fixture(scope="session")
def score(convnet):
    return jc2i.probabilities(convnet(), Temperature(jnp.float32(0.7)))


@pytest.fixture(scope="session")
def case_of(convnet, transformer):
    models = convnet(), transformer()
    return lambda name: made(name, *models)


@pytest.fixture(params=sorted(METHODS))
def case(request, case_of):
    return case_of(request.param)


def by_image(case, mesh):
    """A method's results, one image on each device of a mesh at a time."""
    names = list(case.by_image)

    def compute(score, *batch):
        *arrays, keys = batch
        keys = {"key": keys} if case.method.stochastic else {}
        return case(score=score, **dict(zip(names, arrays, strict=True)), **keys)

    arrays = tuple(case.by_image.values())
    options = {"model": case.score, "key": jax.random.key(2), "mesh": mesh, "progress": False}
    return parallel.map_batches(compute, arrays, 1, **options)


def distance(values, expected):
    """Relative Euclidean distance of two arrays."""
    values, expected = (np.asarray(v, np.float64).ravel() for v in (values, expected))
    return np.linalg.norm(values - expected) / max(np.linalg.norm(expected), math.ulp(1.0))

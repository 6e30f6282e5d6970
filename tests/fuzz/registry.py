"""Every explainer and metric that queries a model, with what its decorator says that it takes."""

from __future__ import annotations

import dataclasses
import zlib

import jax
import jax.numpy as jnp

import jc2i
from jc2i import explainers, query

from ..contract.conftest import METHODS, WITHOUT_SCORES, Case, arguments, small
from .judge import Expected
from .malformed import Key, Labels, Values
from .models import Explainer, Model, spoilt
from .subjects import Subject

CLASSES = 4


def subject(name, networks):
    """A method of the registry, its arguments those of the contract."""
    function = METHODS[name]
    method = function.method
    network = networks["transformer" if ".attention." in function.__module__ else "convnet"]
    score = jc2i.logits(network) if method.role == "explainer" else jc2i.probabilities(network)
    case = Case(function, score, arguments(name), jax.random.key(2), small(name))
    good = {
        "model": score,
        **case.by_image,
        **{option: method.parameters.get(option) for option in method.kinds},
        **case.options,
        **case.by_image,
        "batch_size": None,
    }
    good.pop("explainer", None)
    good["key"] = case.key if method.stochastic else None
    kinds = {
        "model": Model(),
        "images": Values(4, images=True),
        "targets": Labels(CLASSES),
        "key": Key(each=True, optional=not method.stochastic),
        "batch_size": query.BATCH_SIZE,
        **{option: kind for option, kind in method.kinds.items() if option != "explainer"},
    }
    if case.takes_explainer:
        good["explainer"] = explainers.sensitivity
        kinds["explainer"] = Explainer()
    if "regions" in good:
        good["regions"] = 12  # of as many codes as the segments have
    other = {}
    for argument, label in RECOMPILED:
        if argument in kinds and zlib.crc32(f"{name} {argument} {label}".encode()) % 4:
            other[argument, label] = None
    if method.role == "metric":
        # Probabilities saturate, and 0/0 is NaN, as each metric says.
        other |= dict.fromkeys([("model", "logits of 1e20"), ("images", "large")], Expected.SHAPE)
        other["model", "a logit of minus infinity"] = Expected.SHAPE
        other["maps", "zeros"] = Expected.SHAPE
    if name == "max_sensitivity":
        other["explainer", "returns the images"] = Expected.VALUE  # which are not normalised
    if name in NEVER_ASK | WITHOUT_SCORES:
        other["model", "weights that are NaN"] = Expected.VALUE
    names = {"model": ("images",), "images": ("model", *case.by_image)}
    more = [("model", label, model, expected) for label, model, expected in at_the_edge(score)]
    return Subject(f"{method.role}s.{name}", function, good, kinds, names, tuple(more), other=other)


NEVER_ASK = {"random_map", "fake_cam"}
"""Methods whose maps do not depend on the model."""

RECOMPILED = [
    ("key", "a key of another generator"),
    ("tie_key", "a key of another generator"),
    ("tie_key", "a raw key"),
    ("baseline", "NumPy's"),
    ("settled", "a large number"),
    ("settled", "a small number"),
]
"""Inputs of which most methods are spared: what reads them is one function, and each is another
program, which takes a second to compile."""


def at_the_edge(score):
    """Scores that are large, infinite or NaN, of the same program."""
    network = score.model if isinstance(score, jc2i.scores.Logits) else score.logits.model
    head = "dense" if "dense" in network.weights else "head"
    bias = "bias3" if "bias3" in network.weights else "head_bias"
    weights, shift = network.weights[head], network.weights[bias]

    def of(**changed):
        other = spoilt(network, **changed)
        logits = jc2i.logits(other)
        return (
            logits
            if isinstance(score, jc2i.scores.Logits)
            else dataclasses.replace(score, logits=logits)
        )

    yield "logits of 1e20", of(**{head: weights * 1e20}), Expected.VALUE
    yield "a logit of minus infinity", of(**{bias: shift.at[3].set(-jnp.inf)}), Expected.VALUE
    yield "weights that are NaN", of(**{head: weights * jnp.nan}), Expected.NAN

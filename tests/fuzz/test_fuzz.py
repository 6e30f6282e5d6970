"""Every public function with every kind of bad input: a finite value, or a refusal that says why.

What an input should come to follows from the kind of its argument (`malformed`); what a function
takes is in the registry, or in a table (`public`). `make test-slow` tries them all and says how
many came to what; `make test` tries some of those that are refused, which compile nothing.
"""

from __future__ import annotations

import collections
import importlib.util
import inspect
import re
import time
import types
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i import checks, explainers

from ..contract.conftest import METHODS
from . import public, registry
from .judge import Case, Expected, Verdict, judged

ONE_IN = 16
"""Of the refusals, how many are tried each time."""


def tried(subjects, sample, record_property):
    """Judges every input of some functions, or a sample of those that are refused."""
    counts, faults = collections.Counter(dict.fromkeys(Verdict, 0)), []
    for subject in subjects:
        for case in subject.cases():
            chosen = zlib.crc32(case.label.encode()) % ONE_IN == 0
            if sample and not (case.expected is Expected.REFUSAL and chosen):
                continue
            verdict, fault = judged(case)
            counts[verdict] += 1
            if fault:
                faults.append(f"{verdict.value}: {case.label}: {fault}")
    record_property("inputs", {verdict.value: count for verdict, count in counts.items()})
    assert not faults, "\n".join([f"{len(faults)} of {sum(counts.values())} inputs", *faults])


ALL_OR_SOME = pytest.mark.parametrize(
    "sample", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["some", "all"]
)


@ALL_OR_SOME
@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods(name, sample, convnet, transformer, untyped, record_property):
    networks = {"convnet": convnet(), "transformer": transformer()}
    tried([registry.subject(name, networks)], sample, record_property)


@ALL_OR_SOME
@pytest.mark.parametrize("group", public.GROUPS, ids=lambda group: group.__name__)
def test_other_functions(group, sample, untyped, record_property):
    tried(group(), sample, record_property)


def test_there_are_many_inputs(convnet, transformer):
    networks = {"convnet": convnet(), "transformer": transformer()}
    methods = [registry.subject(name, networks) for name in list(METHODS)[::5]]
    counts = collections.Counter(case.expected for one in methods for case in one.cases())
    assert counts.total() > 1500 and counts[Expected.VALUE] > 100


NOT_CALLED = {
    "calibrators.load": "files are the subject of tests/files",
    "data.EncodedImages": "files are the subject of tests/files",
    "parallel.is_first": "takes nothing",
    "parallel.of_first": "of processes that compute together: tests/parallel",
    "parallel.own_part": "of processes that compute together: tests/parallel",
    "parallel.together": "of processes that compute together: tests/parallel",
    "models.Classifier": "made by create",
    "models.EfficientNet": "made by create",
    "models.Lipschitz": "made by create",
    "models.ResNet": "made by create",
    "models.ResNetCifar": "made by create",
    "models.Small": "made by create",
    "models.VGG": "made by create",
    "models.VGGCifar": "made by create",
    "models.VisionTransformer": "made by create",
    "models.Floats": "made of a data set",
    "models.Pretrained": "what is known of weights",
    "models.cache_folder": "takes nothing",
    "models.names": "takes nothing",
    "models.pretrained_names": "takes nothing",
    "models.class_names": "as class_folders; ImageNet's are in another package",
    "models.from_torch": "files are the subject of tests/files",
    "models.read_torch_file": "files are the subject of tests/files",
    "metrics.PermutedMaps": "a result",
    "metrics.Pairs": "a result",
    "metrics.RandomizedMaps": "a result, whose method is called",
    "metrics.ReliabilityCurve": "a result",
    "statistics.Interval": "a result",
    "models.Constrained": "a network in training",
    "models.layer_bounds": "what lipschitz_bound multiplies",
    "query.Explained": "an explainer, as a metric sees it",
    "query.known_method": "method_of, of any function",
    "removal.fitting": "what reads a baseline or a reference",
    "removal.read": "what reads a baseline",
    "query.Cost": "what a decorator is told",
    "query.Method": "what a decorator makes",
}
"""Public names that this suite does not call, and why."""

NAMESPACES = {name: getattr(jc2i, name) for name in jc2i.__all__}


def test_every_public_name_is_called():
    subjects = {subject.name for group in public.GROUPS for subject in group()}
    called = {re.match(r"[\w.]+", name)[0] for name in subjects}
    called |= {f"{function.method.role}s.{name}" for name, function in METHODS.items()}
    public_names = {name for name, value in NAMESPACES.items() if callable(value)}
    for namespace, module in NAMESPACES.items():
        # The kinds of options are made where a method is defined: they see no data.
        if isinstance(module, types.ModuleType) and namespace != "options":
            names = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
            own = {n for n in names if _is_own(getattr(module, n), module)}
            public_names |= {f"{namespace}.{n}" for n in own}
    left = public_names - called
    if not importlib.util.find_spec("ot"):  # POT, which transport needs, is an extra
        left -= {"metrics.wasserstein"}
    assert not left ^ set(NOT_CALLED), sorted(left ^ set(NOT_CALLED))


def _is_own(value, module):
    """A function or class of the namespace, and not a module, a constant or an import."""
    is_callable = inspect.isfunction(value) or inspect.isclass(value)
    of = module.__name__ if not hasattr(module, "__all__") else "jc2i"
    return is_callable and value.__module__.startswith(of)


# A suite that finds nothing may be blind: it finds each kind of fault where one is planted.


def unchecked(values):
    return values.sum()


def _case(call, expected=Expected.REFUSAL, like=None):
    return Case("planted", call, expected, ("values",), like)


def _refuses(message):
    def call():
        raise checks.Refusal(message)

    return call


def _sleeps():
    time.sleep(5)


FAULTS = {
    "an AttributeError": (_case(lambda: unchecked([1.0])), Verdict.RAW),
    "a TypeError": (_case(lambda: jnp.sin("a")), Verdict.RAW),
    "a ValueError that is no refusal": (_case(lambda: np.zeros(2) @ np.zeros(3)), Verdict.RAW),
    "another argument blamed": (_case(_refuses("maps: got 1, takes 2")), Verdict.RAW),
    "several lines": (_case(_refuses("values: got 1,\ntakes 2")), Verdict.RAW),
    "16 kB": (_case(_refuses("values: got " + "1" * 16_000)), Verdict.RAW),
    "a good input refused": (
        _case(_refuses("values: got 1, takes 2"), Expected.VALUE),
        Verdict.RAW,
    ),
    "a value for a bad input": (_case(lambda: np.zeros(2)), Verdict.SILENT),
    "a value of NaN": (_case(lambda: np.array([np.nan]), Expected.VALUE), Verdict.SILENT),
    "NaN or a refusal": (_case(lambda: jnp.array([jnp.inf]), Expected.EITHER), Verdict.SILENT),
    "a value of another shape": (
        _case(lambda: np.zeros(2), Expected.VALUE, lambda: np.zeros((2, 1))),
        Verdict.SILENT,
    ),
    "the shape of a broadcast": (
        _case(lambda: np.zeros((4, 4)), Expected.SHAPE, lambda: np.zeros(4)),
        Verdict.SILENT,
    ),
    "NaN that spoils its neighbour": (
        _case(lambda: np.full((2, 3), np.nan), Expected.SPOILT),
        Verdict.SILENT,
    ),
    "NaN that disappears": (_case(lambda: np.zeros((2, 3)), Expected.SPOILT), Verdict.SILENT),
    "a number made of NaN": (_case(lambda: np.zeros(2), Expected.NAN), Verdict.SILENT),
    "a hang": (_case(_sleeps), Verdict.HANG),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault):
    case, expected = FAULTS[fault]
    verdict, reason = judged(case, seconds=0.2 if expected is Verdict.HANG else 30)
    assert verdict is expected and reason


def test_what_is_right_is_no_fault():
    refusal = _case(_refuses("values: got 1, takes 2"))
    assert judged(refusal) == (Verdict.REFUSAL, "")
    value = _case(lambda: {"a": np.zeros(2)}, Expected.VALUE, lambda: {"a": np.ones(2)})
    assert judged(value) == (Verdict.VALUE, "")


@pytest.mark.parametrize(
    ("spoilt", "label"),
    [
        # A method whose decorator reads nothing: what it is given goes to the program.
        (lambda **given: explainers.sensitivity.method.function(**_without(given)), "images"),
        (lambda **given: explainers.sensitivity(**{**given, "channels": "sum"}), "channels"),
        (lambda **given: np.zeros((8, 8, 9)), "targets"),
    ],
)
def test_a_function_without_a_check_is_found(spoilt, label, convnet, transformer, untyped):
    """The suite's own inputs, given to a function that lets one argument through."""
    networks = {"convnet": convnet(), "transformer": transformer()}
    subject = registry.subject("sensitivity", networks)
    faulty = public.Subject(subject.name, spoilt, subject.arguments, {label: subject.kinds[label]})
    verdicts = collections.Counter(judged(case)[0] for case in faulty.cases())
    assert verdicts[Verdict.RAW] + verdicts[Verdict.SILENT] > 10


def _without(given):
    return {name: value for name, value in given.items() if name not in ("key", "batch_size")}

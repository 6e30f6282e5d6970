"""Damaged and hostile files: read as they were, or refused in one line, at bounded cost."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.files import hostile_anything, hostile_archives, hostile_arrays, hostile_images
from tests.files import hostile_weights as weights
from tests.files.damaged import damaged, originals
from tests.files.running import Case, Outcome, faults, run

MEGABYTES = 500
SECONDS = 60
"""Of a processor: the dearest takes about five, and a file that hangs is never done."""

# Images first: the memory of a process that has done other work does not all come back.
CHEAP = {
    "anything": hostile_anything.cases,
    "calibrators": hostile_arrays.calibrator_cases,
    "kept": hostile_arrays.kept_cases,
    "pickles": weights.pickle_cases,
}
DEAR = {
    "images": hostile_images.cases,
    "archives": hostile_archives.cases,
    "arrays": hostile_arrays.npz_cases,
    "networks": weights.network_cases,
    "models": weights.model_cases,
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that is gone afterwards: the files take some hundred megabytes."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def check(cases: list[Case], capsys) -> None:
    outcomes = run(cases)
    originals = {case.path: outcome.says for case, outcome in zip(cases, outcomes, strict=True)}
    found = [
        fault
        for case, outcome in zip(cases, outcomes, strict=True)
        for fault in [*faults(case, outcome, originals), *costs(case, outcome)]
    ]
    kinds = Counter(outcome.kind for outcome in outcomes)
    largest = max(outcome.megabytes for outcome in outcomes)
    longest = max(outcome.seconds for outcome in outcomes)
    with capsys.disabled():
        print(
            f"\n{len(cases)} files: {kinds['refused']} refused, {kinds['value']} read; "
            f"at most {largest:.0f} MB and {longest:.1f} s"
        )
    assert not found, "\n".join(found)


def costs(case: Case, outcome: Outcome) -> list[str]:
    dear = outcome.megabytes > MEGABYTES or outcome.seconds > SECONDS
    return [f"{case.name}: {outcome.megabytes} MB, {outcome.seconds} s"] if dear else []


def test_some_files(folder, capsys):
    files = originals(folder / "whole")
    cases = list(damaged(folder / "damaged", files, flips=12, cuts=4))
    for name, make in CHEAP.items():
        cases += [c for c in make(folder / name) if "tuples" not in c.name]
    check(cases, capsys)


@pytest.mark.slow
def test_all_files(folder, capsys):
    cases = []
    for name, make in (DEAR | CHEAP).items():
        cases += make(folder / name)
    files = originals(folder / "whole")
    cases += damaged(folder / "damaged", files, flips=120, cuts=30)
    check(cases, capsys)

r"""MeGe and ReCo (Fel, Vigouroux, Cadene, Serre 2022): every table and figure, for any model.

    python experiments/algorithmic_stability.py report --data fashion_mnist.npz
    python experiments/algorithmic_stability.py table1 --data mine.npz --train mine.py:train

Sub-commands: models (appendix E: the folds' accuracies), table1 (with tables 5, 6 and 7: fidelity,
MeGe and ReCo of each method; which of them depends on the data), table2, table3 (1-Lipschitz
networks), figure3 (with figures 8 and 9: spoilt models), figure4 (their fidelity), figure5 (with
figure 10: the distances), figure6, figure7 (what distances can tell), appendix_d (what is no ReCo),
product (section 4.4), signs and calibration (ours), `claims`, the paper's claims with a verdict
each, and `report`, which makes them all. Results go to `<out>/<name>/` as CSV, PNG and one
self-contained `report.html`; models and finished batches are kept in `<out>/cache`, so that a run
killed at any moment goes on where it stopped. What to expect: docs/algorithmic_stability.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.common.methods import words
from experiments.common.script import Result, Script
from experiments.stability import figures, tables
from experiments.stability.claims import ABOUT, claims
from experiments.stability.measurements import Measurements
from experiments.stability.study import LIPSCHITZ, MODEL, Study

RESULTS = {
    "models": tables.models,
    "table1": tables.table1,
    "table2": tables.table2,
    "table3": tables.table3,
    "figure3": figures.figure3,
    "figure4": figures.figure4,
    "figure5": figures.figure5,
    "figure6": figures.figure6,
    "figure7": figures.figure7,
    "appendix_d": figures.appendix_d,
    "product": tables.product,
    "signs": tables.signs,
    "calibration": tables.calibration,
}
"""What can be computed, in the order of the report."""


def stability(
    train: Callable[..., Any], dataset: Any, held_out: Any, study: Study | None = None
) -> list[dict[str, Any]]:
    """How general and how consistent each explainer is on a model of your own, and how faithful.

    Trains a model a fold, explains the images with each, and compares the maps.

    Args:
      train: `train(images, labels, key) -> model`, a callable pytree images -> logits; with a
        fourth argument `folder` it is given one of its own to keep checkpoints in.
      dataset: a `jc2i.data.Dataset`, cut into folds.
      held_out: another one, that accuracies are measured on.
      study: how many folds and images, which methods, where results are kept; None: as the script.

    Returns:
      One row a method: fidelity, MeGe and ReCo with their intervals, and ReCo's null.
    """
    study = study or Study(data=dataset.name)
    measured = Measurements(study, train=train, dataset=dataset, held_out=held_out)
    return tables.table1(measured).rows


def summary(measured: Measurements, results: Mapping[str, Result]) -> str:
    """What a reader wants to know first, in plain words."""
    study, subject = measured.study, measured.subject
    lines = [
        f"{study.k} models, right on {subject.accuracies(MODEL).mean():.1%} of "
        f"{len(subject.test_data)} images of no fold; {len(subject.images)} images explained. "
        f"Maps explain the {study.scores}.",
        *(
            f"- {words(row['method'])}: MeGe {row['MeGe']:.2f}, ReCo {row['ReCo']:.2f} (by chance "
            f"{row['ReCo_chance']:.2f}, with the folds' labels shuffled {row['ReCo_null']:.2f}), "
            f"mu-fidelity {row['fidelity']:.2f}"
            for row in results["table1"].rows
        ),
    ]
    if LIPSCHITZ in subject.networks:
        lines.append(
            f"- the 1-Lipschitz networks are right on {subject.accuracies(LIPSCHITZ).mean():.1%}"
        )
    return "\n\n".join([lines[0], "\n".join(lines[1:])])


SCRIPT = Script("MeGe and ReCo", Study, Measurements, RESULTS, claims, summary, ABOUT)

if __name__ == "__main__":
    SCRIPT.main(__doc__)

r"""Opti-CAM (Zhang, Torres, Sicre, Avrithis, Ayache 2024): every table and figure, for any model.

    python experiments/opti_cam.py report --data IMAGENETTE --model efficientnet-lite0
    python experiments/opti_cam.py table1 --data photographs.tar.xz --model resnet50 \
        --weights resnet50.pth --images 1000 --costly-images 1000 --layer layer4.2

Sub-commands: times (the column T of tables 1 and 2, while nothing else runs), table1 (with tables
2 and A.10: which methods depends on the model, which images on the data), table3 (A.11), table4,
table5, table6, table_a7 (A.8), table_a9, table_a12, table_a13, table_a14, figure2, figure3,
figure_a4, figure_a5, figure_a6 (A7), permuted_labels (appendix G: `--twin`, a model of
`experiments/train.py --permute-labels`), `claims`, the paper's claims with a verdict each, and
`report`, which makes them all. The human study of appendix D is left out.
Results go to `<out>/<name>/` as CSV, PNG and one self-contained `report.html`; finished batches are
kept in `<out>/cache`, so that a run killed at any moment goes on where it stopped. What to expect
of EfficientNet-Lite0 on Imagenette: docs/opti_cam.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.common.methods import words
from experiments.common.script import Result, Script
from experiments.opti import figures, tables
from experiments.opti.claims import claims
from experiments.opti.measurements import Measurements
from experiments.opti.study import OPTI, Study

RESULTS = {
    "times": tables.times,
    "table1": tables.table1,
    "figure2": figures.figure2,
    "table3": tables.table3,
    "figure3": figures.figure3,
    "table4": tables.table4,
    "table5": tables.table5,
    "table6": tables.table6,
    "table_a7": tables.table_a7,
    "table_a9": tables.table_a9,
    "table_a12": tables.table_a12,
    "table_a13": tables.table_a13,
    "table_a14": tables.table_a14,
    "figure_a4": figures.figure_a4,
    "figure_a5": figures.figure_a5,
    "figure_a6": figures.figure_a6,
    "permuted_labels": figures.permuted_labels,
}
"""What can be computed, in the order of the report."""


def summary(measured: Measurements, results: Mapping[str, Result]) -> str:
    """What a reader wants to know first, in plain words."""
    rows = {row["method"]: row for row in results["table1"].rows}
    accuracy = (measured.subject.labels == measured.subject.ranked[:, 0]).mean()
    lines = [
        f"{len(measured.subject.images)} images, of which the model gets {accuracy:.1%} right. "
        f"Maps explain the {measured.study.scores} of the ground-truth class.",
        *(
            f"- {words(method)}: AD {row['AD']:.1f}, AG {row['AG']:.1f}, "
            f"AI {row['AI']:.1f} ({row['images']} images, {row['T']:.2f} s a batch of 8)"
            for method, row in rows.items()
            if method in (OPTI, "grad_cam", "score_cam", "fake_cam")
        ),
    ]
    return "\n\n".join([lines[0], "\n".join(lines[1:])])


SCRIPT = Script("Opti-CAM", Study, Measurements, RESULTS, claims, summary)

if __name__ == "__main__":
    SCRIPT.main(__doc__)

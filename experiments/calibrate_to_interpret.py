r"""Calibrate to Interpret (Scafarto, Posocco, Bonnefoy): every table and figure, for any model.

    python experiments/calibrate_to_interpret.py report --data digits --model DIGITS_MODEL
    python experiments/calibrate_to_interpret.py figure7 --data CIFAR10.tar.xz \
        --model resnet20_cifar --weights resnet20-12fca82f.th --images 100

Sub-commands: table1, figure1, figure2, figure4 ... figure9, `claims`, the paper's claims with a
verdict each, and `report`, which makes them all. Results go to `<out>/<name>/` as CSV, PNG and one
self-contained `report.html`. Finished batches are kept in `<out>/cache`: a run killed at any
moment goes on where it stopped, and runs that differ in the pairing share what they have in
common. What to expect on CIFAR-10's ResNet-20: see README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments.c2i.claims import claims
from experiments.c2i.measurements import Measurements
from experiments.c2i.results import RESULTS
from experiments.c2i.study import BASE, Study
from experiments.common.script import Result, Script


def summary(measured: Measurements, results: Mapping[str, Result]) -> str:
    """What a reader wants to know first, in plain words."""
    study = measured.study
    table = {row["version"]: row for row in results["table1"].rows}
    base = table[BASE]
    over = base["confidence"] - base["accuracy"]
    lines = [
        f"The model is right on {base['accuracy']:.1%} of the images and says it is "
        f"{base['confidence']:.1%} sure: it is {'over' if over > 0 else 'under'}-confident by "
        f"{abs(over):.1%}. Its expected calibration error is {base['ece_density']:.3f}.",
    ]
    for version in study.calibrations:
        row = table[version]
        lines.append(f"{version}: expected calibration error {row['ece_density']:.3f}.")
    pairing = {
        "controlled": "Every version is explained by its probabilities.",
        "released": "The base model is explained by its logits, the calibrated ones by their "
        "probabilities (the pairing of the paper's released code).",
    }[study.scores]
    aim = {
        "own": "Each version is explained at its own predicted class.",
        "base": "All versions are explained at the base model's predicted class.",
    }[study.targets]
    lines.append(f"{pairing} {aim} {len(measured.subject.images)} images; 95 % intervals.")
    return "\n\n".join(lines)


SCRIPT = Script("Calibrate to interpret", Study, Measurements, RESULTS, claims, summary)
run = SCRIPT.run

if __name__ == "__main__":
    SCRIPT.main(__doc__)

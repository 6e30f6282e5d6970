r"""Calibrate to Interpret (Scafarto, Posocco, Bonnefoy): every table and figure, for any model.

    python experiments/calibrate_to_interpret.py report --data digits --model DIGITS_MODEL
    python experiments/calibrate_to_interpret.py figure7 --data CIFAR10.tar.xz \
        --model resnet20_cifar --weights resnet20-12fca82f.th --images 100

Sub-commands: table1, figure1, figure2, figure4 ... figure9, and `report`, which runs them all and
adds the paper's claims with a verdict each. Results go to `<out>/<name>/` as CSV, PNG and one
self-contained `report.html`. Finished batches are kept in `<out>/cache`: a run killed at any
moment goes on where it stopped, and runs that differ in the pairing share what they have in
common. What to expect on CIFAR-10's ResNet-20: see README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tyro

from experiments.c2i.claims import claims
from experiments.c2i.measurements import Measurements
from experiments.c2i.results import RESULTS, Result
from experiments.c2i.study import BASE, Study
from experiments.common.provenance import provenance
from experiments.common.report import Section, write_figure, write_json, write_report
from experiments.common.tables import write_csv
from jc2i.caching import keep_compiled_programs

REPORT = "report"


def run(command: str, study: Study) -> Path:
    """Computes one table or figure, or all of them, and writes the files.

    Args:
      command: a name of `RESULTS`, or `"report"`.
      study: what to study.

    Returns:
      The folder of the results, or the report's page.
    """
    measured = Measurements(study)
    names = list(RESULTS) if command == REPORT else [command]
    results = {}
    for number, name in enumerate(names, 1):
        if study.progress:
            print(f"[{number}/{len(names)}] {name}", flush=True)
        results[name] = RESULTS[name](measured)
        _write(study.folder, name, results[name])
    write_json(study.folder / f"{command}.json", provenance())
    if command != REPORT:
        return study.folder
    found = claims(measured)
    write_csv(study.folder / "claims.csv", found)
    sections = [
        Section("The paper's claims here", _CLAIMS, tables={"claims": found}),
        *(_section(name, result) for name, result in results.items()),
    ]
    page = study.folder / "report.html"
    write_report(
        page,
        f"Calibrate to interpret: {study.title}",
        _summary(measured, results["table1"].rows),
        sections,
        provenance(),
    )
    return page


_CLAIMS = (
    "Each claim is the mean over images of a paired difference, signed so that the claim says it "
    "is above zero, with its 95 % interval: it holds when the interval lies above zero, fails when "
    "it lies below, and is open otherwise."
)


def _write(folder: Path, name: str, result: Result) -> None:
    write_csv(folder / f"{name}.csv", result.rows)
    for figure, drawn in result.figures.items():
        write_figure(folder / f"{figure}.png", drawn)


def _section(name: str, result: Result) -> Section:
    # Curves are hundreds of rows: the page shows the figure, the CSV holds the numbers.
    short = len(result.rows) <= 60
    return Section(
        result.heading,
        result.text,
        figures=result.figures,
        tables={name: result.rows} if short else {},
    )


def _summary(measured: Measurements, rows: list[dict[str, Any]]) -> str:
    """What a reader wants to know first, in plain words."""
    study = measured.study
    table = {row["version"]: row for row in rows}
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


def main() -> None:
    """The command line."""
    keep_compiled_programs()
    commands = tyro.extras.SubcommandApp()
    for name in (*RESULTS, REPORT):
        commands.command(name=name)(_command(name))
    commands.cli(description=__doc__)


def _command(name: str):
    def command(study: Annotated[Study, tyro.conf.arg(name="")]) -> None:
        print(run(name, study))

    command.__doc__ = RESULTS[name].__doc__ if name in RESULTS else "All of them, and one page."
    return command


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

"""The demonstration: train a small network on scikit-learn's digits, then the whole report.

    python experiments/demo.py             64 images, seven temperatures: about five minutes
    python experiments/demo.py --smallest  the same path on a handful of images

Prints the path of the report. Run again, it goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tyro

from experiments import calibrate_to_interpret, train
from experiments.c2i.study import Study


def main(smallest: bool = False, out: Path = Path("results")) -> None:
    """Trains the demonstration's network if need be and writes its report.

    Args:
      smallest: a handful of images, to see that everything runs.
      out: the folder of the results.
    """
    model = out / "models" / "digits"
    if not model.exists():
        train.train(train.Training(data="digits", model="small", out=model))
    study = Study(
        data="digits",
        model=str(model),
        name="digits",
        out=out,
        images=64,
        sweep_images=64,
        lipschitz_points=8,
        neighbours=8,
    )
    if smallest:
        study = dataclasses.replace(
            study,
            name="digits-smallest",
            images=8,
            sweep_images=4,
            lipschitz_points=2,
            neighbours=2,
            rise_masks=200,
            mp_steps=60,
            temperatures=(0.5, 2.0),
        )
    print(calibrate_to_interpret.run(calibrate_to_interpret.REPORT, study))


if __name__ == "__main__":
    tyro.cli(main)

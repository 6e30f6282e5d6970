"""The demonstration: photographs explained, then a network trained on digits and its whole report.

    python experiments/demo.py             64 images, seven temperatures: about five minutes
    python experiments/demo.py --smallest  the same path on a handful of images

EfficientNet-Lite0 explains photographs of scikit-image and scikit-learn, a page compares CAM and
masking methods on some; a small network trains on scikit-learn's digits and is studied as the paper
does. Prints the paths of the page and of the report. Run again, it goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tyro

from experiments import calibrate_to_interpret, photographs, train
from experiments.c2i.study import Study
from experiments.common.script import REPORT
from jc2i.caching import keep_compiled_programs
from jc2i.cli import Explain, explain
from jc2i.commands import run

PHOTOGRAPHS = ("coffee", "chelsea", "astronaut", "rocket")
"""Those of scikit-image that come with it; scikit-learn has two more."""


def main(smallest: bool = False, out: Path = Path("results")) -> None:
    """Explains photographs, trains the demonstration's network if need be and writes its report.

    Args:
      smallest: a handful of images, to see that everything runs.
      out: the folder of the results.
    """
    keep_compiled_programs()
    files = explain_photographs(out / "photographs", 2 if smallest else 6)
    compared = ("grad_cam", "opti_cam") if smallest else photographs.METHODS
    steps = 3 if smallest else 20
    print(photographs.compare(files[:2], out / "photographs", steps, compared))
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
    print(calibrate_to_interpret.run(REPORT, study))


def explain_photographs(folder: Path, count: int) -> list[Path]:
    """Explains photographs with an ImageNet network, as `jc2i explain` does.

    Args:
      folder: where the photographs, their overlays and raw maps go.
      count: how many, at most six.

    Returns:
      The photographs.
    """
    files = save_photographs(folder / "originals")[:count]
    explain(Explain(images=tuple(files), out=folder, overwrite=True))
    return files


def save_photographs(folder: Path) -> list[Path]:
    """Writes the photographs that scikit-image and scikit-learn come with.

    Args:
      folder: where to; files that are there are replaced.

    Returns:
      The files.
    """
    import skimage.data
    from PIL import Image
    from sklearn.datasets import load_sample_images

    images = {name: getattr(skimage.data, name)() for name in PHOTOGRAPHS}
    samples = load_sample_images()
    images |= {
        Path(name).stem: image
        for name, image in zip(samples.filenames, samples.images, strict=True)
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in images]


if __name__ == "__main__":
    run(lambda: tyro.cli(main))

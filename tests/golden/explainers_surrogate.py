"""Makes explainers_surrogate.npz: what LIME's own code and Captum give on a small network.

Run `python tests/golden/explainers_surrogate.py` where torch, captum, lime and scikit-image are
installed. The softplus network and the images are those of explainers_captum.npz. All three methods
are random: stored are the means of many runs, with the standard deviations that say how near
another's mean must come.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

SAMPLES = 20_000
"""Random points of GradientSHAP."""

NOISE = 0.3
RUNS = 8
"""Runs of LIME and KernelSHAP, each of 1000 samples."""


def main() -> None:
    import torch
    import torch.nn.functional as F
    from captum.attr import GradientShap, KernelShap
    from lime.lime_image import LimeImageExplainer

    folder = Path(__file__).parent
    with np.load(folder / "explainers_captum.npz") as file:
        given = dict(file)
    first, second = (
        torch.tensor(given[k].astype(float)).permute(3, 2, 0, 1) for k in ("kernel1", "kernel2")
    )
    bias1, bias2, dense, bias3 = (
        torch.tensor(given[k].astype(float)) for k in ("bias1", "bias2", "dense", "bias3")
    )

    def forward(x: torch.Tensor) -> torch.Tensor:
        x = F.softplus(F.conv2d(x, first, bias1, padding=1))
        x = F.softplus(F.conv2d(x, second, bias2, stride=2, padding=1))
        return x.mean(dim=(2, 3)) @ dense + bias3

    torch.manual_seed(0)
    np.random.seed(0)
    x = torch.tensor(given["images"].astype(float)).movedim(-1, 1)
    starts = torch.stack([torch.zeros_like(x[0]), torch.tensor(given["reference"]).movedim(-1, 0)])
    starts = starts.to(x.dtype)
    targets = given["targets"]
    golden = {}
    # One sample a call, of many copies: its standard deviation is seen too.
    for noise in (0.0, NOISE):
        maps = np.empty((len(x), SAMPLES, *given["images"].shape[1:]))
        for i, target in enumerate(targets):
            copies = x[i : i + 1].expand(SAMPLES, -1, -1, -1)
            value = GradientShap(forward).attribute(
                copies, starts, n_samples=1, stdevs=noise, target=int(target)
            )
            maps[i] = value.detach().movedim(1, -1).numpy()
        golden[f"gradient_shap/{noise}/mean"] = maps.mean(axis=1)
        golden[f"gradient_shap/{noise}/deviation"] = maps.std(axis=1)

    # Regions of unequal size: columns in pairs, rows in thirds, and one cell cut in two.
    rows, columns = np.meshgrid(np.arange(9) // 3, np.arange(10) // 4, indexing="ij")
    segments = rows * 3 + columns
    segments[0, 0] = 9
    golden["segments"] = segments.astype(np.int32)
    regions = int(segments.max()) + 1

    def scores(images: np.ndarray) -> np.ndarray:
        return forward(torch.tensor(images).movedim(-1, 1)).numpy()

    lime = np.empty((len(x), RUNS, regions))
    shap = np.empty((len(x), RUNS, regions))
    mask = torch.tensor(segments)[None, None].expand(1, 3, -1, -1)
    for i, target in enumerate(map(int, targets)):
        for run in range(RUNS):
            explanation = LimeImageExplainer(random_state=run).explain_instance(
                given["images"][i].astype(float),
                scores,
                labels=(target,),
                top_labels=None,
                num_samples=1000,
                batch_size=1000,
                segmentation_fn=lambda image: segments,
            )
            for region, weight in explanation.local_exp[target]:
                lime[i, run, region] = weight
            value = (
                KernelShap(forward)
                .attribute(
                    x[i : i + 1],
                    starts[1:],
                    target=target,
                    feature_mask=mask,
                    n_samples=1000,
                    perturbations_per_eval=100,
                )[0, 0]
                .numpy()
            )
            shap[i, run] = [value[segments == region][0] for region in range(regions)]
    for name, values in (("lime", lime), ("kernel_shap", shap)):
        golden[f"{name}/mean"] = values.mean(axis=1)
        golden[f"{name}/deviation"] = values.std(axis=1)
    golden = {k: v if v.dtype == np.int32 else v.astype(np.float32) for k, v in golden.items()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **golden)


if __name__ == "__main__":
    main()

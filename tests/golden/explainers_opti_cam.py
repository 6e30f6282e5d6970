"""Makes explainers_opti_cam.npz: Opti-CAM's masks of the network of explainers_cam.py, in PyTorch.

Run `python tests/golden/explainers_opti_cam.py` where torch is installed. The authors' released
procedure, github.com/hanwei0912/OptiCAM at 964ad14, written anew after it: weights softmax(w) from
w = 0.5, a loss summed over the batch, Adam, masks on a black image, the last step's mask. Its rule
to stop (the whole batch, where every tenth of the steps the summed loss is above the last such) is
left out, as ours looks at each image; the script prints whether it would have been met.

Arrays: `layer/normalization/loss/steps`, masks [3, 9, 10] after so many steps, in float64; the loss
is `plain`, the fall of the target's logit, or `norm`, the size of its change. `.../loss` are the
summed losses before each step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
STEPS = (1, 10, 100)


def main() -> None:
    import torch
    from torch.nn import functional

    given = np.load(HERE / "explainers_cam.npz")

    def tensor(name: str) -> torch.Tensor:
        return torch.tensor(given[name].astype(float))

    kernels = [tensor(f"kernel{layer}").permute(3, 2, 0, 1) for layer in (1, 2)]
    biases = [tensor(f"bias{layer}") for layer in (1, 2)]
    images, targets = tensor("images").permute(0, 3, 1, 2), torch.tensor(given["targets"])

    def network(x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        first = functional.relu(functional.conv2d(x, kernels[0], biases[0], 1, 1))
        second = functional.relu(functional.conv2d(first, kernels[1], biases[1], 2, 1))
        scores = second.permute(0, 2, 3, 1).flatten(1) @ tensor("dense") + tensor("bias3")
        return scores, {"layer1": first, "layer2": second}

    def logit(x: torch.Tensor) -> torch.Tensor:
        return network(x)[0].gather(1, targets[:, None])[:, 0]

    def normalized(maps: torch.Tensor, normalization: str) -> torch.Tensor:
        high, low = maps.amax((2, 3), True), maps.amin((2, 3), True)
        if normalization == "min_max":
            return (maps - low) / (high - low)
        return maps / high if normalization == "max" else torch.sigmoid(maps)

    with torch.no_grad():
        clean, activations = network(images)
    clean = clean.gather(1, targets[:, None])[:, 0]
    arrays: dict[str, np.ndarray] = {}
    for layer in ("layer1", "layer2"):
        for normalization in ("min_max", "max", "sigmoid"):
            for loss in ("plain", "norm"):
                features = activations[layer]
                w = torch.full((*features.shape[:2], 1, 1), 0.5, dtype=float, requires_grad=True)
                optimizer = torch.optim.Adam([w], lr=0.1)

                def masks(w=w, features=features, normalization=normalization) -> torch.Tensor:
                    maps = (torch.softmax(w, 1) * features).sum(1, keepdim=True)
                    maps = functional.interpolate(
                        maps, images.shape[2:], mode="bilinear", align_corners=False
                    )
                    return normalized(maps, normalization)

                name, losses = f"{layer}/{normalization}/{loss}", []
                for step in range(1, max(STEPS) + 1):
                    change = clean - logit(masks() * images)
                    total = (change if loss == "plain" else change.abs()).sum()
                    losses.append(total.item())
                    optimizer.zero_grad()
                    total.backward()
                    optimizer.step()
                    if step in STEPS:
                        arrays[f"{name}/{step}"] = masks()[:, 0].detach().numpy()
                arrays[f"{name}/loss"] = np.array(losses)
                checked = np.array(losses)[:: max(STEPS) // 10]
                print(name, "stops early" if (np.diff(checked) > 0).any() else "runs to its end")
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()

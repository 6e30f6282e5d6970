"""Makes metrics_localization_quantus.npz: pointing games by Quantus 0.6.0 (`pip install quantus`).

Run from the root of the repository: `python tests/golden/metrics_localization_quantus.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from quantus import PointingGame, RelevanceMassAccuracy


def main() -> None:
    random = np.random.default_rng(0)
    maps = random.normal(size=(24, 12, 10)).astype("f4")
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    maps = (maps - low) / (high - low)
    maps[:6] = np.round(maps[:6] * 2) / 2  # several pixels share the largest value
    # Two boxes an image in pixels, of which the last of each third image is none.
    start = random.integers(0, 8, (24, 2, 2))
    stop = start + random.integers(1, 5, (24, 2, 2))
    edges = np.concatenate([start, np.minimum(stop, [12, 10])], axis=2)
    edges[::3, 1] = 0
    segments = np.zeros(maps.shape, bool)
    for segment, boxes in zip(segments, edges, strict=True):
        for top, left, bottom, right in boxes:
            segment[top:bottom, left:right] = True
    given = {"a_batch": maps[:, None], "s_batch": segments[:, None]}
    quiet = {"disable_warnings": True}
    path = Path(__file__).with_suffix(".npz")
    np.savez_compressed(
        path,
        allow_pickle=False,
        maps=maps,
        edges=edges,
        pointing=np.asarray(PointingGame(**quiet).evaluate_batch(**given)),
        energy=np.asarray(RelevanceMassAccuracy(**quiet).evaluate_batch(**given)),
    )


if __name__ == "__main__":
    main()

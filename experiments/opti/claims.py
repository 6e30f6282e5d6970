"""The paper's claims, each as one number with its interval, so that they can be seen to hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.common.script import verdict
from experiments.opti.boxes import box_maps
from experiments.opti.measurements import Measurements
from experiments.opti.study import FAKE, OPTI
from jc2i import normalize
from jc2i.statistics import Interval, mean_interval, paired_difference

Claim = tuple[str, Interval]


def claims(measured: Measurements) -> list[dict[str, Any]]:
    """Which of the paper's claims hold for this study.

    Each claim is a mean over images of a (paired) difference, signed so that the claim says it is
    positive: it holds when the 95 % interval lies above zero, fails when it lies below, and is
    open otherwise.

    Args:
      measured: a study with Opti-CAM among its methods.

    Returns:
      Rows: claim, gain with its interval, verdict.
    """
    found = [*_leads(measured), *_fake(measured), *_masking(measured), *_selectivity(measured)]
    if measured.subject.boxes is not None:
        found += [*_box(measured), *_localization(measured)]
    return [_row(claim, gain) for claim, gain in found]


def _leads(measured: Measurements) -> list[Claim]:
    """Opti-CAM against the best of the others, at each of AD, AG and AI."""
    opti = measured.masked(measured.maps(OPTI))
    others = [m for m in measured.subject.methods if m not in (OPTI, FAKE)]
    found = []
    for column, name, sign in ((0, "AD", -1), (2, "AG", 1), (1, "AI", 1)):
        values = {m: sign * measured.masked(measured.maps(m))[:, column] for m in others}
        best = max(others, key=lambda m: np.nanmean(values[m]))
        count = len(values[best])
        gain = paired_difference(values[best], sign * opti[:count, column])
        found.append((f"Opti-CAM is first in {name} (next: {best}, {count} images)", gain))
    return found


def _fake(measured: Measurements) -> list[Claim]:
    if FAKE not in measured.subject.methods:
        return []
    drop, _, gain = measured.masked(measured.maps(FAKE)).T
    few = "is below 5 %"
    return [
        (f"Fake-CAM's AD {few}", mean_interval(5 - drop)),
        (f"Fake-CAM's AG {few}", mean_interval(5 - gain)),
    ]


def _masking(measured: Measurements) -> list[Claim]:
    drop, _, gain = measured.masked(measured.maps(OPTI)).T
    return [("masking with Opti-CAM gains more than it loses", mean_interval(gain - drop))]


def _selectivity(measured: Measurements) -> list[Claim]:
    """Opti-CAM's gain at the exponent 1 against that of a flatter and of a sharper map."""
    maps = np.asarray(normalize(measured.maps(OPTI, most=measured.study.ablation_images)))

    def gain(exponent: float) -> np.ndarray:
        return measured.masked(maps ** np.float32(exponent), normalize=False)[:, 2]

    at_one = gain(1.0)
    return [
        (
            f"Opti-CAM's AG peaks at exponent 1 (against {other:g})",
            paired_difference(gain(other), at_one),
        )
        for other in (0.5, 1.5, 2.0)
    ]


def _box(measured: Measurements) -> list[Claim]:
    boxes = measured.subject.boxes
    assert boxes is not None
    size = measured.subject.images.shape[1:3]
    masked = {
        name: measured.masked(np.asarray(maps), normalize=False)
        for name, maps in box_maps(boxes, *size).items()
    }
    inside, outside = masked["box"], masked["complement"]
    return [
        (
            "masking with the box loses more than it gains",
            mean_interval(inside[:, 0] - inside[:, 2]),
        ),
        (
            "the box loses more than its complement (AD)",
            paired_difference(outside[:, 0], inside[:, 0]),
        ),
        (
            "the complement gains more than the box (AG)",
            paired_difference(inside[:, 2], outside[:, 2]),
        ),
    ]


def _localization(measured: Measurements) -> list[Claim]:
    """Whether Opti-CAM, first as a mask, is behind the others where maps should stay in boxes."""
    rivals = [m for m in ("grad_cam", "score_cam") if m in measured.subject.methods]
    opti, found = measured.localization(OPTI), []
    for method in rivals:
        values = measured.localization(method)
        count = len(values["EP"])
        for name, words, sign in (
            ("SP", "behind in the standard pointing game", 1),
            ("EP", "behind in the energy pointing game", 1),
            ("LE", "ahead in localization error", -1),
        ):
            better, worse = (values, opti) if sign > 0 else (opti, values)
            low, high = worse[name][:count], better[name][:count]
            gain = paired_difference(low, high) if sign > 0 else paired_difference(high, low)
            found.append((f"Opti-CAM is {words} of {method}", gain))
    return found


def _row(claim: str, gain: Interval) -> dict[str, Any]:
    return {"claim": claim, **gain.columns("gain"), "verdict": verdict(gain)}

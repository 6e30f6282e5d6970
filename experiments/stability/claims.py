"""The paper's claims, each as one number with its interval, so that they can be seen to hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common.methods import words
from experiments.common.script import verdict
from experiments.stability.measurements import Measurements
from experiments.stability.study import CONTROL, LIPSCHITZ, MODEL, RANDOM, Setting
from experiments.stability.tables import PRODUCTS, STATISTICS, contrast, gain
from jc2i.statistics import Interval

Claim = tuple[str, Interval]

ABOUT = (
    "Each claim is a difference of two measures, of the same images and folds, signed so that the "
    "claim says it is above zero, with its 95 % interval over images and folds (variances over "
    "images, by the bootstrap, and over folds, by leaving out each, added; Student's quantile for "
    "k - 1 degrees of freedom): it holds when the interval lies above zero, fails when it lies "
    "below, and is open otherwise."
)

MARGIN = 0.1
"""By how much less a mu-fidelity, a correlation, is still said not to have fallen."""
LEADERS = ("grad_cam", "grad_cam_plus_plus", "rise")
"""The methods that the paper's section 4.4 recommends."""


def claims(measured: Measurements) -> list[dict[str, Any]]:
    """Which of the paper's claims hold for this study.

    Args:
      measured: a study.

    Returns:
      Rows: claim, gain with its interval, verdict.
    """
    found = [
        *_above_random(measured),
        *_degraded(measured),
        *_lipschitz(measured),
        *_leaders(measured),
        *_product(measured),
        *_contrast(measured),
    ]
    return [
        {"claim": claim, **difference.columns("gain"), "verdict": verdict(difference)}
        for claim, difference in found
    ]


def _real(measured: Measurements) -> list[str]:
    return [m for m in measured.study.methods if m not in (RANDOM, CONTROL)]


def _above_random(measured: Measurements) -> list[Claim]:
    """Section 4.2: all methods do better than random maps."""
    random = measured.compared(MODEL, RANDOM)
    return [
        (
            f"{words(method)} is above random maps in {measure}",
            gain(measured, measure, random, measured.compared(MODEL, method)),
        )
        for measure in STATISTICS
        for method in _real(measured)
    ]


def _degraded(measured: Measurements) -> list[Claim]:
    """Sections 4.2 and 4.3: MeGe and ReCo fall with the worst degradation, fidelity does not."""
    study, found = measured.study, []
    most = study.degraded_images
    for kind, shares in (("labels", study.inverted_shares), ("noise", study.noise_shares)):
        if not shares:
            continue
        worst = Setting(kind=kind, share=max(shares))
        spoilt = f"with {worst.share:.0%} {kind}"
        for method in _real(measured):
            before = measured.compared(MODEL, method, most=most)
            after = measured.compared(worst, method, most=most)
            found += [
                (
                    f"{measure} of {words(method)} falls {spoilt}",
                    gain(measured, measure, after, before),
                )
                for measure in STATISTICS
            ]
            fidelities = (measured.fidelity(s, method, most) for s in (MODEL, worst))
            kept = measured.interval(
                lambda a, b: np.nanmean(b) - np.nanmean(a) + MARGIN, *fidelities
            )
            found.append((f"mu-fidelity of {words(method)} falls by less than .1 {spoilt}", kept))
    return found


def _lipschitz(measured: Measurements) -> list[Claim]:
    """Tables 2 and 3: the 1-Lipschitz network is better with all methods but Grad-CAM++."""
    if LIPSCHITZ not in measured.subject.networks:
        return []
    found = []
    for measure in STATISTICS:
        for method in _real(measured):
            both = [measured.compared(setting, method) for setting in (MODEL, LIPSCHITZ)]
            worse = method == "grad_cam_plus_plus"
            does = "lowers" if worse else "raises"
            found.append(
                (
                    f"the 1-Lipschitz network {does} {measure} of {words(method)}",
                    gain(measured, measure, *(both[::-1] if worse else both)),
                )
            )
    return found


def _leaders(measured: Measurements) -> list[Claim]:
    """Section 4.4: Grad-CAM, Grad-CAM++ and RISE are the ones to take."""
    leaders = [m for m in LEADERS if m in measured.study.methods]
    others = [m for m in _real(measured) if m not in LEADERS]
    if not others:
        return []
    found = []
    for measure in STATISTICS:
        best = max(others, key=lambda method: _value(measured, measure, method))
        found += [
            (
                f"{words(method)} is above all that are not recommended in {measure} "
                f"(best: {words(best)})",
                gain(
                    measured,
                    measure,
                    measured.compared(MODEL, best),
                    measured.compared(MODEL, method),
                ),
            )
            for method in leaders
        ]
    return found


def _value(measured: Measurements, measure: str, method: str) -> float:
    return getattr(measured.compared(MODEL, method).sets, measure.lower())


def _product(measured: Measurements) -> Sequence[Claim]:
    """Section 4.4: the product with the input inflates MeGe."""
    return [
        (
            f"the product with the input raises MeGe of {words(plain)}",
            gain(
                measured,
                "MeGe",
                measured.compared(MODEL, plain),
                measured.compared(MODEL, method),
            ),
        )
        for method, plain in PRODUCTS.items()
    ]


def _contrast(measured: Measurements) -> list[Claim]:
    """Definition 2, image by image: models that contradict each other explain differently."""
    return [
        (
            f"of one image, contradicting models' maps are further apart ({words(method)})",
            measured.interval(contrast, measured.compared(MODEL, method)),
        )
        for method in _real(measured)
    ]

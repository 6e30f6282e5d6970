"""The paper's claims, each as one number with its interval, so that they can be seen to hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.c2i.measurements import SWEPT, Measurements
from experiments.c2i.study import BASE
from experiments.common.script import verdict
from jc2i.statistics import Interval, paired_difference


def claims(measured: Measurements) -> list[dict[str, Any]]:
    """Which of the paper's claims hold for this study.

    Each claim is a mean over images of a paired difference, signed so that the claim says it is
    positive: it holds when the 95 % interval lies above zero, fails when it lies below, and is
    open otherwise.

    Args:
      measured: a study that includes Meaningful Perturbation.

    Returns:
      Rows: claim, calibration, gain with its interval, verdict.
    """
    rows = []
    for version in measured.study.calibrations:
        rows += [_row(claim, version, gain) for claim, gain in _gains(measured, version)]
    rows += [_row(*entry) for entry in _sweep_gains(measured)]
    return rows


def _gains(measured: Measurements, version: str) -> list[tuple[str, Interval]]:
    def gain(values_of: Any, method: str, sign: int) -> Interval:
        before, after = (values_of(method, v) for v in (BASE, version))
        return paired_difference(sign * before, sign * after)

    methods = measured.study.methods
    found = []
    for method in methods:
        found.append((f"deletion area falls: {method}", gain(measured.areas, method, -1)))
        found.append(
            (f"better than random rises: {method}", gain(measured.better_than_random, method, 1))
        )
        found.append(
            (
                f"Otsu total variation falls: {method}",
                gain(measured.otsu_total_variation, method, -1),
            )
        )
        found.append(
            (
                f"Lipschitz estimate falls: {method}",
                gain(lambda m, v: measured.lipschitz(m)[v], method, -1),
            )
        )
    fall = {m: measured.areas(m, BASE) - measured.areas(m, version) for m in methods}
    others = [m for m in methods if m != SWEPT]
    if SWEPT in fall and others:
        runner_up = max(others, key=lambda m: np.nanmean(fall[m]))
        claim = f"deletion area falls most for {SWEPT} (next: {runner_up})"
        found.insert(0, (claim, paired_difference(fall[runner_up], fall[SWEPT])))
    return found


def _sweep_gains(measured: Measurements) -> list[tuple[str, str, Interval]]:
    """The calibrated temperature against the best of the others."""
    fitted, areas = measured.fitted_temperature, measured.sweep_areas
    others = {t: values for t, values in areas.items() if t != fitted}
    best = min(others, key=lambda t: np.nanmean(others[t]))
    claim = f"deletion area is least at the fitted temperature (next: {best / fitted:.2g} x fitted)"
    return [(claim, "temperature", paired_difference(areas[fitted], others[best]))]


def _row(claim: str, version: str, gain: Interval) -> dict[str, Any]:
    return {
        "claim": claim,
        "calibration": version,
        **gain.columns("gain"),
        "verdict": verdict(gain),
    }

"""One function a figure of the paper: rows for a CSV, a figure, and what it says."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.common.methods import words
from experiments.common.script import Result
from experiments.stability import distances
from experiments.stability.measurements import Measurements
from experiments.stability.study import Setting
from experiments.stability.tables import INTERVALS, STATISTICS, columns
from jc2i import metrics, plots
from jc2i.statistics import Interval

KINDS = {"labels": "wrong labels to train on", "noise": "convolution weights with noise"}
"""The two ways in which models are spoilt, as an axis says it."""


def figure3(measured: Measurements) -> Result | None:
    """Figures 3, 8 and 9: MeGe and ReCo as models are spoilt, for the data of the study."""
    most = measured.study.degraded_images

    def of(statistic: Callable[..., float]) -> Callable[[Setting, str], Interval]:
        return lambda setting, method: measured.interval(
            statistic, measured.compared(setting, method, most=most)
        )

    return _degradation(
        measured,
        "figure3",
        "Figures 3, 8, 9: MeGe and ReCo of spoilt models",
        {name: of(statistic) for name, statistic in STATISTICS.items()},
    )


def figure4(measured: Measurements) -> Result | None:
    """Figure 4: mu-fidelity as models are spoilt."""
    most = measured.study.degraded_images
    return _degradation(
        measured,
        "figure4",
        "Figure 4: mu-fidelity of spoilt models",
        {
            "fidelity": lambda setting, method: measured.interval(
                np.nanmean, measured.fidelity(setting, method, most)
            )
        },
    )


def _degradation(
    measured: Measurements,
    name: str,
    heading: str,
    measures: dict[str, Callable[[Setting, str], Interval]],
) -> Result | None:
    study, rows, figures = measured.study, [], {}
    shares = {"labels": study.inverted_shares, "noise": study.noise_shares}
    for kind, chosen in shares.items():
        if not chosen:
            continue
        axis = (0.0, *sorted(chosen))
        found: dict[str, list[dict[str, Any]]] = {method: [] for method in study.methods}
        for method in study.methods:
            for share in axis:
                setting = Setting(kind=kind if share else None, share=share)
                row: dict[str, Any] = {"degradation": kind, "share": share, "method": method}
                for measure, compute in measures.items():
                    interval = compute(setting, method)
                    row |= {"images": interval.count, **columns(measure, interval)}
                found[method].append(row)
            rows += found[method]
        for measure in measures:
            curves = {
                words(method): tuple(
                    np.array([row[measure + end] for row in of_method])
                    for end in ("", "_low", "_high")
                )
                for method, of_method in found.items()
            }
            figures[f"{name}_{kind}_{measure}"] = plots.sweep(
                100 * np.array(axis), curves, xlabel=f"{KINDS[kind]} (%)", ylabel=measure
            )
    if not rows:
        return None
    text = (
        f"Models trained with a share of wrong labels, and trained models with Gaussian noise of "
        f"standard deviation 0.5 on a share of their convolutions ({study.noise_on}). The same "
        f"images at every point of a line. {INTERVALS}"
    )
    return Result(heading, text, rows, figures)


def figure5(measured: Measurements) -> Result:
    """Figures 5 and 10: how the distances of agreeing and contradicting models are distributed."""
    rows, figures = [], {}
    for setting in measured.subject.networks:
        shown = {}
        for method in measured.study.methods:
            sets = measured.compared(setting, method).sets
            both = {"both right": sets.agreeing, "one right": sets.disagreeing}
            both = {name: values[np.isfinite(values)] for name, values in both.items()}
            shown[words(method)] = both
            rows += [
                {"models": setting.name, "method": method, "answers": name, **_described(values)}
                for name, values in both.items()
            ]
        figures[f"figure5_{setting.name}"] = plots.distributions(
            shown, ylabel=f"distance ({measured.study.distance})", kind="violin"
        )
    text = (
        "Distances of an image's maps between the model that was not trained on it and another, "
        "where both are right and where one of them is. The further apart the two, the more "
        "consistent the method; the lower the first, the more general."
    )
    heading = "Figures 5, 10: distances of agreeing and contradicting models"
    return Result(heading, text, rows, figures)


def _described(values: np.ndarray) -> dict[str, Any]:
    there = len(values) > 0
    quartiles = np.quantile(values, (0.25, 0.5, 0.75)) if there else np.full(3, np.nan)
    return {
        "distances": len(values),
        "mean": float(values.mean()) if there else np.nan,
        **dict(zip(("quarter", "median", "three_quarters"), map(float, quartiles), strict=True)),
    }


def figure6(measured: Measurements) -> Result:
    """Figure 6: each distance between a point of interest and the same point further on."""
    curves = {
        shape: distances.spatial_rows(distances.moving_point(shape=shape), _computable())
        for shape in ("disc", "gaussian")
    }
    text = (
        "A point of interest on its way across a map of 32x32, a disc or a Gaussian, and its "
        "distance from where it began. The paper says that every distance grows throughout; the "
        "table says how far each falls on the way, and from where on it no longer tells near from "
        "far, in parts of the way. Curves are in parts of their highest value."
    )
    return _sanity("figure6", "Figure 6: distances of a moving point", "way", curves, text)


def figure7(measured: Measurements) -> Result:
    """Figure 7: each distance between a map and the same map with noise."""
    text = (
        "A disc on a map of 32x32, and its distance from the same map with Gaussian noise of each "
        "standard deviation, 50 times each. The paper says that every distance grows throughout; "
        "`spread` is the mean standard deviation over draws in parts of the range. Curves are in "
        "parts of their highest value."
    )
    curves = {"disc": distances.noise_rows(names=_computable())}
    return _sanity("figure7", "Figure 7: distances of noisy maps", "noise", curves, text)


def _computable() -> tuple[str, ...]:
    """The distances by name; without POT, which solves transport, those that need none."""
    there = importlib.util.find_spec("ot") is not None
    return tuple(name for name, one in metrics.DISTANCES.items() if there or one.compiled)


def _sanity(
    name: str, heading: str, xlabel: str, curves: dict[str, list[dict[str, Any]]], text: str
) -> Result:
    rows, figures = [], {}
    for point, found in curves.items():
        rows += [{"point": point, **row} for row in distances.verdicts(found)]
        at = np.array(list(dict.fromkeys(row["at"] for row in found)))
        lines = {}
        for distance in dict.fromkeys(row["distance"] for row in found):
            own = [row for row in found if row["distance"] == distance]
            value = np.array([row["value"] for row in own])
            spread = np.array([row.get("deviation", 0.0) for row in own])
            highest = np.abs(value).max() or 1.0
            lines[words(distance)] = tuple(
                v / highest for v in (value, value - spread, value + spread)
            )
        figures[f"{name}_{point}"] = plots.sweep(
            at, lines, xlabel=xlabel, ylabel="distance / highest"
        )
    return Result(heading, text, rows, figures)


def appendix_d(measured: Measurements) -> Result:
    """Appendix D: sets that are far apart by other measures, and yet inconsistent."""
    text = (
        "Made-up distances. The Kullback-Leibler divergence and the 1-Wasserstein distance of the "
        "two sets do not know which should be the lower one; ReCo does."
    )
    rows = distances.counterexamples()
    return Result("Appendix D: why not a divergence", text, rows)

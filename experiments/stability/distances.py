"""The sanity checks of distances between maps, figures 6 and 7, and appendix D's counterexamples.

The paper asks of a distance that it grows with the way between two points of interest (figure 6)
and with the noise on a map (figure 7), and says that all pass. A row a point of each curve, and one
a distance that says whether it grows throughout, how far it falls, and where it stops growing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from jc2i import metrics
from jc2i.checks import describe, one_of, require
from jc2i.metrics import DISTANCES

Row = dict[str, Any]

SIGMAS = tuple(np.linspace(0, 1, 11).round(2).tolist())
"""Standard deviations of the noise, in units of a map whose values are in [0, 1]."""

TOLERANCE = 0.01
"""What a curve may fall, in parts of its range, and be called growing: pixels are no continuum."""

BINS = 40
"""Bins of the histograms that appendix D's divergence is of."""


def moving_point(
    side: int = 32, steps: int = 100, radius: float = 4.0, shape: str = "disc"
) -> np.ndarray:
    """Maps of one point of interest on its way from the upper left corner to the lower right.

    The point stays whole, so that nothing but its place changes.

    Args:
      side: pixels of a side.
      steps: maps, from the first place to the last, at least 2.
      radius: of the point, in pixels; below half the side.
      shape: `"disc"`, 1 within and 0 without, over one pixel of edge; `"gaussian"`,
        exp(-(d / radius)^2), which is zero nowhere: its ranks say how far each pixel is from it.

    Returns:
      Maps [steps, side, side] in [0, 1].

    Raises:
      ValueError: for an option out of range.
    """
    require(steps > 1, "steps", steps, "a whole number above 1")
    require(0 < radius < side / 2, "radius", radius, f"a number in (0, {side / 2})")
    one_of("shape", shape, ("disc", "gaussian"))
    centre = np.linspace(radius, side - 1 - radius, steps)[:, None, None]
    row, column = np.indices((side, side))
    distance = np.hypot(row - centre, column - centre)
    if shape == "disc":
        return np.clip(radius + 0.5 - distance, 0, 1)
    return np.exp(-((distance / radius) ** 2))


def spatial_rows(
    points: np.ndarray | None = None, names: Sequence[str] = tuple(DISTANCES)
) -> list[Row]:
    """Figure 6: the distance between a point of interest and the same point further on.

    Args:
      points: maps [steps, height, width] of which the first is the baseline; None for
        `moving_point()`.
      names: distances, of `jc2i.metrics.DISTANCES`.

    Returns:
      A row a distance and step: `distance`, `at` (the part of the way, in [0, 1]), `value`.
    """
    points = np.asarray(moving_point() if points is None else points, np.float32)
    way = np.linspace(0, 1, len(points))
    rows: list[Row] = []
    for name in names:
        baseline = np.broadcast_to(points[:1], points.shape)
        values = np.asarray(_named(name)(baseline, points))
        rows += [
            {"distance": name, "at": float(at), "value": float(value)}
            for at, value in zip(way, values, strict=True)
        ]
    return rows


def noise_rows(
    original: np.ndarray | None = None,
    names: Sequence[str] = tuple(DISTANCES),
    sigmas: Sequence[float] = SIGMAS,
    repeats: int = 50,
    seed: int = 0,
) -> list[Row]:
    """Figure 7: the distance between a map and the map with Gaussian noise on it.

    Args:
      original: one map [height, width], brought to [0, 1]; None for the middle of `moving_point()`.
      names: distances, of `jc2i.metrics.DISTANCES`.
      sigmas: standard deviations of the noise.
      repeats: draws for each of them; the same draws for every distance.
      seed: of the draws.

    Returns:
      A row a distance and sigma: `distance`, `at` (sigma), `value` (the mean over draws) and
      `deviation` (their standard deviation).

    Raises:
      ValueError: if the map is not one of finite numbers that vary.
    """
    clean = np.asarray(moving_point(steps=3)[1] if original is None else original, float)
    varies = clean.ndim == 2 and np.isfinite(clean).all() and np.ptp(clean) > 0
    require(varies, "original", describe(clean), "one map that varies")
    clean = (clean - clean.min()) / np.ptp(clean)
    noise = np.random.default_rng(seed).normal(size=(repeats, *clean.shape))
    rows: list[Row] = []
    for name in names:
        for sigma in sigmas:
            noisy = (clean + sigma * noise).astype(np.float32)
            baseline = np.broadcast_to(clean.astype(np.float32), noisy.shape)
            values = np.asarray(_named(name)(baseline, noisy))
            mean, deviation = float(values.mean()), float(values.std())
            rows.append(
                {"distance": name, "at": float(sigma), "value": mean, "deviation": deviation}
            )
    return rows


def verdicts(rows: Sequence[Row]) -> list[Row]:
    """Whether each distance grows along its curve, as the paper says of all of them.

    Args:
      rows: those of `spatial_rows` or `noise_rows`.

    Returns:
      A row a distance: `grows` (whether it never falls by more than a hundredth of its range),
      `largest_fall` (below the highest value before, in parts of the range), `grows_until` (where
      it comes within a hundredth of its highest value: beyond, it no longer tells near from far),
      `correlation` (Spearman's, of the curve and where it is taken) and, of a curve with
      `deviation`, `spread`: the mean deviation in parts of the range.
    """
    found = []
    for name in dict.fromkeys(row["distance"] for row in rows):
        curve = [row for row in rows if row["distance"] == name]
        at, value = (np.array([row[column] for row in curve]) for column in ("at", "value"))
        span = np.ptp(value) or 1.0
        fall = float((np.maximum.accumulate(value) - value).max() / span)
        verdict: Row = {
            "distance": name,
            "grows": bool(fall <= TOLERANCE and np.ptp(value) > 0),
            "largest_fall": fall,
            "grows_until": float(at[np.argmax(value >= value.max() - TOLERANCE * span)]),
            "correlation": _spearman(at, value),
        }
        if "deviation" in curve[0]:
            verdict["spread"] = float(np.mean([row["deviation"] for row in curve]) / span)
        found.append(verdict)
    return found


def counterexamples(count: int = 1000) -> list[Row]:
    """Appendix D: sets of distances that are far apart, and yet inconsistent.

    Distances of agreeing models are quantiles of one normal distribution, those of disagreeing
    models of another. Exchanged, the sets are as far apart as before by the Kullback-Leibler
    divergence and by the 1-Wasserstein distance, and every explanation is inconsistent: models that
    contradict each other explain alike. With the disagreeing ones on both sides the divergence is
    as large, and no distance tells them from the others.

    Args:
      count: distances of each set.

    Returns:
      A row a case: `case`, `divergence` (in nats, of histograms), `wasserstein`, `reco`,
      `reco_auc`.
    """
    normal = stats.norm.ppf((np.arange(count) + 0.5) / count)
    low, high = 0.3 + 0.05 * normal, 0.7 + 0.05 * normal
    middle, sides = 0.5 + 0.05 * normal, np.concatenate([low[::2], high[1::2]])
    cases = {
        "agreeing models explain alike": (low, high),
        "the same sets, exchanged": (high, low),
        "contradicting models on both sides": (middle, sides),
        "contradicting models in the middle": (sides, middle),
        "the same sets": (middle, middle),
    }
    rows = []
    for case, (agreeing, disagreeing) in cases.items():
        sets = agreeing.astype(np.float32), disagreeing.astype(np.float32)
        rows.append(
            {
                "case": case,
                "divergence": _divergence(agreeing, disagreeing),
                "wasserstein": float(stats.wasserstein_distance(agreeing, disagreeing)),
                "reco": float(metrics.reco(*sets)),
                "reco_auc": float(metrics.reco_auc(*sets)),
            }
        )
    return rows


def _divergence(agreeing: np.ndarray, disagreeing: np.ndarray) -> float:
    """Kullback-Leibler divergence of two histograms over [0, 1], of one more in each bin."""
    first, second = (
        np.histogram(values, bins=BINS, range=(0, 1))[0] + 1 for values in (agreeing, disagreeing)
    )
    return float(stats.entropy(first, second))


def _spearman(at: np.ndarray, value: np.ndarray) -> float:
    if np.ptp(value) == 0:
        return 0.0
    return float(np.corrcoef(stats.rankdata(at), stats.rankdata(value))[0, 1])


def _named(name: str) -> Any:
    one_of("names", name, tuple(DISTANCES))
    return DISTANCES[name]

"""The paper's sanity checks of distances between maps, and its counterexamples, in small."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from experiments.stability import distances
from jc2i.metrics import DISTANCES

COMPILED = tuple(name for name, distance in DISTANCES.items() if distance.compiled)


def by_distance(rows):
    return {row["distance"]: row for row in distances.verdicts(rows)}


def test_a_point_moves_whole_from_corner_to_corner():
    for shape in ("disc", "gaussian"):
        points = distances.moving_point(side=20, steps=7, radius=3, shape=shape)
        assert points.shape == (7, 20, 20) and points.min() >= 0 and points.max() == 1
        centres = [np.average(np.indices((20, 20)), axis=(1, 2), weights=p**4) for p in points]
        way = np.linspace(3, 16, 7)
        np.testing.assert_allclose(centres, np.stack([way, way], 1), atol=0.1)
        spread = np.ptp(points.sum(axis=(1, 2))) / points[0].sum()
        assert spread < {"disc": 0.02, "gaussian": 0.15}[shape]  # a Gaussian's tails are cut


def test_of_a_moving_point_the_distances_of_ranks_and_ssim_do_not_grow_throughout():
    """All but transport stop where the points part; |rho| falls again, as rho is below zero."""
    rows = distances.spatial_rows(names=COMPILED)
    assert len(rows) == 100 * len(COMPILED) and set(rows[0]) == {"distance", "at", "value"}
    found = by_distance(rows)
    grow = {name for name, verdict in found.items() if verdict["grows"]}
    assert grow == {"dice", "l1", "l2"}
    assert all(found[name]["grows_until"] < 0.3 for name in grow | {"spearman"})
    # A point that is zero nowhere: in the opposite corner all ranks are turned round, and |rho| is
    # large again.
    points = distances.moving_point(shape="gaussian", steps=30)
    found = by_distance(distances.spatial_rows(points, ["spearman"]))["spearman"]
    assert found["largest_fall"] > 0.5 and found["grows_until"] < 0.6
    rho = stats.spearmanr(points[0].astype("f4").ravel(), points[-1].astype("f4").ravel())[0]
    assert rho < -0.5


def test_of_a_moving_point_the_wasserstein_distance_is_the_way():
    pytest.importorskip("ot")
    points = distances.moving_point(side=14, steps=9, radius=2)
    rows = distances.spatial_rows(points, ["wasserstein"])
    values = np.array([row["value"] for row in rows])
    np.testing.assert_allclose(values, np.linspace(0, 9 / 13, 9), atol=0.01)
    found = by_distance(rows)["wasserstein"]
    assert found["grows"] and found["largest_fall"] == 0 and found["grows_until"] == 1


def test_every_distance_grows_with_noise():
    names = DISTANCES if pytest.importorskip("ot") else COMPILED
    original = distances.moving_point(side=16, steps=3, radius=4)[1]
    rows = distances.noise_rows(original, tuple(names), sigmas=(0, 0.1, 0.3, 0.8), repeats=6)
    found = by_distance(rows)
    assert found.keys() == set(names) and all(verdict["grows"] for verdict in found.values())
    assert all(0 < verdict["spread"] < 0.2 for verdict in found.values())
    assert all(row["value"] < 1e-5 for row in rows if row["at"] == 0)
    # A map of any range is brought to [0, 1], which the noise is in units of.
    again = distances.noise_rows(7 * original - 3, ("l2",), sigmas=(0.3,), repeats=6)
    right = next(row for row in rows if row["distance"] == "l2" and row["at"] == 0.3)
    np.testing.assert_allclose(again[0]["value"], right["value"], rtol=1e-5)


def test_a_curve_that_falls_or_stays_does_not_grow():
    def verdict(values):
        rows = [{"distance": "x", "at": i / 4, "value": v} for i, v in enumerate(values)]
        return distances.verdicts(rows)[0]

    assert verdict([0, 1, 2, 3, 4])["correlation"] == pytest.approx(1)
    falls = verdict([0, 2, 4, 3, 4])
    assert not falls["grows"] and falls["largest_fall"] == 0.25 and falls["grows_until"] == 0.5
    assert verdict([0, 2, 4, 4, 4]) | {"correlation": 0} == {
        "distance": "x",
        "grows": True,
        "largest_fall": 0,
        "grows_until": 0.5,
        "correlation": 0,
    }
    assert not verdict([1, 1, 1, 1, 1])["grows"]


def test_distances_between_the_sets_do_not_see_their_order():
    rows = {row.pop("case"): row for row in distances.counterexamples(400)}
    apart, exchanged = (
        rows[case] for case in ("agreeing models explain alike", "the same sets, exchanged")
    )
    for measure in ("divergence", "wasserstein"):
        assert exchanged[measure] == pytest.approx(apart[measure])
    assert apart["divergence"] > 3 and apart["wasserstein"] == pytest.approx(0.4)
    assert apart["reco"] == pytest.approx(1) and exchanged["reco"] == pytest.approx(0, abs=1e-6)
    assert apart["reco_auc"] == pytest.approx(0.5)
    assert exchanged["reco_auc"] == pytest.approx(-0.5)
    both = rows["contradicting models on both sides"]
    assert both["divergence"] > 3 and both["reco"] < 0.5
    assert rows["the same sets"]["wasserstein"] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distances.moving_point(radius=16), r"radius: got 16, takes a number in \(0, 16"),
        (lambda: distances.moving_point(steps=1), "steps: got 1, takes a whole number above 1"),
        (lambda: distances.moving_point(shape="cross"), "shape: got 'cross', takes 'disc' or"),
        (lambda: distances.spatial_rows(names=["cosine"]), "names: got 'cosine', takes 'spearman'"),
        (lambda: distances.noise_rows(np.ones((4, 4))), r"original: got float64\[4, 4\], takes"),
        (lambda: distances.noise_rows(np.full((4, 4), np.nan)), "original: got float64"),
    ],
)
def test_refuses_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

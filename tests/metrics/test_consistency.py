"""MeGe and ReCo against plain loops over pairs and thresholds, and SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jc2i
from jc2i import metrics
from jc2i.metrics import DISTANCES, Pairs
from jc2i.metrics.consistency.null import _shuffled
from jc2i.metrics.consistency.pairs import PAIRS

FOLDS, COUNT, SHAPE = 3, 12, (11, 12)
COMPILED = sorted(name for name, distance in DISTANCES.items() if distance.compiled)


def example(seed=0):
    """Maps with ties, answers and folds of a few images."""
    random = np.random.default_rng(seed)
    maps = random.normal(size=(FOLDS, COUNT, *SHAPE)).astype("f4")
    maps[:, ::2] = np.round(maps[:, ::2])
    correct = random.random((FOLDS, COUNT)) < 0.6
    return maps, correct, np.arange(COUNT) % FOLDS


def one_minus_rho(a, b):
    return 1 - abs(stats.spearmanr(a.ravel(), b.ravel())[0])


def by_the_loops(maps, correct, folds, pairs, distance=one_minus_rho):
    """Algorithm 1, as it is printed; with `xor`, and what (4) has more."""
    agreeing, disagreeing = (np.full((COUNT, FOLDS), np.nan) for _ in range(2))
    for i in range(FOLDS):
        for x in np.flatnonzero(folds == i):
            for j in set(range(FOLDS)) - {i}:
                delta = distance(maps[i, x], maps[j, x])
                if correct[i, x] and correct[j, x]:
                    agreeing[x, j] = delta
                elif correct[i, x] and not correct[j, x]:
                    disagreeing[x, j] = delta
                elif pairs == "xor" and correct[j, x]:
                    disagreeing[x, j] = delta
    return agreeing, disagreeing


@pytest.mark.parametrize("pairs", ["xor", "algorithm1"])
def test_distances_are_those_of_algorithm_1(pairs):
    maps, correct, folds = example()
    expected = by_the_loops(maps, correct, folds, pairs)
    got = metrics.distances(maps, correct, folds, pairs=pairs)
    assert isinstance(got, Pairs)
    for mine, right in zip(got, expected, strict=True):
        assert mine.shape == (COUNT, FOLDS) and np.isfinite(right).any()
        np.testing.assert_allclose(mine, right, atol=1e-6)
    # One array for each fold, in chunks that do not divide the images, of half floats.
    halves = [one.astype("f2") for one in maps]
    expected = by_the_loops(maps.astype("f2").astype("f4"), correct, folds, pairs)
    again = metrics.distances(halves, correct, folds, pairs=pairs, batch_size=5)
    np.testing.assert_allclose(again.agreeing, expected[0], atol=1e-6)
    np.testing.assert_allclose(again.disagreeing, expected[1], atol=1e-6)


def test_pairs_worked_by_hand():
    """Two folds, four images: both right, each alone, both wrong."""
    ramp = np.arange(4.0, dtype="f4").reshape(2, 2)
    swapped = ramp[:, ::-1]  # rho = .6
    maps = np.stack([np.stack([ramp] * 4), np.stack([swapped] * 4)])
    correct = np.array([[True, True, False, False], [True, False, True, False]])
    nan = np.nan
    for folds, algorithm1 in (([0] * 4, [nan, 0.4, nan, nan]), ([1] * 4, [nan, nan, 0.4, nan])):
        other = 1 - folds[0]
        folds = np.array(folds)
        got = metrics.distances(maps, correct, folds)
        np.testing.assert_allclose(got.agreeing[:, other], [0.4, nan, nan, nan], rtol=1e-6)
        np.testing.assert_allclose(got.disagreeing[:, other], [nan, 0.4, 0.4, nan], rtol=1e-6)
        got = metrics.distances(maps, correct, folds, pairs="algorithm1")
        np.testing.assert_allclose(got.agreeing[:, other], [0.4, nan, nan, nan], rtol=1e-6)
        np.testing.assert_allclose(got.disagreeing[:, other], algorithm1, rtol=1e-6)
        assert np.isnan(got.agreeing[:, folds[0]]).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_identical_folds_have_mege_one(name):
    if name == "wasserstein":
        pytest.importorskip("ot")
    maps, _, folds = example()
    same = np.broadcast_to(maps[:1], maps.shape)
    got = metrics.distances(same, np.ones((FOLDS, COUNT), bool), folds, distance=name)
    assert np.nanmax(got.agreeing) < 1e-6 and np.isnan(got.disagreeing).all()
    assert metrics.mege(got.agreeing) == pytest.approx(1, abs=1e-6)
    assert np.isfinite(got.agreeing).sum() == COUNT * (FOLDS - 1)


@pytest.mark.parametrize("name", COMPILED)
def test_a_named_distance_is_that_of_each_pair(name):
    maps, correct, folds = example()
    got = metrics.pair_distances(maps, folds, distance=name)
    for x in range(COUNT):
        own, others = maps[folds[x], x], np.delete(maps[:, x], folds[x], 0)
        expected = DISTANCES[name](np.broadcast_to(own, others.shape), others)
        np.testing.assert_allclose(np.delete(got[x], folds[x]), expected, atol=1e-5)
    again = metrics.pair_distances(maps, folds, distance=DISTANCES[name])
    np.testing.assert_array_equal(got, again)


def test_a_distance_of_ones_own_on_the_host_or_compiled():
    maps, correct, folds = example()

    def on_the_host(first, second):
        return np.abs(np.asarray(first) - np.asarray(second)).max(axis=(1, 2))

    def compiled(first, second):
        return jnp.abs(first - second).max(axis=(1, 2))

    expected = by_the_loops(maps, correct, folds, "xor", lambda a, b: np.abs(a - b).max())
    for distance in (on_the_host, compiled):
        got = metrics.distances(maps, correct, folds, distance=distance, batch_size=7)
        np.testing.assert_allclose(got.agreeing, expected[0], rtol=1e-6)
        np.testing.assert_allclose(got.disagreeing, expected[1], rtol=1e-6)
    rounded = metrics.pair_distances(
        maps, folds, distance=lambda a, b: compiled(a, b).astype("float16")
    )
    assert rounded.dtype == jnp.float32
    jitted = jax.jit(lambda *a: metrics.distances(*a, distance=compiled, batch_size=7))
    np.testing.assert_allclose(jitted(maps, correct, folds).agreeing, expected[0], rtol=1e-6)


def test_under_jit_as_without():
    maps, correct, folds = example()
    expected = metrics.distances(maps, correct, folds)
    for size in (4, 256):
        got = jax.jit(lambda *a, size=size: metrics.distances(*a, batch_size=size))(
            maps, correct, folds
        )
        np.testing.assert_allclose(got.agreeing, expected.agreeing, atol=1e-6)
        np.testing.assert_allclose(got.disagreeing, expected.disagreeing, atol=1e-6)
    measures = (metrics.reco, metrics.reco_auc)
    for measure in measures:
        np.testing.assert_allclose(jax.jit(measure)(*expected), measure(*expected), rtol=1e-6)
    got = jax.jit(metrics.mege)(expected.agreeing)
    np.testing.assert_allclose(got, metrics.mege(expected.agreeing), rtol=1e-6)


def test_constant_and_broken_maps_are_defined_and_flagged():
    """A constant map has rho 0; a pair with a map that is not finite is infinite, and no other."""
    maps, _, folds = example()
    correct = np.ones((FOLDS, COUNT), bool)
    whole = np.asarray(metrics.distances(maps, correct, folds).agreeing)
    maps[1, 4], maps[:, 6] = 7, 0  # image 4 is of fold 1, 6 of fold 0
    maps[2, 3, 0, 0], maps[2, 5, 1, 1] = np.nan, np.inf  # 3 of fold 0, 5 of fold 2
    got = np.asarray(metrics.distances(maps, correct, folds).agreeing)
    expected = whole.copy()
    expected[4, [0, 2]] = expected[6, [1, 2]] = 1
    expected[3, 2] = expected[5, 0] = expected[5, 1] = np.inf
    np.testing.assert_allclose(got, expected, atol=1e-6)
    constant = jc2i.is_constant(maps.reshape(-1, *SHAPE)).reshape(FOLDS, COUNT)
    np.testing.assert_array_equal(np.argwhere(constant), [[0, 6], [1, 4], [1, 6], [2, 6]])
    mean = expected[np.isfinite(expected)].mean()
    np.testing.assert_allclose(metrics.mege(got), 1 / (1 + mean), rtol=1e-6)
    np.testing.assert_allclose(metrics.reco(got, whole), metrics.reco(expected, whole))


def brute_force(agreeing, disagreeing, rates):
    """TPR + TNR - 1 at every threshold at which both rates are defined."""
    a, d = (np.asarray(v, float)[np.isfinite(v)] for v in (agreeing, disagreeing))
    found = []
    for g in np.concatenate([a, d]):
        if rates == "usual":
            found.append((a <= g).mean() + (d > g).mean() - 1)
            continue
        below, above = (a < g).sum() + (d < g).sum(), (a > g).sum() + (d > g).sum()
        if below and above:
            found.append((a < g).sum() / below + (d > g).sum() / above - 1)
    return np.array(found)


def sets(seed):
    """Two sets of distances with ties and with some absent."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 60, 2)
    levels = random.integers(2, 40)
    a, d = (random.integers(0, levels, size).astype("f4") / 8 for size in sizes)
    return np.append(a, [np.nan, np.inf]).astype("f4"), np.append(np.float32(np.nan), d + seed % 3)


@pytest.mark.parametrize("rates", ["usual", "printed"])
@pytest.mark.parametrize("seed", range(8))
def test_reco_equals_brute_force_over_all_thresholds(seed, rates, untyped):
    agreeing, disagreeing = sets(seed)
    found = brute_force(agreeing, disagreeing, rates)
    if not len(found):
        pytest.skip("no threshold counts")
    largest = max(found.max(), 0) if rates == "usual" else found.max()
    got = metrics.reco(agreeing, disagreeing, rates=rates)
    np.testing.assert_allclose(got, largest, atol=1e-6)
    got = metrics.reco_auc(agreeing, disagreeing, rates=rates)
    np.testing.assert_allclose(got, found.mean(), atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_usual_reco_is_the_one_sided_kolmogorov_smirnov_statistic(seed):
    agreeing, disagreeing = sets(seed)
    a, d = (v[np.isfinite(v)] for v in (agreeing, disagreeing))
    expected = stats.ks_2samp(a, d, alternative="greater", method="asymp").statistic
    np.testing.assert_allclose(metrics.reco(agreeing, disagreeing), expected, atol=1e-6)


def test_reco_auc_without_ties_is_mann_whitneys_area_less_one_half():
    random = np.random.default_rng(0)
    agreeing, disagreeing = random.normal(size=50), random.normal(0.4, size=23)
    u = stats.mannwhitneyu(disagreeing, agreeing).statistic
    got = metrics.reco_auc(agreeing.astype("f4"), disagreeing.astype("f4"))
    np.testing.assert_allclose(got, u / (50 * 23) - 0.5, atol=1e-6)


def test_separated_and_identical_sets():
    low, high = np.float32([0.1, 0.2, 0.3]), np.float32([0.7, 0.8])
    assert metrics.reco(low, high) == 1 and metrics.reco(high, low) == 0
    assert metrics.reco_auc(low, high) == pytest.approx(0.5)
    assert metrics.reco_auc(high, low) < 0
    assert metrics.reco(low, low) == 0
    random = np.random.default_rng(0).random((2, 20_000)).astype("f4")
    assert metrics.reco(*random) < 0.02 and abs(metrics.reco_auc(*random)) < 0.01


def test_rates_worked_by_hand():
    """S= {.1, .2, .4}, S≠ {.3, .4, .5}, both rates at each of the five thresholds.

    At .2 and at .3: usual 2/3 + 1 - 1 and 2/3 + 2/3 - 1. Printed at .2: one of one below is of S=,
    three of four above are of S≠; at .3: two of two, and two of three; at .4 (strictly below and
    above): two of three, and one of one.
    """
    agreeing, disagreeing = np.float32([0.1, 0.2, 0.4]), np.float32([0.3, 0.4, 0.5])
    assert metrics.reco(agreeing, disagreeing) == pytest.approx(2 / 3)
    printed = metrics.reco(agreeing, disagreeing, rates="printed")
    assert printed == pytest.approx(1 + 3 / 4 - 1)
    usual = [1 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3, 0]  # .1 .2 .3 .4 .4 .5
    assert metrics.reco_auc(agreeing, disagreeing) == pytest.approx(np.mean(usual))
    defined = [3 / 4, 2 / 3, 2 / 3, 2 / 3]  # .2 .3 .4 .4
    got = metrics.reco_auc(agreeing, disagreeing, rates="printed")
    assert got == pytest.approx(np.mean(defined))


def test_printed_rates_are_large_by_chance():
    """Ten of a thousand pairs disagree, at random: an end of the sorted distances decides."""
    random = np.random.default_rng(1)
    found = [
        [float(metrics.reco(*sets, rates=rates)) for rates in ("usual", "printed")]
        for sets in (np.split(random.random(1000).astype("f4"), [990]) for _ in range(20))
    ]
    usual, printed = np.mean(found, axis=0)
    assert usual < 0.35 and np.max(found, axis=0)[1] > 0.45
    a, d = np.float32([0.1, 0.2, 0.3, 0.6]), np.float32([0.25, 0.3, 0.7])
    assert metrics.reco(d + 1, a, rates="printed") < 0  # S≠ below S=


def test_sets_without_a_pair_have_no_measure():
    some, none = np.float32([0.1, 0.2]), np.full((2, 2), np.nan, "f4")
    assert np.isnan(metrics.mege(none))
    for measure in (metrics.reco, metrics.reco_auc):
        for rates in ("usual", "printed"):
            assert np.isnan(measure(none, none, rates=rates))
        assert np.isnan(measure(some, none)) and np.isnan(measure(none, some))
        # 0/0 at both thresholds.
        assert np.isnan(measure(some[:1], some[1:], rates="printed"))
        assert np.isnan(measure(some[:0], some))


def test_the_sum_of_a_million_distances_keeps_its_digits():
    values = np.random.default_rng(0).random(1_000_003).astype("f4")
    np.testing.assert_allclose(
        metrics.mege(values), 1 / (1 + values.astype(float).mean()), rtol=3e-7
    )


def brute_null(found, correct, folds, key, draws, pairs, rates):
    """Answers permuted among the images of each fold, drawn as the function draws them."""
    values = []
    for one in jax.random.split(key, draws):
        order = np.asarray(_shuffled(one, jnp.asarray(folds)))
        assert sorted(order) == list(range(len(folds)))
        np.testing.assert_array_equal(folds[order], folds)
        sets = metrics.split_pairs(found, correct[:, order], folds, pairs=pairs)
        accuracy = brute_force(*sets, rates)
        values.append(max(accuracy.max(), 0) if rates == "usual" else accuracy.max())
    return values


@pytest.mark.parametrize("rates", ["usual", "printed"])
@pytest.mark.parametrize("pairs", ["xor", "algorithm1"])
def test_the_null_is_reco_of_shuffled_answers(pairs, rates):
    maps, _, folds = example()
    correct = np.random.default_rng(4).random((FOLDS, COUNT)) < 0.7
    maps[0, 0, 0, 0] = np.nan
    found = metrics.pair_distances(maps, folds)
    options = {"key": jax.random.key(5), "draws": 12, "pairs": pairs, "rates": rates}
    got = metrics.reco_null(found, correct, folds, **options)
    np.testing.assert_allclose(got, brute_null(found, correct, folds, **options), atol=1e-6)
    assert len(np.unique(got)) > 4


def test_the_null_of_pairs_is_that_of_kolmogorov_and_smirnov():
    """Independent pairs: SciPy's exact one-sided p-values are those of the draws."""
    random = np.random.default_rng(0)
    folds = np.arange(60) % 3
    correct = random.random((3, 60)) < 0.7
    found = random.random((60, 3)).astype("f4")
    found[np.arange(60), folds] = np.nan
    sets = metrics.split_pairs(found, correct, folds)
    a, d = (np.asarray(values)[np.isfinite(values)] for values in sets)
    options = {"key": jax.random.key(0), "draws": 2000}
    null = np.asarray(metrics.reco_null(found, correct, folds, shuffle="pairs", **options))
    test = stats.ks_2samp(a, d, alternative="greater", method="exact")
    assert (null >= test.statistic - 1e-6).mean() == pytest.approx(test.pvalue, abs=0.04)
    by_images = metrics.reco_null(found, correct, folds, **options)
    # Distances are independent here, and so are answers: but for pairs that are both wrong
    # both shuffles have the same null.
    assert np.mean(by_images) == pytest.approx(null.mean(), rel=0.15)


def test_the_null_of_images_is_wider_where_an_images_pairs_are_alike():
    random = np.random.default_rng(1)
    folds, count = np.arange(100) % 5, 100
    own = random.random((count, 1)) < 0.7  # the other models are nearly always right
    correct = random.random((5, count)) < 0.95
    correct[folds, np.arange(count)] = own[:, 0]
    found = np.repeat(random.random((count, 1)), 5, axis=1) + 0.01 * random.random((count, 5))
    found = found.astype("f4")
    options = {"key": jax.random.key(2), "draws": 300}
    images, pairs = (
        np.quantile(metrics.reco_null(found, correct, folds, shuffle=by, **options), 0.95)
        for by in ("images", "pairs")
    )
    assert images > 1.5 * pairs


def test_the_null_needs_a_key(untyped):
    maps, correct, folds = example()
    found = metrics.pair_distances(maps, folds)
    for key, got in (
        (None, "None"),
        (3, "3"),
        (jax.random.split(jax.random.key(0)), r"\[2\] keys"),
    ):
        with pytest.raises(ValueError, match=f"key: got {got}.*, takes one jax.random.key"):
            metrics.reco_null(found, correct, folds, key=key)
    for option, value in (("draws", 0), ("shuffle", "folds"), ("pairs", "all"), ("rates", "no")):
        with pytest.raises(ValueError, match=f"{option}: got "):
            options = {"key": jax.random.key(0), option: value}
            metrics.reco_null(found, correct, folds, **options)


def test_pairs_are_sorted_without_new_distances():
    maps, correct, folds = example()
    found = metrics.pair_distances(maps, folds)
    assert np.isnan(found[np.arange(COUNT), folds]).all()
    assert np.isfinite(found).sum() == COUNT * (FOLDS - 1)
    for pairs in PAIRS:
        expected = metrics.distances(maps, correct, folds, pairs=pairs)
        got = metrics.split_pairs(found, correct, folds, pairs=pairs)
        np.testing.assert_array_equal(got.agreeing, expected.agreeing)
        np.testing.assert_array_equal(got.disagreeing, expected.disagreeing)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"maps_by_fold": np.zeros((1, 4, 5, 5), "f4")}, r"maps_by_fold: got 1 fold.*2 folds"),
        ({"maps_by_fold": []}, r"maps_by_fold: got 0 fold"),
        ({"maps_by_fold": np.zeros((4, 5, 5), "f4")}, r"maps_by_fold: got float32\[4, 5, 5\]"),
        ({"maps_by_fold": "maps"}, "maps_by_fold: got 'maps'"),
        (
            {"maps_by_fold": [np.zeros((4, 5, 5), "f4"), np.zeros((4, 5, 6), "f4")]},
            r"maps_by_fold\[1\]: got float32\[4, 5, 6\], takes maps of .* fold 0's, \[4, 5, 5\]",
        ),
        (
            {"maps_by_fold": [np.zeros((4, 5, 5), "f4"), np.zeros((3, 5, 5), "f4")]},
            r"maps_by_fold\[1\]: got float32\[3, 5, 5\]",
        ),
        ({"maps_by_fold": np.zeros((2, 4, 5, 5), "c8")}, r"maps_by_fold\[0\]: got complex64"),
        ({"maps_by_fold": np.zeros((2, 0, 5, 5), "f4")}, r"maps_by_fold\[0\]: got float32\[0"),
        (
            {"correct_by_fold": np.ones((2, 4), int)},
            r"correct_by_fold: got int64\[2, 4\], takes truth values\[fold, batch\] .*\[2, 4\]",
        ),
        ({"correct_by_fold": np.ones((2, 3), bool)}, r"correct_by_fold: got bool\[2, 3\]"),
        ({"correct_by_fold": np.ones((3, 4), bool)}, r"correct_by_fold: got bool\[3, 4\]"),
        ({"fold_of_image": np.array([0, 1, 2, 0])}, "fold_of_image: got fold 2, takes folds 0 to"),
        ({"fold_of_image": np.array([0, 1, -1, 0])}, "fold_of_image: got fold -1, takes folds 0"),
        ({"fold_of_image": np.array([0, 1, 1])}, r"fold_of_image: got int64\[3\].* 4 images"),
        ({"fold_of_image": np.zeros(4)}, r"fold_of_image: got float64\[4\], takes integers"),
        ({"distance": "cosine"}, "distance: got 'cosine', takes 'spearman' or"),
        ({"distance": lambda a, b: a}, r"distance: got one that returns float32\[4, 5, 5\]"),
        ({"pairs": "both"}, "pairs: got 'both', takes 'xor' or 'algorithm1'"),
        ({"batch_size": 0}, "batch_size: got 0, takes a whole number above 0"),
    ],
    ids=lambda value: str(value).split(" at 0x")[0],  # the same in every process
)
def test_refuses_bad_input(untyped, changed, message):
    arguments = {
        "maps_by_fold": np.zeros((2, 4, 5, 5), "f4"),
        "correct_by_fold": np.ones((2, 4), bool),
        "fold_of_image": np.array([0, 1, 0, 1]),
    }
    with pytest.raises(ValueError, match=message):
        metrics.distances(**{**arguments, **changed})


def test_measures_refuse_bad_input(untyped):
    some = np.float32([0.1, 0.2])
    for measure in (metrics.reco, metrics.reco_auc):
        with pytest.raises(ValueError, match="rates: got 'fair', takes 'usual' or 'printed'"):
            measure(some, some, rates="fair")
        with pytest.raises(ValueError, match="disagreeing: got 'none', takes an array of dist"):
            measure(some, "none")
    with pytest.raises(ValueError, match=r"agreeing: got bool\[2\], takes an array of distances"):
        metrics.mege(some > 0)
    with pytest.raises(ValueError, match=r"distances: got float32\[2\], takes floats\[batch, fold"):
        metrics.split_pairs(some, np.ones((2, 2), bool), np.array([0, 1]))

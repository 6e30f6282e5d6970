from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from scipy import stats

from jc2i.statistics import (
    Interval,
    mean_interval,
    paired_difference,
    ratio_interval,
    statistic_interval,
)


def test_mean_interval_agrees_with_student_on_normal_values():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    expected = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    interval = mean_interval(values, resamples=5000)
    assert interval.estimate == pytest.approx(values.mean())
    np.testing.assert_allclose(interval[1:3], expected, atol=0.02)
    assert interval.count == 400


def test_mean_interval_is_scipys_bca_and_not_the_percentiles():
    values = np.random.default_rng(3).exponential(size=30) ** 2
    low, high = {}, {}
    for method in ("BCa", "percentile"):
        result = stats.bootstrap((values,), np.mean, method=method, n_resamples=20_000, rng=1)
        low[method], high[method] = result.confidence_interval
    interval = mean_interval(values, resamples=20_000)
    apart = high["BCa"] - high["percentile"]
    assert apart > 0.1
    assert interval.high == pytest.approx(high["BCa"], abs=apart / 3)
    assert interval.low == pytest.approx(low["BCa"], abs=(low["BCa"] - low["percentile"]) / 3)


def test_mean_interval_covers_the_true_mean_as_often_as_it_says():
    random = np.random.default_rng(1)
    # Exponential values are skewed; the true mean is 1.
    intervals = [
        mean_interval(random.exponential(size=60), level=0.9, resamples=300, seed=i)
        for i in range(300)
    ]
    coverage = np.mean([i.low <= 1 <= i.high for i in intervals])
    # Three standard errors of 300 draws at 0.9 are 0.052.
    assert 0.9 - 0.052 < coverage < 0.9 + 0.052


def test_mean_interval_is_deterministic_and_its_seed_counts():
    values = np.random.default_rng(2).normal(size=50)
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval(values) != mean_interval(values, seed=1)


def test_values_that_are_not_finite_are_dropped_and_counted():
    interval = mean_interval(np.array([1.0, np.nan, 2.0, 3.0, np.inf]))
    assert interval == mean_interval(np.array([1.0, 2.0, 3.0]))._replace(dropped=2)
    assert (interval.count, interval.dropped) == (3, 2)


def test_constant_values_have_an_interval_of_no_width():
    assert mean_interval(np.full(7, 0.1)) == Interval(0.1, 0.1, 0.1, 7)


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert mean_interval(np.array([4.0]))[0] == 4.0
    assert np.isnan(mean_interval(np.array([4.0]))[1:3]).all()
    empty = mean_interval(np.array([np.nan]))
    assert np.isnan(empty[:3]).all() and (empty.count, empty.dropped) == (0, 1)


def test_paired_difference_sees_what_the_spread_over_images_hides():
    random = np.random.default_rng(3)
    before = random.normal(0.0, 10.0, 200)
    after = before + random.normal(0.5, 0.1, 200)
    interval = paired_difference(before, after)
    assert 0.45 < interval.low < interval.estimate < interval.high < 0.55
    assert interval.estimate == pytest.approx(np.mean(after - before))


def test_paired_difference_drops_a_pair_with_nan_on_either_side():
    before = np.array([1.0, np.nan, 3.0, 4.0])
    after = np.array([2.0, 5.0, np.nan, 6.0])
    interval = paired_difference(before, after)
    assert (interval.estimate, interval.count, interval.dropped) == (1.5, 2, 2)


def test_paired_difference_refuses_different_images(untyped):
    with pytest.raises(ValueError, match="after: got 2 values, takes one for each of the 3 before"):
        paired_difference(np.zeros(3), np.zeros(2))


def test_ratio_interval_is_wilsons():
    successes, count, z = 45, 60, stats.norm.ppf(0.975)
    ratio = successes / count
    centre = (ratio + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(ratio * (1 - ratio) / count + (z / (2 * count)) ** 2)
    interval = ratio_interval(np.arange(count) < successes)
    np.testing.assert_allclose(interval[:3], [ratio, centre - half, centre + half], rtol=1e-12)


def test_ratio_interval_has_a_width_when_all_agree():
    interval = ratio_interval(np.ones(20))
    assert interval.estimate == interval.high == 1.0
    assert 0.8 < interval.low < 0.9


def test_ratio_interval_refuses_what_is_not_an_outcome():
    with pytest.raises(ValueError, match="outcomes: got the values .*0.5.*, takes 0 and 1"):
        ratio_interval(np.array([0.5, 1.0]))


def test_statistic_interval_resamples_the_same_images_in_every_array():
    random = np.random.default_rng(4)
    x = random.normal(size=(100, 3))
    # Were the arrays resampled apart, the sums would not cancel.
    interval = statistic_interval(lambda a, b: np.abs(a - b).max(), (x, x), resamples=50)
    assert interval[:3] == (0.0, 0.0, 0.0)


def test_statistic_interval_of_a_correlation_agrees_with_fisher():
    random = np.random.default_rng(5)
    x = random.normal(size=500)
    y = 0.8 * x + 0.6 * random.normal(size=500)
    correlation = np.corrcoef(x, y)[0, 1]
    expected = np.tanh(np.arctanh(correlation) + np.array([-1.96, 1.96]) / np.sqrt(497))
    interval = statistic_interval(lambda a, b: np.corrcoef(a, b)[0, 1], (x, y))
    np.testing.assert_allclose(interval[1:3], expected, atol=0.01)


def test_bca_corrects_a_biased_statistic_where_percentiles_do_not():
    values = np.random.default_rng(6).normal(size=30)
    # The plug-in variance of a resample is too small on average, by 1 - 1/n.
    percentile = statistic_interval(np.var, (values,))
    corrected = statistic_interval(np.var, (values,), method="BCa")
    assert corrected.low > percentile.low and corrected.high > percentile.high


def test_the_interval_of_a_mean_is_bca_and_not_percentiles():
    values = np.random.default_rng(7).exponential(size=20) ** 2
    low, high = {}, {}
    for method in ("BCa", "percentile"):
        random = np.random.default_rng(0)
        interval = stats.bootstrap(
            (values,), np.mean, method=method, n_resamples=2000, rng=random, batch=100
        )
        low[method], high[method] = interval.confidence_interval
    got = mean_interval(values)
    np.testing.assert_allclose(got[1:3], [low["BCa"], high["BCa"]], rtol=1e-12)
    assert high["BCa"] > 1.1 * high["percentile"]


def test_numpy_scalars_half_floats_and_truth_values_are_numbers(untyped):
    values = np.array([0.5, 1, 2, 4])
    expected = mean_interval(values, level=0.5, resamples=50, seed=3)
    options = {"level": np.array(0.5), "resamples": np.int64(50), "seed": np.array(3)}
    for dtype in (np.float16, ">f4", ml_dtypes.bfloat16):
        assert mean_interval(values.astype(dtype), **options) == expected
    assert ratio_interval(values > 1).estimate == 0.5


@pytest.mark.parametrize("option", ["level", "resamples", "seed"])
@pytest.mark.parametrize("value", ["a", None, -1, True, np.nan, [1]])
def test_options_of_a_wrong_type_are_refused(untyped, option, value):
    with pytest.raises(ValueError, match=f"^{option}: got .*, takes "):
        mean_interval(np.arange(5.0), **{option: value})


@pytest.mark.parametrize("values", [["a", "b"], [1j, 2], [None, 1.0]])
def test_values_that_are_no_real_numbers_are_refused(untyped, values):
    values = np.array(values)
    with pytest.raises(ValueError, match=r"^values: got .*\[2\], takes real numbers"):
        mean_interval(values)
    with pytest.raises(ValueError, match=r"^after: got .*\[2\], takes real numbers"):
        paired_difference(np.zeros(2), values)


def test_an_array_where_a_tuple_of_arrays_is_meant_is_refused(untyped):
    with pytest.raises(ValueError, match=r"arrays: got float64\[2, 3\], takes a tuple of arrays"):
        statistic_interval(np.mean, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="function: got 'mean', takes a function"):
        statistic_interval("mean", (np.zeros(3),))


def test_bca_falls_back_to_percentiles_where_it_is_undefined():
    interval = statistic_interval(lambda values: 2.0, (np.arange(5),), method="BCa", resamples=20)
    assert interval[:3] == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, r"level: got 1.0, takes a number in \(0, 1\)"),
        ({"resamples": 0}, "resamples: got 0, takes an integer, at least 1"),
        ({"method": "magic"}, "method: got 'magic', takes 'percentile' or 'basic' or 'BCa'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        statistic_interval(np.mean, (np.arange(3.0),), **options)


def test_bad_arrays_are_refused(untyped):
    with pytest.raises(ValueError, match=r"arrays: got leading axes of \[2, 3\], takes the same"):
        statistic_interval(np.mean, (np.zeros(2), np.zeros(3)))
    with pytest.raises(ValueError, match=r"values: got float64\[2, 2\], takes real numbers, one"):
        mean_interval(np.zeros((2, 2)))

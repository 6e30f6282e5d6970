"""Bootstrap intervals over images, for means, paired differences and any other statistic."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Num
from scipy import stats

from jc2i import checks, pytrees
from jc2i.checks import Array, invalid


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
      estimate: the statistic on the images as they are; NaN when there is none to count.
      low: lower end of the interval; NaN below two images.
      high: upper end of the interval; NaN below two images.
      count: number of images (or pairs) used.
      dropped: number of images (or pairs) left out because a value was not finite.
    """

    estimate: float
    low: float
    high: float
    count: int
    dropped: int = 0

    def columns(self, name: str) -> dict[str, float | int]:
        """The interval as columns of a table: `name`, `name_low`, `name_high`, `name_count`."""
        return {
            name: self.estimate,
            f"{name}_low": self.low,
            f"{name}_high": self.high,
            f"{name}_count": self.count,
        }


def mean_interval(
    values: Num[Array, " images"] | Bool[Array, " images"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over images with a bootstrap interval (BCa; Efron 1987).

    Values that are not finite are dropped and counted. The interval of constant values is the
    value itself.

    Args:
      values: one value an image, in any unit.
      level: confidence level, in (0, 1).
      resamples: bootstrap resamples, at least 1.
      seed: seed of the resampling; the same seed gives the same interval.

    Returns:
      The mean and its interval, in the unit of the values.

    Raises:
      ValueError: when `values` is not one-dimensional, or an option is out of range.
    """
    values = _vector("values", values)
    finite = np.isfinite(values)
    return _bootstrap(
        values[finite],
        np.mean,
        vectorized=True,
        method="BCa",
        dropped=int((~finite).sum()),
        level=level,
        resamples=resamples,
        seed=seed,
    )


def paired_difference(
    before: Num[Array, " images"] | Bool[Array, " images"],
    after: Num[Array, " images"] | Bool[Array, " images"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `after - before` over the same images, with a bootstrap interval over pairs.

    A pair is dropped, and counted, when either of its values is not finite.

    Args:
      before: one value an image.
      after: one value for each of the same images, in the same order and unit.
      level: confidence level, in (0, 1).
      resamples: bootstrap resamples, at least 1.
      seed: seed of the resampling; the same seed gives the same interval.

    Returns:
      The mean difference and its interval; `count` is the number of pairs used.

    Raises:
      ValueError: when the two do not have one value for each of the same images.
    """
    before, after = _vector("before", before), _vector("after", after)
    if before.shape != after.shape:
        raise invalid("after", f"{len(after)} values", f"one for each of the {len(before)} before")
    paired = np.isfinite(before) & np.isfinite(after)
    interval = mean_interval(
        after[paired] - before[paired], level=level, resamples=resamples, seed=seed
    )
    return interval._replace(dropped=int((~paired).sum()))


def ratio_interval(
    outcomes: Num[Array, " images"] | Bool[Array, " images"], *, level: float = 0.95
) -> Interval:
    """Fraction of images for which something holds, with Wilson's score interval (1927).

    Unlike a bootstrap interval it has a width when all images agree.

    Args:
      outcomes: one an image: true or 1, false or 0; NaN is dropped and counted.
      level: confidence level, in (0, 1).

    Returns:
      The fraction, in [0, 1], and its interval.

    Raises:
      ValueError: when an outcome is neither 0 nor 1, or `level` is out of range.
    """
    outcomes = _vector("outcomes", outcomes)
    kept = outcomes[~np.isnan(outcomes)]
    if not np.isin(kept, (0, 1)).all():
        raise invalid("outcomes", f"the values {np.unique(kept)[:5]}", "0 and 1")
    level = _level(level)
    dropped = len(outcomes) - len(kept)
    if not len(kept):
        return Interval(np.nan, np.nan, np.nan, 0, dropped)
    test = stats.binomtest(int(kept.sum()), len(kept))
    low, high = test.proportion_ci(confidence_level=level, method="wilson")
    return Interval(float(kept.mean()), float(low), float(high), len(kept), dropped)


def statistic_interval(
    function: Callable[..., float],
    arrays: Sequence[Array],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: str = "percentile",
) -> Interval:
    """Any statistic of a set of images with a bootstrap interval, such as a calibration error.

    Images are resampled with replacement, the same ones in every array, so the difference of
    two statistics of the same images is paired:
    `statistic_interval(lambda p, q, y: error(q, y) - error(p, y), (p, q, labels))`.

    Args:
      function: `function(*arrays)`, the statistic of the images it is handed.
      arrays: arrays whose leading axis is the images.
      level: confidence level, in (0, 1).
      resamples: bootstrap resamples, at least 1.
      seed: seed of the resampling; the same seed gives the same interval.
      method: `"percentile"`, `"basic"` or `"BCa"`. The last corrects for a biased statistic
        and calls the function once more for each image.

    Returns:
      The statistic and its interval.

    Raises:
      ValueError: when the arrays differ in their number of images, or an option is out of range.
    """
    checks.require(callable(function), "function", checks.describe(function), "a function")
    if not isinstance(arrays, list | tuple):
        raise invalid("arrays", checks.describe(arrays), "a tuple of arrays")
    takes = "a tuple of arrays of the same images"
    for one in arrays:
        checks.require_concrete("arrays", one, takes)
        checks.require(checks.is_array(one), "arrays", f"{checks.describe(one)} among them", takes)
    hosted = [np.asarray(array) for array in arrays]
    counts = sorted({array.shape[0] if array.ndim else 0 for array in hosted})
    if len(counts) != 1 or counts[0] == 0:
        raise invalid("arrays", f"leading axes of {counts}", "the same images, at least one")

    def statistic(chosen: np.ndarray) -> float:
        with pytrees.at_fault("function", hosted[0]):
            return _number(function(*(array[chosen] for array in hosted)))

    return _bootstrap(
        np.arange(counts[0]),
        statistic,
        vectorized=False,
        method=method,
        dropped=0,
        level=level,
        resamples=resamples,
        seed=seed,
    )


def _bootstrap(
    values: np.ndarray,
    statistic: Callable[..., float],
    *,
    vectorized: bool,
    method: str,
    dropped: int,
    level: float,
    resamples: int,
    seed: int,
) -> Interval:
    level = _level(level)
    resamples = checks.whole("resamples", resamples, "an integer, at least 1", most=10**6)
    seed = checks.whole("seed", seed, "an integer, at least 0", least=0, most=2**128)
    checks.one_of("method", method, ("percentile", "basic", "BCa"))
    if not len(values):
        return Interval(np.nan, np.nan, np.nan, 0, dropped)
    estimate = float(statistic(values))
    if len(values) == 1:
        return Interval(estimate, np.nan, np.nan, 1, dropped)
    if vectorized and (values == values[0]).all():
        # The mean of equal numbers may differ from them in its last bit.
        constant = float(values[0])
        return Interval(constant, constant, constant, len(values), dropped)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # BCa of a statistic whose resamples all agree is 0/0; the percentiles stand in below.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        # A single resample has no spread, which is not asked for.
        warnings.filterwarnings("ignore", "Degrees of freedom", RuntimeWarning)
        result = stats.bootstrap(
            (values,),
            statistic,
            vectorized=vectorized,
            method=method,
            n_resamples=resamples,
            confidence_level=level,
            rng=np.random.default_rng(seed),
            batch=100 if vectorized else None,
        )
    low, high = result.confidence_interval
    if not np.isfinite([low, high]).all():
        tail = (1 - level) / 2
        low, high = np.quantile(result.bootstrap_distribution, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), len(values), dropped)


def _number(result: Any) -> float:
    """What a statistic returned, which may be NaN."""
    takes = "one that returns a number"
    return checks.number("function", result, takes, lambda number: True, traced=False)


def _vector(argument: str, values: Array) -> np.ndarray:
    return checks.vector(argument, values, "real numbers, one an image")


def _level(level: float) -> float:
    takes = "a number in (0, 1)"
    number = checks.number("level", level, takes, traced=False)
    checks.require(number < 1, "level", level, takes)
    return number

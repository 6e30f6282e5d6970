"""Intervals over images and folds, of measures of pairs of models.

An image's pairs go together, and a model's: neither are pairs independent. So the variance of a
measure is estimated twice, over images by the bootstrap (all pairs of an image are drawn with it)
and over folds by the jackknife (each fold's model and images left out in turn), and added: the
folds' part holds some of the images' again, which errs on the side of width. As folds are few, the
half-width is that standard error times Student's 97.5 % quantile of k - 1 degrees of freedom: 2.78
for five folds. Two folds make one pair of models, which have no such interval.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from jc2i.statistics import Interval

Select = Callable[[np.ndarray], np.ndarray]
"""What a statistic asks its values from: of an array with one row an image, [images, folds] or
[images], the rows of a resample, NaN where a left-out fold has a part."""


def interval(
    statistic: Callable[[Select], float],
    fold_of_image: np.ndarray,
    k: int,
    *,
    resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """A statistic of pairs of models with its interval over images and folds.

    Args:
      statistic: takes a function that selects from arrays of pairs, [images, folds]: at [i, j] the
        value of image i between the model that was not trained on it and model j; or from arrays of
        one value an image, of the model that was not trained on it.
      fold_of_image: the fold of each image, [images].
      k: the number of folds.
      resamples: bootstrap resamples.
      seed: of the resampling: statistics of the same images have the same resamples.
      level: of the interval.

    Returns:
      The statistic of all, and its interval; `count` is the number of images.
    """
    count = len(fold_of_image)

    def of(images: np.ndarray, kept: np.ndarray) -> float:
        def select(values: np.ndarray) -> np.ndarray:
            chosen = np.where(
                kept[fold_of_image[images]].reshape(-1, *(1,) * (values.ndim - 1)),
                values[images],
                np.nan,
            )
            return chosen if values.ndim == 1 else np.where(kept, chosen, np.nan)

        return statistic(select)

    every, all_folds = np.arange(count), np.ones(k, bool)
    estimate = of(every, all_folds)
    if k < 3 or not np.isfinite(estimate):
        return Interval(estimate, np.nan, np.nan, count)
    random = np.random.default_rng(seed)
    drawn = [of(random.integers(0, count, count), all_folds) for _ in range(resamples)]
    without = np.array([of(every, np.arange(k) != fold) for fold in range(k)])
    over_images = np.nanvar(drawn, ddof=1) if np.isfinite(drawn).sum() > 1 else np.nan
    over_folds = (k - 1) / k * np.square(without - without.mean()).sum()
    half = stats.t.ppf((1 + level) / 2, k - 1) * np.sqrt(over_images + over_folds)
    return Interval(estimate, float(estimate - half), float(estimate + half), count)

"""MeGe and ReCo of two sets of distances."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jc2i import checks
from jc2i.precision import own_promotion


@own_promotion()
def mege(agreeing: Float[checks.Array, ...]) -> Float[Array, ""]:
    """Mean generalizability: how near explanations stay when the image leaves the training set.

    (1 + mean of S=)^-1, MeGe (5). Higher is more general. It is in the unit of the distance: of
    distances in [0, 1] it is in [1/2, 1], however different the maps are, and of two distances the
    smaller gives the larger MeGe. Random maps of n pixels have a mean 1 - |rho| of about
    1 - sqrt(2 / (pi n)), so that "no better than chance" is just above 1/2. A product with the
    input makes maps alike whatever the models are (section 4.4).

    Args:
      agreeing: the distances of pairs that agree, of any shape; those not finite do not count.

    Returns:
      One number in (0, 1]; 1 for identical explanations; NaN if there is no pair.

    Raises:
      ValueError: if there are no numbers.
    """
    return _mege(_floats("agreeing", agreeing))


@own_promotion()
def reco(
    agreeing: Float[checks.Array, ...],
    disagreeing: Float[checks.Array, ...],
    *,
    rates: str = "usual",
) -> Float[Array, ""]:
    """Relative consistency: how well one distance tells pairs that agree from those that do not.

    The largest TPR(g) + TNR(g) - 1 over all distances g in S= and S≠, MeGe (6), in
    O(n log n) however many there are.

    `rates="usual"` takes the rates of a classifier: TPR, the part of S= at most g, and TNR, the
    part of S≠ above g. It is the one-sided Kolmogorov-Smirnov statistic of the two sets: 1 where
    they are apart with S= below, 0 where S= is nowhere ahead, and by chance about
    sqrt(ln 2 / 2 (1/|S=| + 1/|S≠|)) (its median for independent pairs; `reco_null` for those at
    hand). What MeGe's section 3.5 says in words, the maximal balanced accuracy, is this one; so is
    the authors' library but for thresholds left out and ties.

    `rates="printed"` takes the section's formulas: TPR, the part that S= has of all distances
    below g, and TNR, the part that S≠ has of all above g. Those are precisions. A threshold at
    which one of them is of nothing (0/0: the lowest and the highest distance) does not count.
    **It misleads**: near either end a rate is that of a handful of distances, so that the maximum
    is large by chance (.9 on identical sets), it moves with how many pairs disagree, and where S≠
    is below S= it is negative. For hand-worked sets and old tables alone.

    Args:
      agreeing: distances of pairs that agree, S=, of any shape; those not finite do not count.
      disagreeing: distances of pairs that disagree, S≠.
      rates: `"usual"` or `"printed"`.

    Returns:
      One number in [0, 1] (usual) or [-1, 1] (printed); NaN where a set is empty, or no threshold
      counts.

    Raises:
      ValueError: if there are no numbers; for other rates.
    """
    agreeing, disagreeing = _floats("agreeing", agreeing), _floats("disagreeing", disagreeing)
    checks.one_of("rates", rates, RATES)
    return _reco(agreeing, disagreeing, rates)


RATES = ("usual", "printed")


@own_promotion()
def reco_auc(
    agreeing: Float[checks.Array, ...],
    disagreeing: Float[checks.Array, ...],
    *,
    rates: str = "usual",
) -> Float[Array, ""]:
    """The mean over thresholds of the balanced accuracy whose maximum `reco` is.

    1/|S| sum over g in S of (TPR(g) + TNR(g) - 1), MeGe appendix D: g is every distance, one that
    occurs twice counts twice. With the usual rates it is at most one half, where the sets are
    apart: without ties it is the area under the ROC curve less one half, below zero where S≠ is
    the lower set. The printed rates mislead as in `reco`, though a mean less than a maximum does;
    thresholds at which one is 0/0 are left out of the mean.

    Args:
      agreeing: distances of pairs that agree, S=, of any shape; those not finite do not count.
      disagreeing: distances of pairs that disagree, S≠.
      rates: as in `reco`.

    Returns:
      One number, in [-1/2, 1/2] for the usual rates; NaN as in `reco`.

    Raises:
      ValueError: if there are no numbers; for other rates.
    """
    agreeing, disagreeing = _floats("agreeing", agreeing), _floats("disagreeing", disagreeing)
    checks.one_of("rates", rates, RATES)
    return _reco_auc(agreeing, disagreeing, rates)


def _floats(argument: str, values: Any) -> Array:
    given = checks.array(argument, values, "an array of distances", of=("float", "integer"))
    values = jnp.asarray(checks.held(argument, given)).reshape(-1)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


@jax.jit
def _mege(agreeing: Array) -> Array:
    counted = jnp.isfinite(agreeing)
    total = _total(jnp.where(counted, agreeing, 0))
    count = counted.sum()
    mean = total / jnp.maximum(count, 1).astype(total.dtype)
    return jnp.where(count > 0, 1 / (1 + mean), jnp.nan)


def _total(values: Array) -> Array:
    """The sum of many numbers by blocks: one running sum of a million would lose digits."""
    side = max(1, math.isqrt(values.size))
    padded = jnp.pad(values, (0, -values.size % side))
    return padded.reshape(-1, side).sum(axis=1).sum()


@jax.jit(static_argnums=2)
def _reco(agreeing: Array, disagreeing: Array, rates: str) -> Array:
    return largest(*_balanced_accuracy(agreeing, disagreeing, rates), rates)


def largest(accuracy: Array, counted: Array, rates: str) -> Array:
    """ReCo, of what `accuracy_in_order` returns."""
    reco = jnp.where(counted, accuracy, -jnp.inf).max(initial=-jnp.inf)
    reco = jnp.maximum(reco, 0) if rates == "usual" else reco
    return jnp.where(counted.any(), reco, jnp.nan)


@jax.jit(static_argnums=2)
def _reco_auc(agreeing: Array, disagreeing: Array, rates: str) -> Array:
    accuracy, counted = _balanced_accuracy(agreeing, disagreeing, rates)
    count = counted.sum()
    mean = _total(jnp.where(counted, accuracy, 0)) / jnp.maximum(count, 1).astype(accuracy.dtype)
    return jnp.where(count > 0, mean, jnp.nan)


def _balanced_accuracy(agreeing: Array, disagreeing: Array, rates: str) -> tuple[Array, Array]:
    """TPR + TNR - 1 at each distance in ascending order, and at which both rates are defined."""
    dtype = jnp.promote_types(agreeing.dtype, disagreeing.dtype)
    values = jnp.concatenate([agreeing.astype(dtype), disagreeing.astype(dtype)])
    agrees = jnp.arange(values.size) < agreeing.size
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)  # those not counted come last
    values, agrees = jax.lax.sort((values, agrees), num_keys=1)
    return accuracy_in_order(values, agrees, ~agrees, rates)


def accuracy_in_order(
    values: Float[Array, " pairs"],
    agrees: Bool[Array, " pairs"],
    disagrees: Bool[Array, " pairs"],
    rates: str,
) -> tuple[Float[Array, " pairs"], Bool[Array, " pairs"]]:
    """TPR + TNR - 1 at each of the distances, which are in ascending order.

    Args:
      values: the distances; those that are not finite do not count.
      agrees: which of them are of S=.
      disagrees: which of them are of S≠.
      rates: as in `reco`.

    Returns:
      The accuracies, and at which distances both rates are defined.
    """
    counted = jnp.isfinite(values) & (agrees | disagrees)
    place = jnp.arange(values.size)
    changes = values[1:] != values[:-1]
    one = jnp.ones(min(values.size, 1), bool)
    # Equal distances are below or above a threshold together.
    first = jax.lax.cummax(jnp.where(jnp.concatenate([one, changes]), place, 0))
    last = jax.lax.cummin(
        jnp.where(jnp.concatenate([changes, one]), place, values.size), reverse=True
    )

    def counts(kind: Array) -> tuple[Array, Array, Array]:
        """How many of one set are below each distance, at most there, and in all."""
        kind = (kind & counted).astype(jnp.int32)
        up_to = jnp.cumsum(kind)
        return up_to[first] - kind[first], up_to[last], kind.sum()

    def share(some: Array, of: Array) -> Array:
        return some.astype(values.dtype) / jnp.maximum(of, 1).astype(values.dtype)

    below, at_most, total = counts(agrees)
    below_other, at_most_other, total_other = counts(disagrees)
    if rates == "usual":
        counted &= (total > 0) & (total_other > 0)
        return share(at_most, total) - share(at_most_other, total_other), counted
    above, above_other = total - at_most, total_other - at_most_other
    counted &= (below + below_other > 0) & (above + above_other > 0)
    accuracy = share(below, below + below_other) + share(above_other, above + above_other) - 1
    return accuracy, counted

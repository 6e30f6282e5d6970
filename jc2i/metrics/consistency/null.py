"""What ReCo is by chance."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jc2i import checks
from jc2i.metrics.consistency.measures import RATES, accuracy_in_order, largest
from jc2i.metrics.consistency.pairs import PAIRS, answers, kinds, of_pairs
from jc2i.precision import own_promotion


@own_promotion()
def reco_null(
    distances: Float[checks.Array, "batch fold"],
    correct_by_fold: Bool[checks.Array, "fold batch"],
    fold_of_image: Int[checks.Array, " batch"],
    *,
    key: Key[Array, ""],
    draws: int = 1000,
    shuffle: str = "images",
    pairs: str = "xor",
    rates: str = "usual",
) -> Float[Array, " draws"]:
    """What ReCo is by chance: its values where distances and answers have nothing in common.

    Distances stay, and whether the models are right goes to other images at random, as often as
    there are draws. By `"images"` the answers of all models about an image go together to another
    image of the same fold: the k - 1 pairs of an image share a map and an answer, and stay as
    dependent as they are. By `"pairs"` each pair's "agree" or "disagree" goes to any other pair:
    the null of independent pairs, which is too narrow where an image's pairs are alike.

    A `reco` above all but a part p of the draws has the p-value
    (1 + number of draws at least as high) / (1 + draws); `numpy.quantile(draws, 0.95)` is what
    chance exceeds one time in twenty. Models are few, and taken as they are: this says nothing of
    other folds.

    Args:
      distances: those of `pair_distances`, also of pairs that are both wrong.
      correct_by_fold: as in `distances`.
      fold_of_image: as in `distances`.
      key: one key.
      draws: how many values, at least 1.
      shuffle: what is drawn as one, `"images"` or `"pairs"`.
      pairs: as in `distances`.
      rates: as in `reco`.

    Returns:
      One ReCo a draw, in no order; NaN where a set of that draw is empty.

    Raises:
      ValueError: for bad input, naming the argument.
    """
    found = of_pairs(distances)
    correct, folds = answers(correct_by_fold, fold_of_image, found.shape[1], found.shape[0])
    key = checks.key("key", key)
    draws = checks.whole("draws", draws, most=checks.MOST)
    checks.one_of("shuffle", shuffle, ("images", "pairs"))
    checks.one_of("pairs", pairs, PAIRS)
    checks.one_of("rates", rates, RATES)
    return _reco_null(found, correct, folds, key, draws, shuffle, pairs, rates)


@jax.jit(static_argnums=(4, 5, 6, 7))
def _reco_null(
    distances: Array,
    correct: Array,
    folds: Array,
    key: Array,
    draws: int,
    shuffle: str,
    pairs: str,
    rates: str,
) -> Array:
    values = jnp.where(jnp.isfinite(distances), distances, jnp.inf).reshape(-1)
    order = jnp.argsort(values)  # the same for every draw
    values = values[order]

    def sorted_kinds(correct: Array) -> tuple[Array, Array]:
        agree, disagree = kinds(correct, folds, pairs)
        return agree.reshape(-1)[order], disagree.reshape(-1)[order]

    agrees, disagrees = sorted_kinds(correct)
    of_a_set = jnp.isfinite(values) & (agrees | disagrees)

    def one(key: Array) -> Array:
        if shuffle == "pairs":
            drawn = agrees[_shuffled(key, of_a_set)]
            sets = drawn & of_a_set, ~drawn & of_a_set
        else:
            sets = sorted_kinds(correct[:, _shuffled(key, folds)])
        return largest(*accuracy_in_order(values, *sets, rates), rates)

    return jax.lax.map(one, jax.random.split(key, draws))


def _shuffled(key: Array, groups: Array) -> Array:
    """A random order of places in which each stays within its group."""
    place = jnp.arange(groups.size)
    draw = jax.random.uniform(key, (groups.size,))
    *_, source = jax.lax.sort((groups, draw, place), num_keys=2)
    return jnp.zeros_like(place).at[jnp.argsort(groups)].set(source)

"""What it takes to carry the mass of one saliency map to that of another."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jc2i import checks
from jc2i.normalization import Maps, as_maps, normalize
from jc2i.precision import own_promotion

STEPS = 10**9
"""Most steps of the network simplex: more than it takes."""


@own_promotion()
def wasserstein(first: Maps, second: Maps) -> Float[Array, " batch"]:
    """The 1-Wasserstein distance of two saliency maps on the image plane, in its diagonals.

    min over plans of sum_ij P_ij |x_i - x_j|_2 / sqrt((h - 1)^2 + (w - 1)^2), where a map's mass is
    its min-max normalised values by their sum, and x_i is the centre of pixel i (MeGe, appendix F;
    Flamary et al. 2021): 0 for maps of the same shape, 1 for a point in one corner and a point in
    the opposite one.

    The plan is exact, and found on the host by the network simplex of the library POT, one pair
    after another: what both maps hold at a pixel stays there, as no metric gains by moving it, and
    the rest is carried. Cost: a pair of 28x28 takes 20 ms of a CPU core, so that a million take
    five hours where ranks take two seconds. Time grows about with the cube of the number n of
    pixels (3.7 s at 64x64), and memory with its square: 2 n^2 bytes.

    Args:
      first: maps, raw or normalised, of two pixels at least.
      second: maps of the same shape.

    Returns:
      One distance a pair in [0, 1]; the mass of a constant map is the same everywhere; NaN where a
      map is not finite.

    Raises:
      ImportError: if POT is not installed.
      ValueError: if the shapes differ or are not of rank 3; under `jax.jit`, which has no values
        for the host.
    """
    takes = "arrays whose values are at hand, as transport is solved on the host: not under jax.jit"
    for name, maps in (("first", first), ("second", second)):
        checks.require(checks.is_concrete(maps), name, "a traced array", takes)
    first = as_maps("first", first)
    second = as_maps("second", second, first.shape)
    height, width = first.shape[1:]
    takes = "maps[batch, height, width] of at least two pixels"
    checks.require(height * width > 1, "first", checks.describe(first), takes)
    solver = _solver()
    places = _places(height, width)
    pairs = zip(_masses(first), _masses(second), strict=True)
    found = [_carried(solver, a, b, places) for a, b in pairs]
    return jnp.asarray(np.array(found), first.dtype)


def _masses(maps: Array) -> np.ndarray:
    """Each map's values in a row, as parts of their sum; NaN for a map that is not finite."""
    values = np.asarray(normalize(maps), np.float64).reshape(len(maps), -1)
    # A constant map is zeros once normalised.
    values = np.where(values.max(axis=1, keepdims=True) == 0, 1.0, values)
    return values / values.sum(axis=1, keepdims=True)


def _carried(solver: Any, a: np.ndarray, b: np.ndarray, places: np.ndarray) -> float:
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        return np.nan
    surplus = a - b
    sources, sinks = surplus > 0, surplus < 0
    if not sources.any() or not sinks.any():
        return 0.0
    mass = surplus[sources].sum()
    taken, given = surplus[sources] / mass, surplus[sinks] / surplus[sinks].sum()
    steps = places[sources][:, None] - places[sinks][None]
    lengths = np.sqrt(np.square(steps).sum(axis=2))
    found, log = solver(taken, given, lengths, numItermax=STEPS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"optimal transport is not solved: {log['warning']}")
    return float(found) * mass


@functools.cache
def _places(height: int, width: int) -> np.ndarray:
    """The pixels' centres, in diagonals."""
    rows, columns = np.divmod(np.arange(height * width), width)
    return np.stack([rows, columns], axis=1) / np.hypot(height - 1, width - 1)


def _solver() -> Any:
    try:
        return importlib.import_module("ot.lp").emd2
    except ImportError as error:
        install = 'the library POT solves optimal transport: pip install "jc2i[transport]"'
        raise ImportError(install) from error

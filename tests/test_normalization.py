from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import jc2i

NUMBERS = arrays(np.float32, (2, 3, 4), elements=st.integers(-(10**6), 10**6))


@settings(max_examples=50)
@given(NUMBERS)
def test_every_map_spans_zero_to_one_in_the_same_order(maps):
    normalized = np.asarray(jc2i.normalize(jnp.asarray(maps)))
    for before, after in zip(maps, normalized, strict=True):
        if np.ptp(before) == 0:
            assert (after == 0).all()
        else:
            assert after.min() == 0 and abs(after.max() - 1) < 1e-6
            order = np.argsort(before, axis=None, kind="stable")
            assert (np.diff(after.ravel()[order]) >= 0).all()


def test_a_spoilt_map_spoils_no_other():
    maps = jnp.arange(16.0).reshape(4, 2, 2).at[1, 0, 0].set(jnp.nan).at[2, 1, 1].set(jnp.inf)
    normalized = np.asarray(jc2i.normalize(maps))
    assert np.isnan(normalized[1:3]).all()
    ramp = np.arange(4).reshape(2, 2) / 3
    np.testing.assert_allclose(normalized[[0, 3]], [ramp, ramp], rtol=1e-6)


def test_constant_maps_are_told():
    maps = jnp.stack([jnp.full((3, 3), 2.0), jnp.eye(3), jnp.zeros((3, 3))])
    assert jc2i.is_constant(maps).tolist() == [True, False, True]


def test_refuses_a_single_map(untyped):
    with pytest.raises(ValueError, match=r"maps: got float32\[3, 3\], takes an array\[batch"):
        jc2i.normalize(jnp.zeros((3, 3)))

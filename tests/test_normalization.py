from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import jc2i
from jc2i.normalization import as_maps

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


@pytest.mark.parametrize(
    ("values", "right"),
    [
        # A difference below the smallest normal number, which XLA takes for zero.
        ([1.20e-38, 1.21e-38, 1.19e-38, 1.20e-38], [0.5, 1, 0, 0.5]),
        ([1e-39, 2e-39, 0, -2e-39], [0.75, 1, 0.5, 0]),
        # A difference above the largest number.
        ([3e38, -3e38, 0, 1e38], [1, 0, 0.5, 2 / 3]),
        (np.array([60000, -60000, 0, 1000], np.float16), [1, 0, 0.5, 61 / 120]),
        (np.array([-128, 127, 0, 50], np.int8), [0, 1, 128 / 255, 178 / 255]),
    ],
)
def test_finite_maps_of_any_range_become_their_min_max_form(values, right):
    maps = np.reshape(values, (1, 2, 2))
    maps = maps.astype("f4") if maps.dtype == float else maps
    np.testing.assert_allclose(jc2i.normalize(maps).ravel(), right, atol=1e-5)
    assert not jc2i.is_constant(maps)[0]


def test_ordinary_maps_keep_their_bits():
    """Scaling by a power of two changes nothing of (m - low) / (high - low)."""
    maps = np.random.default_rng(0).normal(size=(2, 5, 7)).astype("f4")
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    np.testing.assert_array_max_ulp(
        np.asarray(jc2i.normalize(maps)), (maps - low) / (high - low), maxulp=1
    )


def test_has_the_gradient_of_its_formula():
    gradient = jax.grad(lambda maps: jc2i.normalize(maps)[0, 0, 1])(jnp.array([[[0.0, 1, 2, 4]]]))
    np.testing.assert_allclose(gradient, [[[-3 / 16, 1 / 4, 0, -1 / 16]]], rtol=1e-6)


def test_constant_maps_that_are_not_finite_are_none():
    maps = jnp.stack([jnp.full((2, 2), jnp.inf), jnp.full((2, 2), jnp.nan), jnp.ones((2, 2))])
    assert jc2i.is_constant(maps).tolist() == [False, False, True]


def test_as_maps_names_its_argument_and_the_shape_asked_for(untyped):
    assert as_maps("maps", np.zeros((1, 2, 3), "u1"), (1, 2, 3)).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"^boxes: got uint8.*, takes .* of shape \[1, 3, 2\]"):
        as_maps("boxes", np.zeros((1, 2, 3), "u1"), (1, 3, 2))


def test_refuses_a_single_map(untyped):
    with pytest.raises(ValueError, match=r"maps: got float32\[3, 3\], takes an array\[batch"):
        jc2i.normalize(jnp.zeros((3, 3)))

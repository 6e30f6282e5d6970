"""What every function on saliency maps does with any dtype, setting and bad input."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import jc2i
from jc2i import metrics

FUNCTIONS = {
    "normalize": jc2i.normalize,
    "is_constant": jc2i.is_constant,
    "otsu_foreground": metrics.otsu_foreground,
    "otsu_total_variation": metrics.otsu_total_variation,
    "sparseness": metrics.sparseness,
    "entropy": metrics.entropy,
    "structural_similarity": lambda m: metrics.structural_similarity(m, m[:, ::-1], window=3),
    "spearman": lambda m: metrics.spearman(m, m[:, ::-1]),
    "spearman of magnitudes": lambda m: metrics.spearman(m, m[:, ::-1], absolute=True),
    "dice": lambda m: metrics.dice(m, m[:, ::-1], share=0.3),
    "l1_distance": lambda m: metrics.l1_distance(m, m[:, ::-1]),
    "l2_distance": lambda m: metrics.l2_distance(m, m[:, ::-1]),
    "spearman distance": lambda m: metrics.DISTANCES["spearman_root"](m, m[:, ::-1]),
}
MAPS = np.random.default_rng(0).integers(0, 128, (3, 4, 5)).astype("f4")
MAPS[2] = 7  # a constant one among them

each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@each_function
def test_maps_of_every_dtype_that_holds_them_are_the_same(untyped, function):
    expected = np.asarray(function(MAPS))
    assert expected.dtype in (np.float32, bool) and np.isfinite(expected).all()
    for dtype in ("i1", "u1", "u2", "i8", "u8", "f2", "f8", "f16", ">f4", ">i2"):
        np.testing.assert_array_equal(function(MAPS.astype(dtype)), expected, err_msg=dtype)
    for dtype in (jnp.bfloat16, jnp.float16, jnp.uint8):
        np.testing.assert_array_equal(function(jnp.asarray(MAPS, dtype)), expected)
    np.testing.assert_array_equal(function(MAPS.astype(ml_dtypes.bfloat16)), expected)
    truth = MAPS > 60
    np.testing.assert_array_equal(function(truth), function(truth.astype("f4")))


@each_function
def test_signed_integers_do_not_wrap(function):
    whole = np.array([[[-128, 127, 3], [0, 50, -7], [1, 2, 100]]], np.int8)
    np.testing.assert_array_equal(function(whole), function(whole.astype("f4")))
    large = whole.astype(np.int64) * 2**50  # of which 32 bits hold nothing
    np.testing.assert_array_equal(function(large), function(large.astype("f4")))


@each_function
@pytest.mark.parametrize("factor", [1e-43, 1e-40, 1.2e-38, 1e-20, 1e20, 1e36], ids=str)
def test_finite_maps_of_any_scale_are_never_nan(function, factor):
    scaled = (MAPS * np.float64(factor)).astype("f4")
    got, expected = np.asarray(function(scaled)), function(scaled.astype("f8") / scaled.max())
    if got.dtype == bool:
        np.testing.assert_array_equal(got, expected)
    else:
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@each_function
def test_a_range_beyond_the_largest_float(function):
    wide = np.array([[[3e38, -3e38, 0], [0, 1e38, 2e38], [1e37, -2e37, 3e37]]], "f4")
    got, expected = function(wide), function(wide * np.float32(1e-30))
    np.testing.assert_allclose(np.asarray(got, "f4"), np.asarray(expected, "f4"), atol=1e-5)


@each_function
def test_a_spoilt_map_spoils_no_other(function):
    spoilt = np.concatenate([MAPS, MAPS[:2]])
    spoilt[3, 1, 1], spoilt[4, 0, 0] = np.nan, -np.inf
    got = np.asarray(function(spoilt))
    np.testing.assert_allclose(got[:3], function(MAPS), rtol=1e-6)
    assert not got[3:].any() if got.dtype == bool else np.isnan(got[3:]).all()


@each_function
def test_strict_promotion_ranks_and_nans(function):
    expected = np.asarray(function(MAPS))
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_rank_promotion("raise"))
        stack.enter_context(jax.numpy_dtype_promotion("strict"))
        stack.enter_context(jax.debug_nans(True))
        np.testing.assert_allclose(function(MAPS), expected, rtol=1e-6)


@each_function
def test_double_precision(function):
    expected = np.asarray(function(MAPS))
    with jax.enable_x64(True):
        for maps in (MAPS, MAPS.astype("f8"), MAPS.astype("i8")):
            np.testing.assert_allclose(np.asarray(function(maps), "f8"), expected, atol=1e-5)
        assert function(MAPS.astype("f8")).dtype in (jnp.float64, bool)


@each_function
def test_under_jit_and_vmap(function):
    expected = np.asarray(function(MAPS))
    np.testing.assert_allclose(jax.jit(function)(MAPS), expected, rtol=1e-6)
    stacked = jax.vmap(function)(jnp.stack([MAPS, MAPS]))
    np.testing.assert_allclose(stacked, np.stack([expected, expected]), rtol=1e-6)


@each_function
@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (np.zeros((4, 4), "f4"), r"got float32\[4, 4\], takes an array\[batch, height, width\]"),
        (np.zeros((1, 4, 4, 1), "f4"), r"got float32\[1, 4, 4, 1\], takes an array\[batch"),
        (np.zeros((0, 4, 4), "f4"), r"got float32\[0, 4, 4\], takes .* at least one pixel"),
        (np.zeros((1, 4, 4), "c8"), r"got complex64\[1, 4, 4\], takes .* of real numbers"),
        (np.full((1, 4, 4), "a"), r"got <U1\[1, 4, 4\], takes .* of real numbers"),
        (np.full((1, 4, 4), None), r"got object\[1, 4, 4\], takes .* of real numbers"),
        (np.full((1, 4, 4), 1e300), "got larger values in float64"),
    ],
    ids=["rank 2", "rank 4", "empty", "complex", "words", "objects", "beyond float32"],
)
def test_refuses_what_is_no_map(untyped, function, maps, message):
    with pytest.raises(ValueError, match=f"^(maps|first): {message}"):
        function(maps)


@pytest.mark.parametrize("name", ["normalize", "is_constant"])
def test_refuses_what_is_no_array(untyped, name):
    for value in ([[[1.0, 2.0]]], "map.png", None, 3.0):
        with pytest.raises(ValueError, match=r"maps: got .*, takes an array\[batch"):
            FUNCTIONS[name](value)

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jc2i import metrics, parallel
from jc2i.removal import gaussian_blur

HEIGHT, WIDTH = 8, 6
PIXELS = HEIGHT * WIDTH
KEY = jax.random.key(11)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sum:
    """Class 0's score is a weighted sum of the pixels, class 1's twice that, plus 1."""

    weight: jax.Array

    def __call__(self, images):
        score = jnp.einsum("bhwc,hw->b", images, self.weight, precision="highest")
        return jnp.stack([score, 2 * score + 1], axis=1)


@pytest.fixture(scope="module")
def model():
    random = np.random.default_rng(0)
    return Sum(jnp.asarray(random.uniform(0.1, 2, (HEIGHT, WIDTH)), jnp.float32))


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(1)
    return random.uniform(0.2, 1, (8, HEIGHT, WIDTH, 1)).astype("f4")


@pytest.fixture(scope="module")
def contributions(model, images):
    """What each pixel adds to the score: the perfect map."""
    return np.asarray(model.weight) * images[..., 0]


@pytest.fixture(scope="module")
def maps():
    """Maps with many ties: most pixels 0, as Meaningful Perturbation's."""
    random = np.random.default_rng(2)
    return np.maximum(random.integers(-6, 4, (8, HEIGHT, WIDTH)), 0).astype("f4")


TARGETS = np.arange(8) % 2


def curve_by_loop(model, image, target, saliency, steps, fill, permutation, insertion=False):
    """A deletion (insertion) curve of one image, pixel by pixel."""
    order = sorted(permutation, key=lambda pixel: -saliency.flat[pixel])  # sorted() is stable
    values = []
    for k in range(1, steps + 1):
        gone = order[: round(k * PIXELS / steps)]
        changed, source = (fill.copy(), image) if insertion else (image.copy(), fill)
        for pixel in gone:
            changed[np.unravel_index(pixel, (HEIGHT, WIDTH))] = source[
                np.unravel_index(pixel, (HEIGHT, WIDTH))
            ]
        values.append(float(model(changed[None])[0, target]))
    return np.array(values)


def tie_order(key):
    return np.asarray(jax.random.permutation(key, PIXELS))


@pytest.mark.parametrize("steps", [12, 7, 48])
def test_deletion_equals_a_loop(model, images, maps, steps):
    got = metrics.deletion_curve(
        model, images, TARGETS, maps, steps=steps, baseline=0.1, tie_key=KEY
    )
    for i in (0, 3):
        clean = float(model(images[i : i + 1])[0, TARGETS[i]])
        fill = np.full_like(images[i], 0.1)
        loop = curve_by_loop(model, images[i], TARGETS[i], maps[i], steps, fill, tie_order(KEY))
        np.testing.assert_allclose(got[i], loop / clean, rtol=1e-5)


def test_insertion_equals_a_loop(model, images, maps):
    fill = np.full_like(images, 0.1)
    got = metrics.insertion_curve(
        model, images, TARGETS, maps, steps=12, baseline=fill, tie_key=KEY
    )
    for i in (0, 3):
        loop = curve_by_loop(
            model, images[i], TARGETS[i], maps[i], 12, fill[i], tie_order(KEY), insertion=True
        )
        np.testing.assert_allclose(got[i], loop, rtol=1e-5)


def test_insertion_mirrors_deletion_of_a_sum(model, images, maps):
    """With a black baseline what is inserted is what deletion took away."""
    options = {"steps": 16, "baseline": 0.0, "normalize": True}
    targets = np.zeros(8, int)
    inserted = metrics.insertion_curve(model, images, targets, maps, **options)
    deleted = metrics.deletion_curve(model, images, targets, maps, **options)
    np.testing.assert_allclose(inserted + deleted, 1, atol=1e-5)


def test_blurred_baseline_ends_at_the_blurred_image(model, images, maps):
    curve = metrics.deletion_curve(model, images, TARGETS, maps, steps=4)
    blurred, clean = (
        np.asarray(model(x))[np.arange(8), TARGETS]
        for x in (gaussian_blur(jnp.asarray(images)), images)
    )
    np.testing.assert_allclose(curve[:, -1], blurred / clean, rtol=1e-5)


def areas(model, images, maps):
    curve = metrics.deletion_curve(
        model, images, np.zeros(len(images), int), maps, steps=16, baseline=0.0
    )
    return np.asarray(metrics.area(curve))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), levels=st.integers(1, 50))
def test_perfect_and_inverted_maps_bracket_all_others(model, images, contributions, seed, levels):
    random = np.random.default_rng(seed)
    any_maps = random.integers(0, levels, contributions.shape).astype("f4")
    best, worst = areas(model, images, contributions), areas(model, images, -contributions)
    other = areas(model, images, any_maps)
    assert (best <= other + 1e-5).all() and (other <= worst + 1e-5).all()
    assert (best < worst).all()


def test_constant_maps_go_in_the_order_of_one_permutation(model, images):
    """The same pixels leave every image, in the order of the permutation, whatever the value."""
    constant = np.zeros((8, HEIGHT, WIDTH), "f4") + np.arange(8, dtype="f4")[:, None, None]
    order = metrics.fidelity.removal_order(jnp.asarray(constant), KEY)
    expected = np.empty(PIXELS)
    expected[tie_order(KEY)] = np.arange(PIXELS) / PIXELS
    for one in np.asarray(order):
        np.testing.assert_allclose(one.ravel(), expected, atol=1e-7)


def test_ties_are_broken_alike_on_both_sides_of_a_comparison(model, images, maps):
    def curve(maps, **options):
        return np.asarray(metrics.deletion_curve(model, images, TARGETS, maps, steps=12, **options))

    # A map of the same order, elsewhere in the batch and on another scale.
    np.testing.assert_array_equal(curve(maps), curve(maps * 5 - 1))
    np.testing.assert_array_equal(curve(maps), curve(maps, tie_key=jax.random.key(0)))
    assert (curve(maps) != curve(maps, tie_key=KEY)).any()


def test_a_map_that_is_not_finite_is_nan_alone(model, images, maps):
    whole = np.asarray(metrics.deletion_curve(model, images, TARGETS, maps, steps=6))
    broken = maps.copy()
    broken[2, 0, 0], broken[5, 1, 1] = np.nan, np.inf
    got = np.asarray(metrics.deletion_curve(model, images, TARGETS, broken, steps=6))
    assert np.isnan(got[[2, 5]]).all()
    rest = [0, 1, 3, 4, 6, 7]
    np.testing.assert_array_equal(got[rest], whole[rest])


def segments_of_rows():
    """One superpixel a row, numbered with gaps."""
    return np.repeat(np.arange(HEIGHT) * 3, WIDTH).reshape(1, HEIGHT, WIDTH).repeat(8, 0)


def test_random_deletion_removes_whole_superpixels(images):
    """On a sum, rows of weight 8^row: each value tells which rows are gone."""
    model = Sum(jnp.broadcast_to(2.0 ** jnp.arange(HEIGHT)[:, None] / WIDTH, (HEIGHT, WIDTH)))
    curve = metrics.random_deletion_curve(
        model,
        np.ones_like(images),
        np.zeros(8, int),
        key=KEY,
        segments=segments_of_rows(),
        orders=1,
        steps=HEIGHT,
        baseline=0.0,
        normalize=False,
    )
    left = np.asarray(curve)
    np.testing.assert_allclose(left, left.round(), atol=1e-4)  # never a part of a row
    bits = (left.round().astype(int)[..., None] >> np.arange(HEIGHT)) & 1
    # One row more is gone at each step, in another order in each image.
    np.testing.assert_array_equal(bits.sum(-1), np.arange(HEIGHT)[::-1] * np.ones((8, 1)))
    assert (np.diff(bits, axis=1) <= 0).all()
    assert len({one.tobytes() for one in bits}) == 8


def test_random_deletion_goes_by_the_fraction_of_pixels():
    """Two superpixels, of 40 and 8 pixels: a step removes one once most of it fits."""
    segments = np.zeros((8, HEIGHT, WIDTH), int)
    segments.reshape(8, -1)[:, 40:] = 1
    model = Sum(jnp.ones((HEIGHT, WIDTH)))
    curve = metrics.random_deletion_curve(
        model,
        np.ones((8, HEIGHT, WIDTH, 1), "f4"),
        np.zeros(8, int),
        key=KEY,
        segments=segments,
        orders=1,
        steps=PIXELS,
        baseline=0.0,
        normalize=False,
    )
    large_first = [48] * 20 + [8] * 24 + [0] * 4
    small_first = [48] * 4 + [40] * 24 + [0] * 20
    expected = {tuple(large_first), tuple(small_first)}
    assert {tuple(one) for one in np.asarray(curve).round().astype(int)} == expected


def test_random_deletion_of_single_pixels_falls_linearly_on_average(model, images):
    """Superpixels of one pixel and a sum: after k of n pixels, (n - k) / n is left on average."""
    segments = np.arange(PIXELS).reshape(1, HEIGHT, WIDTH).repeat(8, 0)
    orders = 200
    curve = metrics.random_deletion_curve(
        model,
        images,
        np.zeros(8, int),
        key=KEY,
        segments=segments,
        orders=orders,
        steps=12,
        baseline=0.0,
    )
    expected = 1 - np.arange(1, 13) / 12
    np.testing.assert_allclose(curve, np.tile(expected, (8, 1)), atol=0.03)
    # Standard error of each image's curve at most 0.5 / sqrt(200 x 48 / 12): 5 of them above.
    np.testing.assert_allclose(np.mean(curve, axis=0), expected, atol=0.01)


def test_random_orders_are_averaged(model, images):
    """Order j of an image is drawn from its key and j: more orders extend the fewer."""

    def curve(orders):
        return np.asarray(
            metrics.random_deletion_curve(
                model,
                images,
                np.zeros(8, int),
                key=KEY,
                segments=segments_of_rows(),
                orders=orders,
                steps=HEIGHT,
                baseline=0.0,
            )
        )

    one = curve(1)
    second = 2 * curve(2) - one
    assert np.abs(second - one).max() > 0.1
    # The second order's curve is one of whole rows too: its steps are the rows' shares.
    rows = np.einsum("bhwc,hw->bh", images, np.asarray(model.weight))
    shares = np.sort(rows / rows.sum(1, keepdims=True), axis=1)
    steps = -np.diff(np.concatenate([np.ones((8, 1)), second], axis=1), axis=1)
    np.testing.assert_allclose(np.sort(steps, axis=1), shares, atol=1e-5)


def test_area_is_the_mean():
    curve = np.random.default_rng(0).random((3, 10)).astype("f4")
    np.testing.assert_allclose(metrics.area(curve), curve.mean(1), rtol=1e-6)


def test_the_trapezoid_is_numpys_over_fractions_from_0_to_1():
    curve = np.random.default_rng(0).random((3, 11)).astype("f4")
    got = metrics.area(curve, rule="trapezoid")
    np.testing.assert_allclose(got, np.trapezoid(curve, dx=0.1, axis=1), rtol=1e-6)
    # As Petsiuk's notebooks write it.
    auc = (curve.sum(1) - curve[:, 0] / 2 - curve[:, -1] / 2) / (curve.shape[1] - 1)
    np.testing.assert_allclose(got, auc, rtol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rule": "simpson"}, "rule: got 'simpson', takes 'mean' or 'trapezoid'"),
        ({"rule": "trapezoid"}, r"curve: got float32\[3, 1\], takes curves.*start=True"),
    ],
)
def test_area_refuses_bad_input(untyped, changed, message):
    with pytest.raises(ValueError, match=message):
        metrics.area(np.ones((3, 1), "f4"), **changed)


@pytest.mark.parametrize("normalize", [False, True])
def test_curves_from_their_start(model, images, maps, normalize):
    options = {"steps": 6, "baseline": 0.1, "normalize": normalize}
    clean = np.asarray(model(images))[np.arange(8), TARGETS]
    blank = np.asarray(model(np.full_like(images, 0.1)))[np.arange(8), TARGETS]
    unit = clean if normalize else np.ones(8)
    for curve, first in ((metrics.deletion_curve, clean), (metrics.insertion_curve, blank)):
        rest = curve(model, images, TARGETS, maps, **options)
        whole = curve(model, images, TARGETS, maps, start=True, **options)
        np.testing.assert_allclose(whole[:, 0], first / unit, rtol=1e-5)
        np.testing.assert_allclose(whole[:, 1:], rest, rtol=1e-5)
    arguments = (model, images, TARGETS)
    options |= {"key": KEY, "segments": segments_of_rows(), "orders": 2}
    rest = metrics.random_deletion_curve(*arguments, **options)
    whole = metrics.random_deletion_curve(*arguments, start=True, **options)
    np.testing.assert_allclose(whole[:, 0], clean / unit, rtol=1e-5)
    np.testing.assert_allclose(whole[:, 1:], rest, rtol=1e-5)


def test_better_than_random():
    areas = np.array([0.1, 0.5, 0.3, np.nan, 0.1], "f4")
    random_areas = np.array([0.2, 0.4, 0.3, 0.2, np.nan], "f4")
    got = metrics.better_than_random(areas, random_areas)
    np.testing.assert_array_equal(got, [1, 0, 0, np.nan, np.nan])


def deletion(model, images, targets, maps, segments, keys, **options):
    return metrics.deletion_curve(model, images, targets, maps, steps=12, **options)


def insertion(model, images, targets, maps, segments, keys, **options):
    return metrics.insertion_curve(model, images, targets, maps, steps=6, **options)


def random_deletion(model, images, targets, maps, segments, keys, **options):
    return metrics.random_deletion_curve(
        model, images, targets, key=keys, segments=segments, orders=2, steps=12, **options
    )


@pytest.mark.parametrize("curve", [deletion, insertion, random_deletion])
def test_does_not_depend_on_batch_chunk_or_devices(model, images, maps, curve):
    batch = (images, TARGETS, maps, segments_of_rows())
    whole = np.asarray(curve(model, *batch, KEY))
    for batch_size in (3, 16):  # below the batch, and two variants of each image
        chunked = curve(model, *batch, KEY, batch_size=batch_size)
        np.testing.assert_allclose(chunked, whole, rtol=1e-5)
    for i in (0, 5):
        one = curve(model, *(x[i : i + 1] for x in batch), jax.random.fold_in(KEY, i)[None])
        np.testing.assert_allclose(one[0], whole[i], rtol=1e-5)
    mesh = parallel.mesh()
    assert mesh.size == 8
    mapped = parallel.map_batches(
        lambda *arrays: curve(model, *arrays), batch, 8, key=KEY, mesh=mesh, progress=False
    )
    np.testing.assert_allclose(mapped, whole, rtol=1e-5)


def test_other_weights_do_not_recompile(images, maps):
    traces = []

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Counted:
        weight: jax.Array

        def __call__(self, images):
            traces.append(1)
            return Sum(self.weight)(images)

    for scale in (1.0, 2.0, 3.0):
        counted = Counted(scale * jnp.ones((HEIGHT, WIDTH)))
        metrics.deletion_curve(counted, images, TARGETS, maps, steps=3)
        if scale == 1.0:
            first = len(traces)
    assert len(traces) == first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"maps": np.zeros((8, 5, 5), "f4")}, r"maps: got float32\[8, 5, 5\], takes an array"),
        ({"targets": np.full(8, 2)}, "targets: got class 2, takes classes 0 to 1"),
        ({"steps": 0}, "steps: got 0, takes a whole number above 0"),
        ({"baseline": "mean"}, "baseline: got 'mean', takes 'blur'"),
        ({"batch_size": 0}, "batch_size: got 0, takes a whole number"),
    ],
)
def test_deletion_refuses_bad_input(untyped, model, images, maps, changed, message):
    arguments = {"images": images, "targets": TARGETS, "maps": maps} | changed
    with pytest.raises(ValueError, match=message):
        metrics.deletion_curve(model, **arguments)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"key": None}, "key: got None, takes a jax.random.key"),
        ({"orders": 0}, "orders: got 0, takes a whole number above 0"),
        ({"segments": np.zeros((8, HEIGHT, WIDTH), "f4")}, "segments: got float32"),
        ({"segments": np.zeros((HEIGHT, WIDTH), int)}, "segments: got int64"),
    ],
)
def test_random_deletion_refuses_bad_input(untyped, model, images, changed, message):
    arguments = {"key": KEY, "segments": segments_of_rows()} | changed
    with pytest.raises(ValueError, match=message):
        metrics.random_deletion_curve(model, images, TARGETS, **arguments)

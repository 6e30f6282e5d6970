from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import f1_score

import jc2i
from jc2i import metrics
from jc2i.metrics.localization.components import largest_edges

EIGHT = np.ones((3, 3), int)
HALF = np.float32([[0, 0, 1, 0.5]])
"""The left half of an image."""


def rectangle(top, left, bottom, right, height=10, width=10):
    values = np.zeros((1, height, width), "f4")
    values[:, top:bottom, left:right] = 1
    return values


def box(*edges, side=10):
    return [np.float32([edges]) / side]


def by_scipy(foreground):
    """The largest component, of several the first, as SciPy labels them."""
    labels, count = ndimage.label(foreground, structure=EIGHT)
    sizes = np.bincount(labels.ravel(), minlength=2)[1:]
    return labels == sizes.argmax() + 1 if count else np.zeros_like(foreground)


def edges_of(component):
    rows, columns = np.nonzero(component)
    if not len(rows):
        return np.zeros(4)
    return np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])


def iou(first, second):
    """IoU of two masks, pixel by pixel."""
    return (first & second).sum() / max((first | second).sum(), 1)


def drawn(edges, height, width):
    mask = np.zeros((height, width), bool)
    top, left, bottom, right = map(int, edges)
    mask[top:bottom, left:right] = True
    return mask


# Boxes as pixels.


def test_boxes_of_whole_pixels_are_those_pixels():
    """Every first and last row of 23: fractions in float32 do not come back exactly."""
    edges = [(a, b, c, 23) for a in range(23) for c in range(a + 1, 24) for b in (0, a)]
    mask = np.asarray(metrics.box_mask(np.float32(edges)[:, None] / 23, 23, 23))
    np.testing.assert_array_equal(mask, np.stack([drawn(one, 23, 23) for one in edges]))


def test_a_pixel_lies_in_a_box_if_its_centre_does():
    # In a row of 4, centres lie at 1/8, 3/8, 5/8, 7/8.
    for left, right, expected in [
        (0.13, 0.63, [0, 1, 1, 0]),
        (0.12, 0.62, [1, 1, 0, 0]),
        (0, 1, [1, 1, 1, 1]),
        (0.4, 0.45, [0, 1, 0, 0]),  # holds no centre, yet is a box
        (0.28, 0.3, [0, 1, 0, 0]),
        (0.38, 0.51, [0, 1, 0, 0]),  # nor does this one, of two pixels
        (0.95, 1, [0, 0, 0, 1]),
        (0.5, 0.5, [0, 0, 0, 0]),  # no area: no box
    ]:
        mask = metrics.box_mask([np.float32([[0, left, 1, right]])], 1, 4)
        np.testing.assert_array_equal(mask[0, 0], np.array(expected, bool), err_msg=f"{left}")


def test_several_boxes_are_their_union_and_padding_is_none():
    boxes = (np.float32([[0, 0, 0.5, 0.5], [0.25, 0.25, 1, 0.75]]), np.zeros((0, 4), "f4"))
    expected = drawn((0, 0, 2, 2), 4, 4) | drawn((1, 1, 4, 3), 4, 4)
    mask = metrics.box_mask(boxes, 4, 4)
    np.testing.assert_array_equal(mask, np.stack([expected, np.zeros((4, 4), bool)]))
    for count in (None, 2, 7):
        padded = metrics.pad_boxes(boxes, count)
        assert padded.shape == (2, count or 2, 4)
        np.testing.assert_array_equal(metrics.box_mask(padded, 4, 4), mask)
    assert metrics.pad_boxes((np.zeros((5, 4), "f4"),)).shape == (1, 8, 4)


# Connected components.


def foregrounds():
    random = np.random.default_rng(0)
    noise = random.random((24, 17, 19))
    levels = np.linspace(0.02, 0.98, 24).reshape(-1, 1, 1)
    spiral = np.zeros((17, 19), bool)  # the longest way through a component
    for ring in range(0, 8, 2):
        spiral[ring, ring : -ring or None] = spiral[-1 - ring, ring : -ring or None] = True
        spiral[ring : -ring or None, -1 - ring] = True
        spiral[ring + 2 : -ring or None, ring] = True
        spiral[ring + 2, ring : ring + 2] = True
    snake = np.zeros((17, 19), bool)
    snake[::2] = True
    snake[1::4, -1] = snake[3::4, 0] = True
    corners = np.indices((17, 19)).sum(0) % 2 == 0
    two = np.zeros((17, 19), bool)
    two[1:3, 10:12] = two[5:7, 2:4] = True  # as large as each other
    shapes = [spiral, snake, snake[::-1], corners, two, two[::-1], snake * 0 > 0, snake * 0 < 1]
    blurred = ndimage.gaussian_filter(noise, (0, 1.5, 1.5))
    return np.concatenate([noise > levels, blurred > 0.5, np.stack(shapes)])


def test_components_equal_scipys():
    given = foregrounds()
    component = np.asarray(metrics.largest_component(given))
    expected = np.stack([by_scipy(one) for one in given])
    np.testing.assert_array_equal(component, expected)
    assert 0 < expected.mean() < 0.9
    boxes = np.asarray(metrics.largest_box(given)) * [17, 19, 17, 19]
    np.testing.assert_allclose(boxes, [edges_of(one) for one in expected], atol=1e-5)


def test_components_begin_from_those_of_a_part():
    """As thresholds fall: what is found from above is what is found anew."""
    values = np.random.default_rng(1).random((4, 15, 16))
    labels = None
    for level in (0.9, 0.7, 0.6, 0.5, 0.3):
        edges, labels = largest_edges(jnp.asarray(values > level), labels)
        np.testing.assert_array_equal(edges, largest_edges(jnp.asarray(values > level))[0])


# The metrics, worked by hand on 10 x 10 pixels.


def test_a_perfect_map_has_the_perfect_value():
    """Within the image, along its borders, in its corner, of one pixel."""
    edges = [(2, 3, 7, 9), (0, 0, 4, 10), (5, 5, 10, 10), (9, 9, 10, 10)]
    values = np.concatenate([rectangle(*one) for one in edges])
    truth = [box(*one)[0] for one in edges]
    right, wrong = np.ones(4, bool), np.zeros(4, bool)
    np.testing.assert_allclose(metrics.predicted_box(values), np.concatenate(truth))
    for result, expected in [
        (metrics.localization_error(values, truth), 0),
        (metrics.official_metric(values, truth, right), 0),
        (metrics.official_metric(values, truth, wrong), 1),
        (metrics.pixel_f1(values, truth), 1),
        (metrics.energy_pointing_game(values, truth), 1),
        (metrics.pointing_game(values, truth), 1),
    ]:
        np.testing.assert_array_equal(result, np.full(4, expected))
    accuracy = np.asarray(metrics.box_accuracy(values, truth))
    assert accuracy.shape == (4, 101, 3)
    assert accuracy[:, :100].all() and not accuracy[:, 100].any()  # nothing is above 1
    assert metrics.max_box_accuracy(accuracy) == 1


def test_overlap_worked_by_hand():
    """Found rows 0-4 of columns 0-5 (20 pixels); drawn columns 2-6 (16): 8 common, 28 together."""
    values = rectangle(0, 0, 4, 5) * 3 - 1
    near, far = np.float32([[0, 0.2, 0.4, 0.6]]), np.float32([[0.8, 0.8, 1, 1]])
    # Columns 2 to 4 of rows 0 to 3: 12 common of 20 + 16 - 12.
    np.testing.assert_allclose(metrics.localization_error(values, [near]), 1 - 12 / 24)
    np.testing.assert_allclose(metrics.localization_error(values, [far]), 1)
    both = [np.concatenate([far, near])]
    np.testing.assert_allclose(metrics.localization_error(values, both), 1 - 12 / 24)
    for correct, expected in ((True, 0.5), (False, 1)):
        result = metrics.official_metric(values, both, np.array([correct]))
        np.testing.assert_allclose(result, expected)
    # The overlap asked for is reached at 1/2 itself.
    accuracy = metrics.box_accuracy(values, both, thresholds=[0.25], overlaps=[0.3, 0.5, 0.51])
    np.testing.assert_array_equal(accuracy, [[[1, 1, 0]]])


def test_only_the_largest_component_above_the_mean_is_boxed():
    values = np.zeros((1, 10, 10), "f4")
    values[0, 1:4, 1:4] = 1  # 9 pixels
    values[0, 7:9, 7:9] = 5  # 4, higher
    values[0, 5, 0] = 0.2  # below the mean, (9 + 20 + .2) / 100
    np.testing.assert_allclose(metrics.predicted_box(values), [[0.1, 0.1, 0.4, 0.4]])
    # Above 1/5 of the largest value only the second is left: 0.2 is not above 0.2.
    truth = box(7, 7, 9, 9)
    accuracy = metrics.box_accuracy(values, truth, thresholds=[0.1, 0.2, 0.9], overlaps=[0.7])
    np.testing.assert_array_equal(accuracy[0, :, 0], [0, 1, 1])


def test_f1_and_energy_worked_by_hand():
    """Normalised: 1 inside (10 pixels of a box of 20), .5 outside (10): 10 of 15 in the box."""
    values = np.full((1, 10, 10), -2, "f4")
    values[0, 0], values[0, 9] = 4, 1
    truth = box(0, 0, 2, 10)
    np.testing.assert_allclose(metrics.energy_pointing_game(values, truth), 10 / 15, rtol=1e-6)
    precision, recall = 10 / 15, 10 / 20
    expected = 2 * precision * recall / (precision + recall)
    np.testing.assert_allclose(metrics.pixel_f1(values, truth), expected, rtol=1e-6)
    # Boxes that overlap count once.
    twice = [np.concatenate([truth[0], np.float32([[0, 0, 0.1, 1]])])]
    np.testing.assert_allclose(metrics.pixel_f1(values, twice), expected, rtol=1e-6)


def test_f1_of_truth_values_is_scikit_learns():
    random = np.random.default_rng(2)
    values = random.random((5, 9, 8)) > 0.6
    boxes = [np.float32([[0.1, 0.2, 0.7, 0.9]]), np.float32([[0, 0, 0.3, 0.3], [0.5, 0, 1, 1]])]
    boxes += boxes[:1] * 3
    truth = np.asarray(metrics.box_mask(boxes, 9, 8))
    expected = [f1_score(t.ravel(), v.ravel()) for t, v in zip(truth, values, strict=True)]
    np.testing.assert_allclose(metrics.pixel_f1(values, boxes), expected, rtol=1e-6)


def test_pointing_game_hits_with_any_tied_maximum_and_has_no_tolerance():
    values = np.zeros((1, 10, 10), "f4")
    values[0, 3, 3] = 2
    assert metrics.pointing_game(values, box(3, 3, 4, 4)) == 1
    assert metrics.pointing_game(values, box(4, 3, 9, 9)) == 0
    values[0, 8, 8] = 2
    assert metrics.pointing_game(values, box(4, 3, 9, 9)) == 1
    values[0, 8, 8] = np.nextafter(np.float32(2), np.float32(0))
    assert metrics.pointing_game(values - 1e-20, box(4, 3, 9, 9)) == 0
    assert metrics.pointing_game(-values, box(4, 3, 9, 9)) == 1  # the zeros around


def test_pointing_games_are_those_of_quantus():
    path = Path(__file__).parents[1] / "golden" / "metrics_localization_quantus.npz"
    golden = np.load(path)
    boxes = np.float32(golden["edges"] / [12, 10, 12, 10])
    pointing = metrics.pointing_game(golden["maps"], boxes)
    np.testing.assert_array_equal(pointing, golden["pointing"])
    assert 3 < pointing.sum() < 20
    energy = metrics.energy_pointing_game(golden["maps"], boxes)
    np.testing.assert_allclose(energy, golden["energy"], rtol=1e-5)


def test_fake_cam():
    """All ones but a corner: its box is the image, and it always points at the object."""
    fake = np.ones((1, 10, 10), "f4")
    fake[0, 0, 0] = 0
    truth = [np.float32([[0.2, 0.2, 0.7, 0.8]])]  # 30 of 100 pixels
    np.testing.assert_allclose(metrics.localization_error(fake, truth), 0.7, rtol=1e-6)
    assert metrics.pointing_game(fake, truth) == 1
    np.testing.assert_allclose(metrics.energy_pointing_game(fake, truth), 30 / 99, rtol=1e-6)
    np.testing.assert_allclose(metrics.pixel_f1(fake, truth), 60 / 129, rtol=1e-6)
    accuracy = metrics.box_accuracy(fake, truth)
    np.testing.assert_array_equal(accuracy[0, :100], [[1, 0, 0]] * 100)
    assert metrics.pointing_game(fake, box(0, 0, 1, 1)) == 0  # the corner is not the largest


def test_box_accuracy_equals_a_plain_loop():
    random = np.random.default_rng(3)
    values = ndimage.gaussian_filter(random.normal(size=(6, 20, 24)), (0, 2, 2)).astype("f4")
    edges = [[(2, 3, 12, 15), (5, 5, 20, 24)], [(0, 0, 20, 24)], [(10, 0, 20, 9)]] * 2
    boxes = [np.float32(e) / [20, 24, 20, 24] for e in edges]
    levels, overlaps = np.arange(101) / 100, (0.3, 0.5, 0.7)
    normalised = np.asarray(jc2i.normalize(values))
    expected = np.zeros((6, 101, 3))
    for i, t in np.ndindex(6, 101):
        found = edges_of(by_scipy(normalised[i] > np.float32(levels[t])))
        best = max(iou(drawn(found, 20, 24), drawn(e, 20, 24)) for e in edges[i])
        expected[i, t] = [best >= d for d in overlaps]
    accuracy = np.asarray(metrics.box_accuracy(values, boxes))
    np.testing.assert_array_equal(accuracy, expected)
    largest = expected.mean(0).max(0).mean()
    assert 0.1 < largest < 0.9
    np.testing.assert_allclose(metrics.max_box_accuracy(accuracy), largest, rtol=1e-6)
    # In any order of thresholds.
    order = random.permutation(101)
    shuffled = metrics.box_accuracy(values, boxes, thresholds=levels[order])
    np.testing.assert_array_equal(shuffled, accuracy[:, order])


def test_max_box_accuracy_leaves_out_images_without_a_value():
    # Two thresholds, two overlaps: means (1, 0), (1/2, 1/2); largest (1, 1/2).
    accuracies = np.float32([[[1, 0], [1, 0]], [[np.nan] * 2] * 2, [[1, 0], [0, 1]]])
    assert metrics.max_box_accuracy(accuracies) == 0.75
    assert np.isnan(metrics.max_box_accuracy(accuracies[1:2]))


# The saliency metric.


class Mean:
    """The first class's probability is the image's mean, the second's its top left pixel."""

    def __call__(self, images):
        return jnp.stack([images.mean(axis=(1, 2, 3)), images[:, 0, 0, 0]], axis=1)


def test_saliency_metric_worked_by_hand():
    """A crop of one value has that mean; what lies beside the box has no part in it."""
    images = np.full((4, 10, 10, 1), 0.9, "f4")
    images[:, 2:6, 3:8] = 0.25
    maps = np.concatenate([rectangle(2, 3, 6, 8)] * 2 + [rectangle(3, 4, 5, 5)] * 2)
    values = metrics.saliency_metric(Mean(), images, np.array([0, 1, 0, 1]), maps)
    # 20 pixels of 100; 2 of 100 count as 5.
    expected = np.log([0.2, 0.2, 0.05, 0.05]) - np.log(0.25)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_crop_is_what_pillow_makes_of_it():
    image = np.random.default_rng(4).random((9, 11)).astype("f4")
    top, left, bottom, right = 2, 1, 7, 5
    cropped = Image.fromarray(image).crop((left, top, right, bottom))
    resized = np.asarray(cropped.resize((11, 9), Image.Resampling.BILINEAR))
    weights = np.random.default_rng(5).random((9, 11)).astype("f4") / 100

    def model(images):
        score = jnp.einsum("bhwc,hw->b", images, weights, precision="highest")
        return jnp.stack([score, 1 - score], axis=1)

    value = metrics.saliency_metric(
        model,
        image[None, :, :, None],
        np.zeros(1, int),
        rectangle(top, left, bottom, right, 9, 11),
    )
    expected = np.log(20 / 99) - np.log((resized * weights).sum())
    np.testing.assert_allclose(value, [expected], rtol=1e-5)


def test_the_saliency_metric_of_no_probability():
    images = np.zeros((2, 10, 10, 1), "f4")
    images[1] = -1
    values = metrics.saliency_metric(
        Mean(), images, np.zeros(2, int), np.concatenate([rectangle(0, 0, 5, 10)] * 2)
    )
    expected = np.log(0.5) - np.log(np.finfo("f4").tiny)
    np.testing.assert_allclose(values, [expected, np.nan], rtol=1e-6)


# All of them.

ALL = {
    "localization_error": metrics.localization_error,
    "official_metric": lambda maps, boxes: metrics.official_metric(
        maps, boxes, jnp.ones(len(maps), bool)
    ),
    "pixel_f1": metrics.pixel_f1,
    "energy_pointing_game": metrics.energy_pointing_game,
    "pointing_game": metrics.pointing_game,
    "box_accuracy": lambda maps, boxes: metrics.box_accuracy(maps, boxes, thresholds=[0, 0.5]),
}
each = pytest.mark.parametrize("function", ALL.values(), ids=ALL)
MAPS = np.random.default_rng(6).integers(0, 128, (6, 8, 9)).astype("f4")
BOXES = [np.float32([[0.1, 0.2, 0.8, 0.9], [0, 0, 0.4, 0.4]])] * 6


@each
def test_what_cannot_be_scored_is_nan_alone(function):
    expected = np.asarray(function(MAPS, BOXES))
    assert np.isfinite(expected).all()
    spoilt, boxes = MAPS.copy(), list(BOXES)
    spoilt[1], spoilt[2, 0, 0], spoilt[3, 1, 1] = 7, np.nan, np.inf
    boxes[4] = np.zeros((0, 4), "f4")
    values = np.asarray(function(spoilt, boxes))
    np.testing.assert_array_equal(values[[0, 5]], expected[[0, 5]])
    assert np.isnan(values[1:5]).all()


@each
def test_maps_of_any_type_and_scale(function):
    expected = np.asarray(function(MAPS, BOXES))
    assert expected.dtype == np.float32
    for dtype in ("u1", "i8", "f2", ">f4"):
        np.testing.assert_array_equal(function(MAPS.astype(dtype), BOXES), expected, dtype)
    for factor in (1e-42, 1e-30, 1e34):
        scaled = (MAPS * np.float64(factor)).astype("f4")
        np.testing.assert_allclose(function(scaled, BOXES), expected, rtol=1e-4, atol=1e-6)
    with jax.enable_x64(True):
        values = function(MAPS.astype("f8"), BOXES)
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, expected, rtol=1e-5)


@each
def test_under_jit_and_vmap_with_strict_promotion(function):
    expected, padded = np.asarray(function(MAPS, BOXES)), metrics.pad_boxes(BOXES)
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.debug_nans(True),
    ):
        np.testing.assert_allclose(jax.jit(function)(MAPS, padded), expected, rtol=1e-6)
    stacked = jax.vmap(function)(jnp.stack([MAPS, MAPS]), jnp.stack([padded, padded]))
    np.testing.assert_allclose(stacked, [expected, expected], rtol=1e-6)


@each
def test_an_image_does_not_depend_on_its_batch(function):
    together = np.asarray(function(MAPS, BOXES))
    np.testing.assert_array_equal(function(MAPS[2:3], BOXES[2:3]), together[2:3])


NO_BOXES = [
    None,
    7,
    "boxes",
    [],
    np.zeros((2, 4), "f4"),
    np.zeros((2, 1, 5), "f4"),
    [np.float32([0, 0, 1, 1])] * 2,
    [np.float32([[0, 0, 1, np.nan]])] * 2,
    [np.float32([[0, 0, 1, 1.1]])] * 2,
    [np.float32([[10, 10, 90, 50]])] * 2,  # pixels
    [np.float32([[0.5, 0, 0.4, 1]])] * 2,
    [HALF],
    [HALF] * 3,
    [["a", 0, 0, 0]] * 2,
]


@each
def test_refuses_what_is_no_box(untyped, function):
    for boxes in NO_BOXES:
        with pytest.raises(ValueError, match=r"^boxes: got .*, takes "):
            function(MAPS[:2], boxes)


def test_refuses_other_arguments_by_name(untyped):
    two = MAPS[:2]
    for argument, call in {
        "maps": lambda: metrics.pixel_f1(MAPS[0], [HALF] * 2),
        "correct": lambda: metrics.official_metric(two, [HALF] * 2, np.array([1, 0])),
        "thresholds": lambda: metrics.box_accuracy(two, [HALF] * 2, thresholds=[0.5, 1.5]),
        "overlaps": lambda: metrics.box_accuracy(two, [HALF] * 2, overlaps=[]),
        "accuracies": lambda: metrics.max_box_accuracy(two[0]),
        "foreground": lambda: metrics.largest_component(two),
        "count": lambda: metrics.pad_boxes([np.concatenate([HALF, HALF])], 1),
        "height": lambda: metrics.box_mask([HALF], 0, 4),
    }.items():
        with pytest.raises(ValueError, match=rf"^{argument}: got .*, takes "):
            call()

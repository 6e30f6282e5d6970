from __future__ import annotations

import io

import ml_dtypes
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from jc2i import plots

RANDOM = np.random.default_rng(0)
METHODS = ("sensitivity", "RISE")
MODELS = ("uncalibrated", "temperature", "Dirichlet")


def drawn(figure: Figure) -> Figure:
    """The figure, after proof that it can be rendered."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def shown_images(axes) -> list[np.ndarray]:
    return [np.asarray(artist.get_array()) for artist in axes.images]


def samples() -> dict[str, dict[str, np.ndarray]]:
    return {m: {c: RANDOM.normal(i, 1, 40) for c in MODELS} for i, m in enumerate(METHODS)}


def test_saliency_grid_shows_every_image_and_map():
    images = RANDOM.uniform(size=(3, 8, 8, 3)).astype(np.float32)
    maps = {name: RANDOM.normal(size=(3, 4, 4)) for name in METHODS}
    figure = drawn(plots.saliency_grid(images, maps, titles=["a", "b", "c"]))
    panels = np.reshape(figure.axes, (3, 3))
    for column in range(3):
        np.testing.assert_array_equal(shown_images(panels[0, column]), images[column][None])
        assert panels[0, column].get_title() == "abc"[column]
        for row, name in enumerate(METHODS, start=1):
            np.testing.assert_array_equal(
                shown_images(panels[row, column]), maps[name][column][None]
            )
    assert [panel.get_ylabel() for panel in panels[:, 0]] == ["image", *METHODS]


def test_saliency_grid_takes_grey_bytes():
    images = RANDOM.integers(0, 256, (2, 8, 8, 1), np.uint8)
    figure = drawn(plots.saliency_grid(images, {}))
    np.testing.assert_allclose(shown_images(figure.axes[0])[0], images[0, ..., 0] / 255)


def test_saliency_overlay_lays_the_map_over_the_whole_image():
    image, saliency_map = RANDOM.uniform(size=(8, 6, 3)), RANDOM.normal(size=(4, 3))
    figure = drawn(plots.saliency_overlay(image, saliency_map, alpha=0.3, title="a title"))
    below, above = figure.axes[0].images
    np.testing.assert_allclose(below.get_array(), image.mean(-1))
    np.testing.assert_array_equal(above.get_array(), saliency_map)
    assert above.get_alpha() == 0.3
    assert below.get_extent() == above.get_extent()
    assert figure.axes[0].get_title() == "a title"


@pytest.mark.parametrize("dtype", [bool, "u1", "f2", ">f4", ml_dtypes.bfloat16])
def test_maps_of_any_dtype_are_shown(untyped, dtype):
    maps = np.arange(4).reshape(1, 2, 2).astype(dtype)
    figure = drawn(plots.saliency_grid(np.zeros((1, 2, 2, 1)), {"m": maps}))
    np.testing.assert_array_equal(shown_images(figure.axes[1])[0], maps[0].astype(float))
    drawn(plots.saliency_overlay(np.zeros((2, 2, 1)), maps[0]))


def test_maps_of_a_range_beyond_the_largest_float_are_shown():
    maps = np.array([[[3e38, -3e38], [0, 1]]], np.float32)
    drawn(plots.saliency_grid(np.zeros((1, 2, 2, 1)), {"m": maps}))
    drawn(plots.saliency_overlay(np.zeros((2, 2, 1)), maps[0]))


def test_reliability_diagram_draws_the_bins_that_hold_images():
    confidence, accuracy = np.array([0.2, 0.5, 0.9]), np.array([0.1, np.nan, 0.7])
    counts = np.array([10, 0, 30])
    figure = drawn(
        plots.reliability_diagram(
            {"model": (confidence, accuracy, counts)}, expected_calibration_errors={"model": 0.1234}
        )
    )
    diagram, shares = figure.axes
    diagonal, curve = diagram.lines
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(curve.get_xydata(), [[0.2, 0.1], [0.9, 0.7]])
    assert curve.get_label() == "model (ECE 0.123)"
    np.testing.assert_allclose(shares.lines[0].get_ydata(), [25, 75])


def test_deletion_curves_draw_each_mean_and_band():
    mean = np.linspace(1, 0, 4)
    curves = {
        "RISE": {"base": (mean, mean - 0.1, mean + 0.2), "temperature": (mean, mean, mean)},
        "random": {"base": (mean, mean, mean)},
    }
    (axes,) = drawn(plots.deletion_curves(curves)).axes
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [25, 50, 75, 100])
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), mean)
    band = axes.collections[0].get_paths()[0].vertices
    for x, low, high in zip([25, 50, 75, 100], mean - 0.1, mean + 0.2, strict=True):
        heights = band[band[:, 0] == x, 1]
        assert heights.min() == pytest.approx(low) and heights.max() == pytest.approx(high)
    names = ["RISE, base", "RISE, temperature", "random, base"]
    assert [line.get_label() for line in axes.lines] == names
    base, temperature, random = axes.lines
    assert base.get_color() == temperature.get_color() != random.get_color()
    assert base.get_linestyle() == random.get_linestyle() != temperature.get_linestyle()


def test_distributions_draw_the_quartiles_of_the_finite_values():
    values = samples()
    values["RISE"]["Dirichlet"][:3] = np.nan
    (axes,) = drawn(plots.distributions(values, ylabel="SSIM")).axes
    medians = sorted(
        line.get_ydata()[0]
        for line in axes.lines
        if line.get_color() == "black" and line.get_linewidth() == 1.4
    )
    expected = sorted(np.nanmedian(v) for group in values.values() for v in group.values())
    np.testing.assert_allclose(medians, expected)
    boxes = [patch.get_path().get_extents() for patch in axes.patches]
    quartiles = sorted(
        tuple(np.nanquantile(v, [0.25, 0.75])) for group in values.values() for v in group.values()
    )
    np.testing.assert_allclose(sorted((box.y0, box.y1) for box in boxes), quartiles)
    assert axes.get_ylabel() == "SSIM"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(METHODS)


def test_violins_draw_the_medians_and_skip_a_model_without_values():
    values = samples()
    values["RISE"]["temperature"][:] = np.nan
    (axes,) = drawn(plots.distributions(values, ylabel="SSIM", kind="violin")).axes
    medians = [
        segment[0, 1]
        for collection in axes.collections
        if hasattr(collection, "get_segments")
        for segment in collection.get_segments()
    ]
    expected = [
        np.median(v) for group in values.values() for v in group.values() if np.isfinite(v).all()
    ]
    np.testing.assert_allclose(sorted(medians), sorted(expected))


def test_bars_draw_each_estimate_and_interval():
    # The last interval lies above its estimate, as that of a biased statistic may.
    intervals = {"uncalibrated": (2.0, 1.5, 2.25), "temperature": (1.0, 1.1, 1.2)}
    values = {
        method: {model: (*np.add(interval, i), 64) for model, interval in intervals.items()}
        for i, method in enumerate(METHODS)
    }
    (axes,) = drawn(plots.bars(values, ylabel="area")).axes
    for name, container, lines in zip(intervals, axes.containers, axes.collections, strict=True):
        assert container.get_label() == name
        assert [bar.get_height() for bar in container] == [values[m][name][0] for m in METHODS]
        ends = [tuple(segment[:, 1]) for segment in lines.get_segments()]
        np.testing.assert_allclose(ends, [values[m][name][1:3] for m in METHODS])
    assert len({to_hex(container[0].get_facecolor()) for container in axes.containers}) == 2


@pytest.mark.parametrize("kind", ["box", "violin"])
def test_distributions_leave_a_model_without_values_empty(kind):
    values = {"RISE": {"a": np.array([1.0, 2.0, 3.0]), "b": np.full(3, np.nan)}}
    (axes,) = drawn(plots.distributions(values, ylabel="SSIM", kind=kind)).axes
    low, high = axes.dataLim.intervaly
    assert (low, high) == (1.0, 3.0)


def test_sweep_draws_its_points_and_the_mark():
    x = np.array([0.5, 1.0, 3.0])
    y = np.array([0.4, 0.3, 0.35])
    figure = plots.sweep(
        x,
        {"RISE": (y, y - 0.1, y + 0.1)},
        xlabel="temperature",
        ylabel="deletion area",
        marked=(3.1, "fitted"),
        logarithmic=True,
    )
    (axes,) = drawn(figure).axes
    curve, mark = axes.lines
    np.testing.assert_array_equal(curve.get_xydata(), np.stack([x, y], 1))
    assert list(mark.get_xdata()) == [3.1, 3.1]
    assert [text.get_text() for text in axes.texts] == ["fitted"]
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.5", "1", "3"]


def test_sweep_leaves_out_settings_without_a_value():
    y = np.array([0.4, np.nan, 0.2])
    (axes,) = drawn(plots.sweep(np.arange(3.0), {"a": (y, y, y)}, xlabel="x", ylabel="y")).axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, 0.4], [2, 0.2]])


def test_distributions_on_a_logarithmic_axis():
    values = {"RISE": {"base": np.array([0.0, 1.0, 10.0, 100.0])}}
    (axes,) = drawn(plots.distributions(values, ylabel="y", logarithmic=True)).axes
    height = {v: axes.transData.transform((0, v))[1] for v in (0, 1, 10, 100)}
    assert height[100] - height[10] == pytest.approx(height[10] - height[1])
    assert height[0] < height[1] and axes.get_ylim()[0] <= 0


def test_no_text_leaves_its_figure():
    names = ["meaningful perturbation", "integrated gradients", "gradient x input", "SmoothGrad"]
    y = np.linspace(1, 0, 5)
    curves = {name: (y, y, y) for name in names}
    groups = {name: {model: (0.5, 0.4, 0.6) for model in MODELS} for name in names}
    label = "better than random (fraction of the images)"
    for figure in (
        plots.deletion_curves({name: {"base": curve} for name, curve in curves.items()}),
        plots.bars(groups, ylabel=label),
        plots.sweep(y, curves, xlabel="temperature", ylabel=label, marked=(0.5, "fitted")),
    ):
        figure.draw_without_rendering()
        outer = figure.bbox.padded(2)
        (axes,) = figure.axes
        legend = [text for legend in figure.legends for text in legend.get_texts()]
        for text in (axes.xaxis.label, axes.yaxis.label, *axes.texts, *legend):
            if not text.get_text():
                continue
            box = text.get_window_extent()
            assert outer.contains(*box.min) and outer.contains(*box.max), text.get_text()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plots.saliency_grid(np.zeros((2, 4, 4, 1)), {"RISE": np.zeros((3, 4, 4))}),
            r"maps: got float64\[3, 4, 4\] for 'RISE', takes .* one for each of the 2 images",
        ),
        (
            lambda: plots.saliency_grid(np.zeros((2, 4, 4, 1)), {}, titles=["a"]),
            r"titles: got \['a'\], takes a list of one for each of the 2 images",
        ),
        (
            lambda: plots.saliency_overlay(np.zeros((4, 4, 2)), np.zeros((4, 4))),
            "image: got 2 channels, takes 1 or 3",
        ),
        (
            lambda: plots.saliency_overlay(np.zeros((4, 4, 1)), np.zeros((4, 4)), alpha=2.0),
            "alpha: got 2.0, takes a number in",
        ),
        (
            lambda: plots.deletion_curves({"RISE": {"base": (np.zeros(3),) * 2 + (np.zeros(2),)}}),
            r"curves: got lengths \[3, 3, 2\] for 'RISE, base'",
        ),
        (
            lambda: plots.distributions({"RISE": {"a": np.zeros(3)}}, ylabel="y", kind="pie"),
            "kind: got 'pie', takes 'box' or 'violin'",
        ),
        (
            lambda: plots.bars({"a": {"x": (1.0, 1.0, 1.0)}, "b": {}}, ylabel="y"),
            r"values: got \[\] for 'b', takes \['x'\] in every group",
        ),
        (lambda: plots.bars({}, ylabel="y"), "values: got nothing, takes at least one group"),
        (
            lambda: plots.sweep(np.zeros(2), {"a": [np.zeros(3)] * 3}, xlabel="x", ylabel="y"),
            "curves: got 3 for 'a', takes 2, one a setting",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_texts_are_no_formulas():
    image, saliency = np.zeros((4, 4, 3)), np.eye(4)
    figure = plots.saliency_overlay(image, saliency, title="$x_{$")
    figure.savefig(io.BytesIO())
    for text in ("x" * 501, "\ud800"):
        with pytest.raises(ValueError, match="^title: got .*, takes a text of at most 500"):
            plots.saliency_overlay(image, saliency, title=text)

"""Figures: saliency maps, reliability diagrams, curves, distributions.

Each function takes plain arrays and returns a `matplotlib.figure.Figure`: nothing is shown,
saved or kept, so they work without a display and from several threads.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Num

from jc2i import checks
from jc2i.checks import Array, describe, invalid, one_of, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "bars",
    "deletion_curves",
    "distributions",
    "reliability_diagram",
    "saliency_grid",
    "saliency_overlay",
    "sweep",
]

# Okabe and Ito (2008), told apart by every common form of colour blindness; yellow is left
# out, being too pale for lines on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# A second cue beside colour, for prints in grey.
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MAP_COLOURS = "magma"


def saliency_grid(
    images: Num[Array, "images height width channel"],
    maps: Mapping[
        str,
        Num[Array, "_images _map_height _map_width"]
        | Bool[Array, "_images _map_height _map_width"],
    ],
    *,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Images side by side, and under each its saliency maps, one row a method.

    Each map is shown on its own scale, from its smallest value (dark) to its largest (bright).

    Args:
      images: floats in [0, 1] or bytes, with 1 or 3 channels.
      maps: the name of a row and its maps, one for each image, at any resolution.
      titles: what to write above each image.

    Returns:
      A figure of `1 + len(maps)` rows and one column an image.

    Raises:
      ValueError: when a row or the titles have not one entry for each image; for images and maps
        that are none.
    """
    images = _images("images", images)
    count = len(images)
    named = {name: _maps("maps", row, name, count) for name, row in _named("maps", maps)}
    takes = f"a list of one for each of the {count} images, or None"
    if titles is not None:
        one_each = isinstance(titles, list | tuple) and len(titles) == count
        require(one_each, "titles", describe(titles), takes)
        titles = [_text("titles", title) for title in titles]

    rows = 1 + len(named)
    names = [textwrap.fill(name, 16) for name in ("image", *named)]
    margin = 0.2 + 0.085 * max(len(line) for name in names for line in name.splitlines())
    width, height = 1.1, 1.1 * images.shape[1] / images.shape[2]
    figure = _figure(margin + width * count, 0.25 * (titles is not None) + height * rows)
    figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(rows, count, squeeze=False)
    for panel in axes.flat:
        _bare(panel)
    for column, image in enumerate(images):
        _show_image(axes[0, column], image)
        if titles is not None:
            axes[0, column].set_title(titles[column], fontsize=8)
    extent = (0, images.shape[2], images.shape[1], 0)
    for row, row_maps in enumerate(named.values(), start=1):
        for column, saliency in enumerate(row_maps):
            axes[row, column].imshow(saliency, cmap=_MAP_COLOURS, extent=extent)
    for panel, name in zip(axes[:, 0], names, strict=True):
        panel.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def saliency_overlay(
    image: Num[Array, "height width channel"],
    saliency_map: Num[Array, "map_height map_width"] | Bool[Array, "map_height map_width"],
    *,
    alpha: float = 0.6,
    title: str = "",
) -> Figure:
    """An image in grey with its saliency map laid over it in colour.

    Args:
      image: floats in [0, 1] or bytes, with 1 or 3 channels.
      saliency_map: importance of each pixel, at any resolution; larger is more important.
      alpha: opacity of the map, in [0, 1].
      title: what to write above.

    Returns:
      A figure with the overlay and its colour scale.

    Raises:
      ValueError: when the image has not 1 or 3 channels, or `alpha` is out of range.
    """
    alpha = checks.number("alpha", alpha, "a number in [0, 1]", lambda a: 0 <= a <= 1, traced=False)
    title = _text("title", title)
    takes = "an array[height, width, channel]"
    given = checks.array("image", image, takes, of=checks.REAL, shape=(None,) * 3)
    image = _images("image", given[None])[0]
    given = checks.array("saliency_map", saliency_map, _MAPS, of=checks.REAL, shape=(None,) * 2)
    shown = _maps("saliency_map", given[None], None, 1)[0]
    height, width = image.shape[:2]
    figure = _figure(4.2, 3.4)
    axes = figure.subplots()
    _bare(axes)
    axes.set_title(title)
    extent = (0, width, height, 0)
    axes.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=1, extent=extent)
    overlay = axes.imshow(shown, cmap=_MAP_COLOURS, alpha=alpha, extent=extent)
    low, high = overlay.get_clim()
    scale = figure.colorbar(overlay, ax=axes, label="importance of the pixel")
    scale.set_ticks([low, high], labels=["least", "most"])
    return figure


def reliability_diagram(
    curves: Mapping[str, tuple[Num[Array, " bins"], Num[Array, " bins"], Num[Array, " bins"]]],
    *,
    expected_calibration_errors: Mapping[str, float] | None = None,
) -> Figure:
    """Accuracy against confidence, and how the confidences are distributed.

    A calibrated model lies on the diagonal, an over-confident one below it.

    Args:
      curves: the name of a model and, for each bin, its mean confidence in [0, 1], its accuracy
        in [0, 1] and its number (or fraction) of images; bins without images are left out.
      expected_calibration_errors: the error of a named model, for the legend.

    Returns:
      A figure: the diagram above, the share of images at each confidence below.

    Raises:
      ValueError: for a curve without its three parts of one length, or with counts below 0.
    """
    read = {}
    for name, curve in _named("curves", curves):
        confidence, accuracy, counts = _parts("curves", curve, name, 3)
        fits = (counts >= 0).all() and np.isfinite(counts).all()
        require(fits, "curves", f"counts of {name!r} that are none", "numbers of images, from 0")
        read[name] = confidence, accuracy, counts
    if expected_calibration_errors is not None:
        errors = dict(_named("expected_calibration_errors", expected_calibration_errors))
        takes = "a number for each name"
        expected_calibration_errors = {
            name: checks.number("expected_calibration_errors", error, takes, lambda error: True)
            for name, error in errors.items()
        }
    figure = _figure(4.4, 5.6)
    diagram, shares = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    diagram.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle=":", label="calibrated")
    for index, (name, (confidence, accuracy, counts)) in enumerate(read.items()):
        filled = counts > 0
        confidence, accuracy, counts = confidence[filled], accuracy[filled], counts[filled]
        if expected_calibration_errors and name in expected_calibration_errors:
            name = f"{name} (ECE {expected_calibration_errors[name]:.3f})"
        style = _line_style(index, index)
        if len(confidence) <= 40:  # bins are points; the nodes of a density are a line
            style |= {"marker": _MARKERS[index % len(_MARKERS)], "markersize": 5}
        diagram.plot(confidence, accuracy, label=name, **style)
        shares.plot(confidence, 100 * counts / max(counts.sum(), 1), **style)
    diagram.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    shares.set(xlabel="confidence", ylabel="images (%)")
    shares.set_ylim(bottom=0)
    _legend(figure, diagram, "outside upper center")
    _tidy(diagram)
    _tidy(shares)
    return figure


def deletion_curves(
    curves: Mapping[str, Mapping[str, Sequence[Num[Array, " _steps"]]]],
    *,
    removed: Num[Array, " _steps"] | None = None,
    ylabel: str = "score, relative to the whole image",
) -> Figure:
    """Mean score while the most important pixels are removed, with its interval as a band.

    Args:
      curves: `curves[method][model]` is (mean, low, high), each one value a step. A method has a
        colour, a model a dash.
      removed: percentage of pixels removed at each step, in [0, 100]; from 1/steps of the
        pixels to all of them by default.
      ylabel: what the curves measure, with its unit.

    Returns:
      A figure with one line and one band for each method and model.

    Raises:
      ValueError: when a curve's parts, or `removed`, differ in length.
    """
    ylabel = _text("ylabel", ylabel)
    given = None if removed is None else checks.vector("removed", removed, "numbers, one a step")
    read = {
        method: {
            model: _parts("curves", curve, f"{method}, {model}")
            for model, curve in _named("curves", models)
        }
        for method, models in _named("curves", curves)
    }
    figure = _figure(7.2, 3.6)
    axes = figure.subplots()
    for colour, (method, models) in enumerate(read.items()):
        for dash, (model, (mean, low, high)) in enumerate(models.items()):
            name = f"{method}, {model}"
            steps = len(mean)
            x = 100 * np.arange(1, steps + 1) / steps if given is None else given
            lengths = f"{len(x)} for the {steps} steps of {name!r}"
            require(len(x) == steps, "removed", lengths, "one value a step")
            _line_with_band(axes, x, mean, low, high, colour, dash, name)
    axes.set(
        xlabel="pixels removed, most important first (%)", ylabel=_wrapped(ylabel), xlim=(0, 100)
    )
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    _tidy(axes)
    _legend(figure, axes, "outside right upper")
    return figure


def distributions(
    values: Mapping[str, Mapping[str, Num[Array, " _images"]]],
    *,
    ylabel: str,
    kind: str = "box",
    logarithmic: bool = False,
) -> Figure:
    """How values are distributed over images, by method, side by side for each model.

    Args:
      values: `values[method][model]`, one value an image; those that are not finite are left
        out. Every method has the same models.
      ylabel: what the values measure, with its unit.
      kind: `"box"` (quartiles, whiskers to 1.5 interquartile ranges, outliers as dots) or
        `"violin"` (density, with the median).
      logarithmic: whether values are spaced by their ratios, zeros below the smallest.

    Returns:
      A figure with one group a method and one box or violin a model.

    Raises:
      ValueError: when `kind` is unknown or the methods differ in their models.
    """
    one_of("kind", kind, ("box", "violin"))
    logarithmic = checks.flag("logarithmic", logarithmic)
    read = {
        group: {
            name: checks.vector("values", sample, "values[images], one an image")
            for name, sample in _named("values", members)
        }
        for group, members in _named("values", values)
    }
    figure, axes, series = _grouped_axes(read, "values", ylabel)
    slot = 0.8 / len(series)
    for index, name in enumerate(series):
        colour = _COLOURS[index % len(_COLOURS)]
        samples = [group[name] for group in read.values()]
        samples = [sample[np.isfinite(sample)] for sample in samples]
        positions = np.arange(len(read)) + (index - (len(series) - 1) / 2) * slot
        if kind == "box":
            axes.boxplot(
                samples,
                positions=positions,
                widths=0.85 * slot,
                patch_artist=True,
                label=name,
                boxprops={"facecolor": colour, "alpha": 0.55},
                medianprops={"color": "black", "linewidth": 1.4},
                flierprops={"marker": ".", "markersize": 3, "markeredgecolor": colour},
                manage_ticks=False,
            )
        else:
            # A density needs two values; a method without them leaves its place empty.
            drawn = [k for k, sample in enumerate(samples) if len(sample) > 1]
            if not drawn:
                continue
            parts: dict[str, Any] = axes.violinplot(
                [samples[k] for k in drawn],
                positions=positions[drawn],
                widths=0.95 * slot,
                showmedians=True,
                showextrema=False,
            )
            for body in parts["bodies"]:
                body.set(facecolor=colour, alpha=0.55, edgecolor=colour)
            parts["cmedians"].set_color("black")
            parts["bodies"][0].set_label(name)
    if logarithmic:
        shown = np.concatenate([v for group in read.values() for v in group.values()])
        shown = shown[np.isfinite(shown)]
        positive = shown[shown > 0]
        axes.set_yscale("symlog", linthresh=positive.min() if positive.size else 1.0)
    _legend(figure, axes, "outside upper center")
    return figure


def bars(
    values: Mapping[str, Mapping[str, Sequence[float | int]]],
    *,
    ylabel: str,
) -> Figure:
    """Estimates with their intervals, by method, side by side for each model.

    Args:
      values: `values[method][model]` is (estimate, low, high), of which more may follow; an
        interval that is NaN is not drawn. Every method has the same models.
      ylabel: what the values measure, with its unit.

    Returns:
      A figure with one group a method and one bar a model.

    Raises:
      ValueError: when the methods differ in their models.
    """
    read = {
        group: {
            name: _interval("values", interval, f"{group}, {name}")
            for name, interval in _named("values", members)
        }
        for group, members in _named("values", values)
    }
    figure, axes, series = _grouped_axes(read, "values", ylabel)
    slot = 0.8 / len(series)
    for index, name in enumerate(series):
        estimate, low, high = np.array([group[name] for group in read.values()]).T
        positions = np.arange(len(read)) + (index - (len(series) - 1) / 2) * slot
        colour = _COLOURS[index % len(_COLOURS)]
        axes.bar(positions, estimate, width=0.9 * slot, color=colour, alpha=0.75, label=name)
        # Not `yerr`, which refuses a bootstrap interval that leaves its estimate outside.
        axes.vlines(positions, low, high, color="black", linewidth=1.2)
    axes.axhline(0, color="black", linewidth=0.8)
    _legend(figure, axes, "outside upper center")
    return figure


def sweep(
    x: Num[Array, " points"],
    curves: Mapping[str, Sequence[Num[Array, " _points"]]],
    *,
    xlabel: str,
    ylabel: str,
    marked: tuple[float, str] | None = None,
    logarithmic: bool = False,
) -> Figure:
    """A measure while one setting varies, such as the deletion area against the temperature.

    Args:
      x: the settings.
      curves: the name of a method and its (mean, low, high), each one value a setting; settings
        where the mean is NaN are left out, and the line goes on to the next.
      xlabel: what varies, with its unit.
      ylabel: what the curves measure, with its unit.
      marked: a setting to mark with a vertical line, and what to write beside it.
      logarithmic: whether the settings are spaced by their ratios.

    Returns:
      A figure with one line a method and an interval at each setting.

    Raises:
      ValueError: when a curve has not one value for each setting.
    """
    x = checks.vector("x", x, "finite numbers, one a setting")
    require(len(x) > 0 and np.isfinite(x).all(), "x", describe(x), "finite numbers, one a setting")
    xlabel, ylabel = _text("xlabel", xlabel), _text("ylabel", ylabel)
    logarithmic = checks.flag("logarithmic", logarithmic)
    takes = "numbers above 0, where they are spaced by their ratios"
    require(not logarithmic or x.min() > 0, "x", f"{x.min():g} among them", takes)
    if marked is not None:
        pair = isinstance(marked, list | tuple) and len(marked) == 2
        takes = "a finite number and a text, or None"
        require(pair, "marked", describe(marked), takes)
        position = checks.number("marked", marked[0], takes, math.isfinite)
        marked = position, _text("marked", marked[1])
    read = {name: _parts("curves", curve, name) for name, curve in _named("curves", curves)}
    figure = _figure(7.2, 3.6)
    axes = figure.subplots()
    for index, (name, (mean, low, high)) in enumerate(read.items()):
        got = f"{len(mean)} for {name!r}"
        require(len(mean) == len(x), "curves", got, f"{len(x)}, one a setting")
        there = np.isfinite(mean)
        other = index + index // len(_COLOURS)  # a colour that comes again has another marker
        marker = _MARKERS[other % len(_MARKERS)]
        _line_with_band(
            axes, x[there], mean[there], low[there], high[there], index, other, name, marker
        )
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xticks(x, labels=[f"{value:.3g}" for value in x])
        axes.minorticks_off()
    if marked is not None:
        position, text = marked
        axes.axvline(position, color="0.35", linewidth=1, linestyle="--")
        axes.annotate(
            text,
            (position, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color="0.25",
        )
    axes.set(xlabel=xlabel, ylabel=_wrapped(ylabel))
    _tidy(axes)
    _legend(figure, axes, "outside right upper")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


_IMAGES = "images[batch, height, width, channel], finite floats in [0, 1] or bytes"
_MAPS = "a map[height, width] of real numbers"


def _images(argument: str, images: Any) -> np.ndarray:
    given = checks.array(argument, images, _IMAGES, of=("float", "integer"), shape=(None,) * 4)
    checks.require_concrete(argument, given, _IMAGES)
    images = np.asarray(given)
    require(images.size > 0, argument, describe(images), _IMAGES)
    if images.shape[-1] not in (1, 3):
        raise invalid(argument, f"{images.shape[-1]} channels", "1 or 3")
    scaled = images / 255 if np.issubdtype(images.dtype, np.integer) else images.astype(np.float64)
    low, high = scaled.min(), scaled.max()
    # A little beyond, as resizing and rounding leave it; written so that a NaN is refused too.
    fits = low >= -_BEYOND and high <= 1 + _BEYOND
    require(fits, argument, f"values from {low:g} to {high:g}", _IMAGES)
    return np.clip(scaled, 0, 1)


_BEYOND = 0.1
"""How far floats may leave [0, 1], to which they are clipped."""


def _maps(argument: str, maps: Any, name: str | None, count: int) -> np.ndarray:
    """The maps of a row, as numbers that matplotlib draws: NaN and infinity are left blank."""
    takes = f"maps[images, height, width] of real numbers, one for each of the {count} images"
    given = checks.array(argument, maps, takes, of=checks.REAL, shape=(None,) * 3)
    got = describe(given) + ("" if name is None else f" for {name!r}")
    require(len(given) == count and given.size > 0, argument, got, takes)
    checks.require_concrete(argument, given, takes)
    values = np.asarray(given).astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _named(argument: str, values: Any) -> list[tuple[str, Any]]:
    """What a mapping from names holds."""
    takes = "a dict by name"
    require(isinstance(values, Mapping), argument, describe(values), takes)
    named = all(isinstance(name, str) for name in values)
    require(named, argument, f"the names {describe(list(values))}", takes)
    return [(_text(argument, name), value) for name, value in values.items()]


def _text(argument: str, text: Any) -> str:
    """A text as matplotlib takes one that it is not to read as a formula."""
    fits = isinstance(text, str) and len(text) <= LONGEST_TEXT
    fits = fits and text == text.encode(errors="replace").decode()  # no half of a character
    require(fits, argument, describe(text), f"a text of at most {LONGEST_TEXT} characters")
    return str(text).replace("$", r"\$")


LONGEST_TEXT = 500
"""Characters of a name or title; of a million, matplotlib makes up its mind in a minute."""


def _parts(argument: str, curve: Any, name: str, most: int | None = None) -> list[np.ndarray]:
    """A curve's first three parts, of one length."""
    takes = "three arrays of one length"
    several = checks.is_several(curve) and len(curve) >= 3
    several = several and (most is None or len(curve) == most)
    require(several, argument, f"{describe(curve)} for {name!r}", takes)
    parts = [checks.vector(argument, part, takes) for part in curve[:3]]
    lengths = [len(part) for part in parts]
    fits = len(set(lengths)) == 1 and lengths[0] > 0
    require(fits, argument, f"lengths {lengths} for {name!r}", takes)
    return parts


def _interval(argument: str, interval: Any, name: str) -> list[float]:
    takes = "(estimate, low, high), numbers"
    fits = checks.is_several(interval) and len(interval) >= 3
    require(fits, argument, f"{describe(interval)} for {name!r}", takes)
    return [
        checks.number(argument, part, takes, lambda part: True, traced=False)
        for part in interval[:3]
    ]


def _show_image(axes: Axes, image: np.ndarray) -> None:
    if image.shape[-1] == 1:
        axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
    else:
        axes.imshow(image)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def _line_style(colour: int, dash: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[colour % len(_COLOURS)],
        "linestyle": _DASHES[dash % len(_DASHES)],
        "linewidth": 1.6,
    }


def _line_with_band(
    axes: Axes,
    x: np.ndarray,
    mean: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    colour: int,
    dash: int,
    name: str,
    marker: str = "",
) -> None:
    style = _line_style(colour, dash)
    axes.plot(x, mean, label=name, marker=marker, markersize=4.5, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)


def _grouped_axes(
    values: Mapping[str, Mapping[str, Any]], argument: str, ylabel: str
) -> tuple[Figure, Axes, list[str]]:
    """Axes with one place for each group, and the series that every group has."""
    ylabel = _text("ylabel", ylabel)
    if not values:
        raise invalid(argument, "nothing", "at least one group")
    series = list(next(iter(values.values())))
    for group, members in values.items():
        if list(members) != series or not series:
            raise invalid(argument, f"{list(members)} for {group!r}", f"{series} in every group")
    place = max(0.95, 0.3 * len(series))
    figure = _figure(max(4.5, 0.9 + place * len(values)), 3.6)
    axes = figure.subplots()
    labels = [textwrap.fill(name, 12, break_long_words=False) for name in values]
    axes.set_xticks(range(len(values)), labels=labels, fontsize=9)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(values) - 0.4)
    axes.set_ylabel(_wrapped(ylabel))
    _tidy(axes)
    return figure, axes, series


def _wrapped(label: str) -> str:
    """An axis label with its unit on a second line where one line would not fit."""
    return label if len(label) <= 34 else label.replace(" (", "\n(")


def _legend(figure: Figure, axes: Axes, location: Any) -> None:
    """A legend outside the axes, where it hides no data; a single series needs none."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        columns = 1 if "right" in location else min(len(labels), 4)
        figure.legend(handles, labels, loc=location, ncols=columns, frameon=False, fontsize=9)

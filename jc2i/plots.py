"""Figures: saliency maps, reliability diagrams, curves, distributions.

Each function takes plain arrays and returns a `matplotlib.figure.Figure`: nothing is shown,
saved or kept, so they work without a display and from several threads.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Num

from jc2i.checks import Array, invalid, one_of

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
      ValueError: when a row or the titles have not one entry for each image.
    """
    images = _images(images)
    count = len(images)
    for name, row in maps.items():
        if len(row) != count:
            raise invalid("maps", f"{len(row)} for {name!r}", f"one for each of the {count} images")
    if titles is not None and len(titles) != count:
        raise invalid("titles", f"{len(titles)}", f"one for each of the {count} images")

    rows = 1 + len(maps)
    names = [textwrap.fill(name, 16) for name in ("image", *maps)]
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
    for row, row_maps in enumerate(maps.values(), start=1):
        for column, saliency in enumerate(np.asarray(row_maps, np.float64)):
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
    if not 0 <= alpha <= 1:
        raise invalid("alpha", alpha, "a number in [0, 1]")
    image = _images(np.asarray(image)[None])[0]
    height, width = image.shape[:2]
    figure = _figure(4.2, 3.4)
    axes = figure.subplots()
    _bare(axes)
    axes.set_title(title)
    extent = (0, width, height, 0)
    axes.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=1, extent=extent)
    shown = np.asarray(saliency_map, np.float64)
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
    """
    figure = _figure(4.4, 5.6)
    diagram, shares = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    diagram.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle=":", label="calibrated")
    for index, (name, curve) in enumerate(curves.items()):
        confidence, accuracy, counts = (np.asarray(values, float) for values in curve)
        filled = counts > 0
        confidence, accuracy, counts = confidence[filled], accuracy[filled], counts[filled]
        if expected_calibration_errors and name in expected_calibration_errors:
            name = f"{name} (ECE {expected_calibration_errors[name]:.3f})"
        style = _line_style(index, index)
        if len(confidence) <= 40:  # bins are points; the nodes of a density are a line
            style |= {"marker": _MARKERS[index % len(_MARKERS)], "markersize": 5}
        diagram.plot(confidence, accuracy, label=name, **style)
        shares.plot(confidence, 100 * counts / counts.sum(), **style)
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
    figure = _figure(7.2, 3.6)
    axes = figure.subplots()
    for colour, (method, models) in enumerate(curves.items()):
        for dash, (model, curve) in enumerate(models.items()):
            name = f"{method}, {model}"
            mean, low, high = (np.asarray(values, float) for values in curve[:3])
            steps = len(mean)
            x = 100 * np.arange(1, steps + 1) / steps if removed is None else np.asarray(removed)
            if not len(x) == steps == len(low) == len(high):
                lengths = (len(x), steps, len(low), len(high))
                raise invalid("curves", f"lengths {lengths} for {name!r}", "one value a step")
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
    figure, axes, series = _grouped_axes(values, "values", ylabel)
    slot = 0.8 / len(series)
    for index, name in enumerate(series):
        colour = _COLOURS[index % len(_COLOURS)]
        samples = [np.asarray(group[name], float).ravel() for group in values.values()]
        samples = [sample[np.isfinite(sample)] for sample in samples]
        positions = np.arange(len(values)) + (index - (len(series) - 1) / 2) * slot
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
        shown = np.concatenate([np.ravel(v) for group in values.values() for v in group.values()])
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
    figure, axes, series = _grouped_axes(values, "values", ylabel)
    slot = 0.8 / len(series)
    for index, name in enumerate(series):
        estimate, low, high = np.array([group[name][:3] for group in values.values()], float).T
        positions = np.arange(len(values)) + (index - (len(series) - 1) / 2) * slot
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
    x = np.asarray(x, float)
    figure = _figure(7.2, 3.6)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        mean, low, high = (np.asarray(values, float) for values in curve[:3])
        if not len(mean) == len(low) == len(high) == len(x):
            lengths = (len(mean), len(low), len(high))
            raise invalid("curves", f"lengths {lengths} for {name!r}", f"{len(x)}, one a setting")
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


def _images(images: Any) -> np.ndarray:
    images = np.asarray(images)
    if images.shape[-1] not in (1, 3):
        raise invalid("images", f"{images.shape[-1]} channels", "1 or 3")
    scale = 255 if np.issubdtype(images.dtype, np.integer) else 1
    return np.clip(images / scale, 0, 1)


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

"""One function a table or figure of the paper: rows for a CSV, a figure, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.c2i.measurements import RANDOM, SWEPT, Measurements
from experiments.c2i.study import BASE
from experiments.common.methods import words
from experiments.common.script import Result
from jc2i import calibrators, metrics, normalize, plots
from jc2i.statistics import (
    Interval,
    mean_interval,
    paired_difference,
    ratio_interval,
    statistic_interval,
)

RESAMPLES_ECE = 200
"""Bootstrap resamples of calibration errors, each of which is estimated anew."""


def table1(measured: Measurements) -> Result:
    """Table 1: accuracy and calibration errors of the model, before and after calibration."""
    subject, rows = measured.subject, []
    labels = subject.evaluation_data.labels
    for version, calibrator in subject.calibrators.items():
        logits = np.asarray(calibrator(subject.evaluation_logits))
        rows.append(
            {
                "model": measured.study.title,
                "version": version,
                "images": len(labels),
                "temperature": float(getattr(calibrator, "temperature", np.nan)),
                **ratio_interval(logits.argmax(1) == labels).columns("accuracy"),
                **_density_error(logits, labels).columns("ece_density"),
                **_calibration(logits, labels),
            }
        )
    base, *others = rows
    said = ", ".join(f"{r['version']} {r['ece_density']:.3f}" for r in others)
    text = (
        f"Accuracy {base['accuracy']:.1%}; mean confidence {base['confidence']:.1%}. Expected "
        f"calibration error (density estimate) {base['ece_density']:.3f}; after calibration: "
        f"{said}."
    )
    return Result("Table 1: accuracy and calibration", text, rows)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(1, keepdims=True))
    return exponent / exponent.sum(1, keepdims=True)


def _density_error(logits: np.ndarray, labels: np.ndarray) -> Interval:
    return statistic_interval(
        lambda p, y: float(metrics.expected_calibration_error(p, y, estimator="density")),
        (_softmax(logits).astype(np.float32), labels),
        resamples=RESAMPLES_ECE,
    )


def _calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    p = _softmax(logits).astype(np.float32)
    values = {
        "confidence": p.max(1).mean(),
        "ece_density_own_bandwidths": metrics.expected_calibration_error(
            p, labels, estimator="density", shared_bandwidth=False
        ),
        "ece_equal_width": metrics.expected_calibration_error(p, labels, estimator="equal_width"),
        "ece_equal_mass": metrics.expected_calibration_error(p, labels, estimator="equal_mass"),
        "ece_classwise": metrics.classwise_calibration_error(p, labels),
        "ece_maximum": metrics.maximum_calibration_error(p, labels),
        "negative_log_likelihood": metrics.negative_log_likelihood(p, labels),
        "brier_score": metrics.brier_score(p, labels),
    }
    return {name: float(value) for name, value in values.items()}


def figure1(measured: Measurements) -> Result:
    """Figure 1: maps of a few images before and after each calibration."""
    count = min(6, len(measured.subject.images))
    shown, rows = {}, []
    for method in measured.study.methods:
        maps = measured.maps(method)
        for version in measured.study.versions:
            shown[f"{words(method)}\n{version}"] = np.asarray(normalize(maps[version][:count]))
            constant = np.ptp(maps[version], axis=(1, 2)) == 0
            rows.append(
                {"method": method, "version": version, "constant_maps": int(constant.sum())}
            )
    names = measured.subject.class_names
    titles = [names[int(t)] for t in measured.subject.predictions[BASE][:count]]
    changed = ", ".join(
        f"{(measured.subject.predictions[v] != measured.subject.predictions[BASE]).mean():.1%} "
        f"by {v}"
        for v in measured.study.calibrations
    )
    text = (
        "The first images of the evaluation, under their predicted class, and their maps, each "
        f"on its own scale. Calibration changed the predicted class of {changed}. The table counts "
        "maps that are the same everywhere (they rank no pixel and are scored in random order)."
    )
    figure = plots.saliency_grid(measured.subject.images[:count], shown, titles=titles)
    return Result("Figure 1: maps before and after calibration", text, rows, {"figure1": figure})


def figure2(measured: Measurements) -> Result:
    """Figure 2: reliability before and after calibration."""
    curves, errors, rows = {}, {}, []
    labels = measured.subject.evaluation_data.labels
    for version, calibrator in measured.subject.calibrators.items():
        p = _softmax(np.asarray(calibrator(measured.subject.evaluation_logits))).astype(np.float32)
        curve = metrics.reliability_curve(p, labels)
        confidence, accuracy, count = (
            np.asarray(v) for v in (curve.confidence, curve.accuracy, curve.count)
        )
        curves[version] = (confidence, accuracy, count)
        errors[version] = float(metrics.expected_calibration_error(p, labels, estimator="density"))
        for i in range(len(count)):
            rows.append(
                {
                    "version": version,
                    "bin": i,
                    "confidence": float(confidence[i]),
                    "accuracy": float(accuracy[i]),
                    "images": int(count[i]),
                }
            )
    figure = plots.reliability_diagram(curves, expected_calibration_errors=errors)
    text = "On the diagonal confidence is accuracy; below it the model is over-confident."
    return Result("Figure 2: reliability", text, rows, {"figure2": figure})


def figure4(measured: Measurements) -> Result:
    """Figure 4: how much each method's maps change."""
    values: dict[str, dict[str, np.ndarray]] = {}
    rows = []
    for method in measured.study.methods:
        values[words(method)] = {}
        for version in measured.study.calibrations:
            similarity = measured.similarity(method, version)
            values[words(method)][version] = similarity
            rows.append(
                {
                    "method": method,
                    "version": version,
                    **mean_interval(similarity).columns("ssim"),
                    "ssim_median": float(np.nanmedian(similarity)),
                }
            )
    figure = plots.distributions(values, ylabel="SSIM with the base model's map", kind="violin")
    text = (
        "Structural similarity between each map and the uncalibrated model's map of the same "
        "image: 1 is no change."
    )
    return Result("Figure 4: how much the maps change", text, rows, {"figure4": figure})


def figure5(measured: Measurements) -> Result:
    """Figure 5: one image's map, its binarised form and its deletion curve."""
    version = measured.study.calibrations[0]
    before, after = (measured.areas(SWEPT, v) for v in (BASE, version))
    sample = _median_index(after - before)
    image = measured.subject.images[sample : sample + 1]
    columns, shown, rows, curves = [], {"map": [], "Otsu mask": []}, [], {}
    for v in (BASE, version):
        maps = measured.maps(SWEPT)[v][sample : sample + 1]
        shown["map"].append(np.asarray(normalize(maps))[0])
        shown["Otsu mask"].append(np.asarray(metrics.otsu_foreground(maps))[0].astype(np.float32))
        columns.append(v)
        curve = measured.curves(SWEPT, v)[sample]
        curves[v] = (curve, curve, curve)
        rows += [
            {"image": sample, "version": v, "removed_percent": k + 1, "score": float(y)}
            for k, y in enumerate(curve)
        ]
    figures = {
        "figure5_maps": plots.saliency_grid(
            np.repeat(image, 2, axis=0), {k: np.stack(v) for k, v in shown.items()}, titles=columns
        ),
        "figure5_curves": plots.deletion_curves({words(SWEPT): curves}),
    }
    text = (
        f"Image {sample} of the evaluation: the one whose change of deletion area by {version} is "
        "the median of all images, so neither the best nor the worst case."
    )
    return Result("Figure 5: one image, Meaningful Perturbation", text, rows, figures)


def figure6(measured: Measurements) -> Result:
    """Figure 6: mean deletion curves before and after each calibration."""
    rows, figures = [], {}
    for version in measured.study.calibrations:
        curves: dict[str, dict[str, tuple]] = {}
        for method in (*measured.study.methods, RANDOM):
            for v in (BASE, version):
                band = _band(measured.curves(method, v))
                curves.setdefault(words(method), {})[v] = band
                if v == BASE and version != measured.study.calibrations[0]:
                    continue
                rows += [
                    {
                        "method": method,
                        "version": v,
                        "removed_percent": k + 1,
                        "score": float(band[0][k]),
                        "score_low": float(band[1][k]),
                        "score_high": float(band[2][k]),
                    }
                    for k in range(len(band[0]))
                ]
        figures[f"figure6_{version}"] = plots.deletion_curves(curves)
    text = "Probability of the explained class, relative to the whole image's, as the pixels that "
    text += "the map calls important are blurred first. Lower is more faithful. Bands: 95 %."
    return Result("Figure 6: deletion curves", text, rows, figures)


MEASURES: dict[str, tuple[str, Callable[[Measurements, str, str], np.ndarray]]] = {
    "deletion_area": ("deletion area", Measurements.areas),
    "better_than_random": ("better than random", Measurements.better_than_random),
    "otsu_total_variation": ("Otsu total variation", Measurements.otsu_total_variation),
}


def figure7(measured: Measurements) -> Result:
    """Figure 7: better-than-random ratio, Otsu total variation and deletion area."""
    rows, figures = [], {}
    for measure, (label, values_of) in MEASURES.items():
        shown: dict[str, dict[str, tuple]] = {}
        for method in measured.study.methods:
            shown[words(method)] = {}
            before = values_of(measured, method, BASE)
            for version in measured.study.versions:
                after = values_of(measured, method, version)
                whole = ratio_interval if measure == "better_than_random" else mean_interval
                mean = whole(after)
                shown[words(method)][version] = (mean.estimate, mean.low, mean.high)
                rows.append(
                    {
                        "measure": measure,
                        "method": method,
                        "version": version,
                        **mean.columns("mean"),
                        **paired_difference(before, after).columns("change"),
                    }
                )
        figures[f"figure7_{measure}"] = plots.bars(shown, ylabel=label)
    text = (
        "Share of images explained better than by random superpixels (higher is better), length "
        "of the outlines of the binarised map (lower is simpler), and area under the deletion "
        "curve (lower is more faithful). `change` is the paired difference from the base model."
    )
    return Result("Figure 7: faithfulness and clarity", text, rows, figures)


def figure8(measured: Measurements) -> Result:
    """Figure 8: deletion area against temperature and against calibration error."""
    fitted = measured.fitted_temperature
    labels = measured.subject.evaluation_data.labels
    rows = []
    for temperature, areas in measured.sweep_areas.items():
        scaled = calibrators.Temperature(np.float32(temperature))
        p = _softmax(np.asarray(scaled(measured.subject.evaluation_logits))).astype(np.float32)
        error = metrics.expected_calibration_error(p, labels, estimator="density")
        rows.append(
            {
                "temperature": float(temperature),
                "multiple_of_fitted": float(temperature / fitted),
                "images": len(areas),
                **mean_interval(areas).columns("deletion_area"),
                "ece_density": float(error),
            }
        )
    band = [np.array([row[f"deletion_area{end}"] for row in rows]) for end in ("", "_low", "_high")]
    name, ylabel = {"Meaningful Perturbation": tuple(band)}, "deletion area"
    figures = {
        "figure8_temperature": plots.sweep(
            np.array([row["temperature"] for row in rows]),
            name,
            xlabel="temperature",
            ylabel=ylabel,
            marked=(fitted, "fitted"),
            logarithmic=True,
        ),
        "figure8_error": _by_error(rows, fitted),
    }
    least = min(rows, key=lambda row: row["deletion_area"])
    text = (
        f"Fitted temperature {fitted:.2f}. The mean deletion area is least, "
        f"{least['deletion_area']:.3f}, at temperature {least['temperature']:.2f}."
    )
    return Result("Figure 8: deletion area and temperature", text, rows, figures)


def _by_error(rows: list[dict[str, Any]], fitted: float) -> Any:
    """Deletion area against ECE, over- and under-confident temperatures apart."""
    sides = {
        "over-confident (temperature too low)": [r for r in rows if r["temperature"] <= fitted],
        "under-confident (temperature too high)": [r for r in rows if r["temperature"] >= fitted],
    }
    errors = np.unique([row["ece_density"] for row in rows])
    curves = {}
    for name, side in sides.items():
        at = {row["ece_density"]: row for row in side}
        ends = ("", "_low", "_high")
        curves[name] = tuple(
            np.array([at[e][f"deletion_area{end}"] if e in at else np.nan for e in errors])
            for end in ends
        )
    return plots.sweep(
        errors, curves, xlabel="expected calibration error (density)", ylabel="deletion area"
    )


def figure9(measured: Measurements) -> Result:
    """Figure 9: local Lipschitz estimates before and after calibration."""
    values: dict[str, dict[str, np.ndarray]] = {}
    rows = []
    for method in measured.study.methods:
        estimates = measured.lipschitz(method)
        values[words(method)] = estimates
        for version in measured.study.versions:
            rows.append(
                {
                    "method": method,
                    "version": version,
                    **mean_interval(estimates[version]).columns("lipschitz"),
                    "lipschitz_median": float(np.nanmedian(estimates[version])),
                    **paired_difference(estimates[BASE], estimates[version]).columns("change"),
                }
            )
    figure = plots.distributions(
        values, ylabel="local Lipschitz estimate (lower is more stable)", logarithmic=True
    )
    text = (
        f"Largest change of the normalised map a change of the image, over "
        f"{measured.study.neighbours} neighbours within {measured.study.radius} of each image."
    )
    return Result("Figure 9: stability", text, rows, {"figure9": figure})


RESULTS: dict[str, Callable[[Measurements], Result]] = {
    "table1": table1,
    "figure1": figure1,
    "figure2": figure2,
    "figure4": figure4,
    "figure5": figure5,
    "figure6": figure6,
    "figure7": figure7,
    "figure8": figure8,
    "figure9": figure9,
}
"""What can be computed, in the order of the report."""


def _band(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    steps = [mean_interval(curves[:, k], resamples=500) for k in range(curves.shape[1])]
    return (
        np.array([s.estimate for s in steps]),
        np.array([s.low for s in steps]),
        np.array([s.high for s in steps]),
    )


def _median_index(values: np.ndarray) -> int:
    """The index of the (lower) median of the finite values."""
    order = np.argsort(values)  # NaN last
    return int(order[(np.isfinite(values).sum() - 1) // 2])

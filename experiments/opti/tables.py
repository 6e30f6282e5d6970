"""One function a table of the paper: rows for a CSV and what they say."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.common.script import Result
from experiments.opti.boxes import box_maps, restricted
from experiments.opti.measurements import LEAST, MOST, SECOND, TRUTH, Measurements
from experiments.opti.study import OPTI
from jc2i import checks, metrics
from jc2i.explainers.cam.opti_cam import as_masks
from jc2i.statistics import mean_interval, statistic_interval

Row = dict[str, Any]

NAMED = (
    "AD: average drop, AG: average gain, AI: average increase, in per cent of the ground-truth "
    "class's probability, of the image masked with the map; lower AD, higher AG and AI are better."
)


def drop_gain_increase(masked: np.ndarray) -> Row:
    """The columns AD, AG and AI, in the paper's order, with what was left out as 0/0."""
    drop, increase, gain = masked.T
    gains = mean_interval(gain)
    return {
        "images": len(masked),
        **mean_interval(drop).columns("AD"),
        **gains.columns("AG"),
        **mean_interval(increase).columns("AI"),
        "AG_dropped": gains.dropped,
    }


def table1(measured: Measurements) -> Result:
    """Tables 1, 2 and A.10: average drop, gain and increase of each method, and its time."""
    rows = []
    for method in measured.subject.methods:
        masked = measured.masked(measured.maps(method))
        seconds = measured.seconds(method)
        rows.append({"method": method, **drop_gain_increase(masked), "T": seconds})
    text = f"{NAMED} T: seconds for a batch of 8 images, compiled."
    return Result("Tables 1, 2, A.10: classification metrics", text, rows)


def times(measured: Measurements) -> Result:
    """The column T of table 1 alone: to be measured while nothing else runs."""
    rows = [{"method": m, "T": measured.seconds(m)} for m in measured.subject.methods]
    return Result("Seconds for a batch of 8 images", "Compiled; on this device.", rows)


def table3(measured: Measurements) -> Result:
    """Tables 3 and A.11: insertion and deletion of each method."""
    rows = []
    for method in measured.subject.methods:
        insertion = 100 * measured.insertion(method)
        rows.append(
            {
                "method": method,
                "images": len(insertion),
                **mean_interval(insertion).columns("I"),
                **mean_interval(100 * measured.deletion(method)).columns("D"),
            }
        )
    text = (
        "Area under the predicted class's probability, in per cent, as the pixels that the map "
        "calls important appear in a blurred image (I, higher is better) or turn to zero (D, "
        f"lower is better), in {measured.study.insertion_steps} steps."
    )
    return Result("Tables 3, A.11: insertion and deletion", text, rows)


ADCC_COLUMNS = ("ADCC", "coherency", "complexity", "ADCC_drop")
"""ADCC and its parts, as `jc2i.metrics.fidelity.masked.ADCC_PARTS` has them."""


def table4(measured: Measurements) -> Result:
    """Table 4: AOPC, max-sensitivity and ADCC of each method."""
    study, rows = measured.study, []
    for method in measured.subject.methods:
        row: Row = {"method": method, **mean_interval(100 * measured.aopc(method)).columns("AOPC")}
        if study.sensitivity_images:
            row |= mean_interval(measured.max_sensitivity(method)).columns("MS")
        if study.adcc_images:
            parts = zip(ADCC_COLUMNS, measured.adcc(method).T, strict=True)
            for name, values in parts:
                row |= mean_interval(values).columns(name)
        rows.append(row)
    text = (
        "AOPC (higher is better): the mean fall of the predicted class's probability, in per cent, "
        "as the map's 10 best patches of 14 pixels go. MS (lower): the largest relative change of "
        f"the map in {study.sensitivity_samples} draws of noise of up to "
        f"{study.sensitivity_radius:g}. ADCC (*higher* is better; the paper's arrow "
        "points the other way) joins the coherency, the complexity and the drop beside it."
    )
    return Result("Table 4: AOPC, max-sensitivity, ADCC", text, rows)


def table5(measured: Measurements) -> Result | None:
    """Table 5: the ground-truth box as a map, alone and cut out of each method's."""
    boxes = measured.subject.boxes
    if boxes is None:
        return None
    height, width = measured.subject.images.shape[1:3]
    rows = []
    for name, maps in box_maps(boxes, height, width).items():
        masked = measured.masked(np.asarray(maps), normalize=False)
        rows.append({"map": name, "part": "map", **drop_gain_increase(masked)})
    for method in measured.subject.methods:
        maps = measured.maps(method)
        for part, values in restricted(maps, boxes[: len(maps)]).items():
            masked = measured.masked(np.asarray(values), normalize=False)
            rows.append({"map": method, "part": part, **drop_gain_increase(masked)})
    labels, predicted = measured.subject.labels, measured.subject.ranked[:, 0]
    text = (
        f"{NAMED} The union of the ground-truth boxes as a mask, its complement, and each map "
        f"within and outside of it. The model is right on {(labels == predicted).mean():.1%} of "
        "these images."
    )
    return Result("Table 5: the bounding box study", text, rows)


def table6(measured: Measurements) -> Result:
    """Table 6: Opti-CAM with each objective and normalisation."""
    rows = []
    for normalization in ("min_max", "max", "sigmoid"):
        for objective in ("mask", "diff"):
            options = {"objective": objective, "normalization": normalization}
            rows.append({**options, **_opti(measured, **options)})
    return Result("Table 6: objectives and normalisations of Opti-CAM", NAMED, rows)


def table_a12(measured: Measurements) -> Result:
    """Table A.12: Opti-CAM with each objective, 50 steps."""
    rows = []
    for objective in ("mask", "diff", "iomask", "iodiff"):
        rows.append({"objective": objective, **_opti(measured, objective=objective, steps=50)})
    return Result("Table A.12: objectives of Opti-CAM, 50 steps", NAMED, rows)


def table_a13(measured: Measurements) -> Result:
    """Table A.13: Opti-CAM at several layers."""
    rows = [{"layer": layer, **_opti(measured, layer=layer)} for layer in measured.subject.layers]
    return Result("Table A.13: layers of Opti-CAM", NAMED, rows)


def _opti(measured: Measurements, normalization: str = "min_max", **changed: Any) -> Row:
    """Opti-CAM with other options, its maps made masks by the normalisation that it optimised."""
    options = {"normalization": normalization, **changed}
    maps = measured.maps(OPTI, most=measured.study.ablation_images, **options)
    masks = np.asarray(as_masks(maps, normalization))
    return drop_gain_increase(measured.masked(masks, normalize=False))


def table_a7(measured: Measurements) -> Result | None:
    """Tables A.7 and A.8: localization metrics of each method."""
    if measured.subject.boxes is None:
        return None
    rows = []
    for method in measured.subject.methods:
        found = measured.localization(method)
        columns: Row = {}
        for name in ("OM", "LE", "F1", "BA", "SP", "EP", "SM"):
            values = found[name]
            if name == "BA":
                known = np.isfinite(values).all(axis=(1, 2))
                interval = statistic_interval(_box_accuracy, (values[known],), resamples=500)
            else:
                interval = mean_interval(values)
            scale = 1 if name == "SM" else 100
            columns |= {
                key: value if key.endswith("_count") else scale * value
                for key, value in interval.columns(name).items()
            }
        rows.append({"method": method, **columns})
    text = (
        "In per cent, but for SM. OM: official metric, LE: localization error, SM: saliency "
        "metric (lower is better); F1: pixel-wise F1 score, BA: box accuracy, SP: standard and EP: "
        "energy pointing game (higher is better). A constant map has no box: it is left out."
    )
    return Result("Tables A.7, A.8: localization", text, rows)


def _box_accuracy(accuracies: np.ndarray) -> float:
    return float(np.asarray(metrics.max_box_accuracy(accuracies)))


OF_OTHER_CLASSES = ("grad_cam", "grad_cam_plus_plus", "score_cam", OPTI)
"""The methods of table A.9."""


def table_a9(measured: Measurements) -> Result:
    """Table A.9: maps of other classes, measured at the ground-truth class."""
    labels, predicted = measured.subject.labels, measured.subject.ranked[:, 0]
    methods = [m for m in OF_OTHER_CLASSES if m in measured.subject.methods]
    takes = f"one of {', '.join(OF_OTHER_CLASSES)} at least"
    checks.require(bool(methods), "methods", measured.subject.methods, takes)
    rows = []
    for method in methods:
        for explained in (TRUTH, MOST, SECOND, LEAST):
            masked = measured.masked(measured.maps(method, explained))
            rows.append({"method": method, "explained": explained, **drop_gain_increase(masked)})
            wrong = (labels != predicted)[: len(masked)]
            if explained == MOST and wrong.any():
                columns = drop_gain_increase(masked[wrong])
                rows.append({"method": method, "explained": "most probable, wrong", **columns})
    text = (
        f"{NAMED} The maps explain the class of each row; the last kind of rows is of the images "
        f"that the model gets wrong, {(labels != predicted).sum()} of {len(labels)}."
    )
    return Result("Table A.9: maps of other classes", text, rows)


def table_a14(measured: Measurements) -> Result:
    """Table A.14: classification metrics of the model without its normalisation of the images."""
    plain = measured.unnormalized
    rows = []
    for method in plain.subject.methods:
        masked = plain.masked(plain.maps(method))
        accuracy = (plain.subject.labels == plain.subject.ranked[:, 0]).mean()
        rows.append({"method": method, **drop_gain_increase(masked), "accuracy": float(accuracy)})
    before = (measured.subject.labels == measured.subject.ranked[:, 0]).mean()
    text = (
        f"{NAMED} The same weights, given images as they are: right on {rows[0]['accuracy']:.1%} "
        f"of them, in place of {before:.1%}."
    )
    return Result("Table A.14: without normalisation", text, rows)

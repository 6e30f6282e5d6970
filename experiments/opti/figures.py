"""One function a figure of the paper: rows for a CSV, a figure, and what it says."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from experiments.common.methods import words
from experiments.common.script import Result
from experiments.opti.measurements import Measurements
from experiments.opti.study import COSTLY, FAKE, OPTI
from experiments.opti.tables import NAMED, drop_gain_increase
from jc2i import metrics, normalize, plots
from jc2i.statistics import mean_interval

SHOWN = 4
"""Images of a figure of maps."""


def figure2(measured: Measurements) -> Result:
    """Figure 2: maps of a few images by each method."""
    count = min(SHOWN, measured.study.costly_images, len(measured.subject.images))
    # Spread over the images explained, which may be sorted by class; costly maps are of the first.
    costly = any(method in COSTLY for method in measured.subject.methods)
    of = min(len(measured.subject.images), measured.study.costly_images if costly else 10**9)
    places = np.linspace(0, of - 1, count).round().astype(int)
    shown, rows = {}, []
    for method in measured.subject.methods:
        maps = measured.maps(method)
        shown[words(method)] = np.asarray(normalize(maps[places]))
        constant = int((np.ptp(maps, axis=(1, 2)) == 0).sum())
        rows.append({"method": method, "images": len(maps), "constant_maps": constant})
    names = measured.subject.class_names
    titles = [names[int(c)] for c in measured.subject.labels[places]]
    figure = plots.saliency_grid(measured.subject.images[places], shown, titles=titles)
    text = "Images under their ground-truth class, which is explained; each map on its own scale. "
    text += "The table counts maps that are the same everywhere."
    return Result("Figure 2: saliency maps", text, rows, {"figure2": figure})


def figure3(measured: Measurements) -> Result | None:
    """Figure 3: where Score-CAM does well in insertion and deletion, and Opti-CAM does not."""
    if not {"score_cam", OPTI} <= set(measured.subject.methods):
        return None
    rivals, values = ("score_cam", OPTI), {}
    count = min(len(measured.insertion(method)) for method in rivals)
    for method in rivals:
        insertion = 100 * measured.insertion(method)[:count]
        deletion = 100 * measured.deletion(method)[:count]
        values[method] = (insertion, deletion)
    score, opti = (values[method] for method in rivals)
    fails = (score[0] > 90) & (score[1] < 10) & (opti[0] < 70) & (opti[1] > 15)
    # How much further apart insertion and deletion are: the worst of Opti-CAM's first.
    behind = (score[0] - score[1]) - (opti[0] - opti[1])
    worst = np.argsort(-behind)[:SHOWN]
    rows: list[dict[str, Any]] = [
        {
            "image": int(i),
            "class": measured.subject.class_names[int(measured.subject.labels[i])],
            "score_cam_insertion": float(score[0][i]),
            "score_cam_deletion": float(score[1][i]),
            "opti_cam_insertion": float(opti[0][i]),
            "opti_cam_deletion": float(opti[1][i]),
            "fails": bool(fails[i]),
        }
        for i in worst
    ]
    shown = {words(m): np.asarray(normalize(measured.maps(m)[worst])) for m in ("score_cam", OPTI)}
    figure = plots.saliency_grid(
        measured.subject.images[worst], shown, titles=[row["class"] for row in rows]
    )
    text = (
        f"Of {count} images {int(fails.sum())} are such that Score-CAM's insertion exceeds 90 and "
        "its deletion is below 10, while Opti-CAM's are below 70 and above 15 (the paper's "
        "choice). Shown are those where Opti-CAM is furthest behind, whether or not they are."
    )
    return Result(
        "Figure 3: insertion and deletion against Opti-CAM", text, rows, {"figure3": figure}
    )


def figure_a4(measured: Measurements) -> Result:
    """Figure A4: maps raised to a power before the image is masked with them."""
    exponents = np.array(sorted(measured.study.exponents))
    rows = []
    methods = [m for m in measured.subject.methods if m != FAKE]
    for method in methods:
        maps = np.asarray(normalize(measured.maps(method, most=measured.study.ablation_images)))
        for exponent in exponents:
            masked = measured.masked(maps ** np.float32(exponent), normalize=False)
            columns = drop_gain_increase(masked)
            rows.append({"method": method, "exponent": float(exponent), **columns})
    figures = _sweeps("figure_a4", rows, "exponent", exponents, "exponent of the map", "method")
    return Result(
        "Figure A4: selectivity", f"{NAMED} Of the map, raised to a power.", rows, figures
    )


def figure_a5(measured: Measurements) -> Result:
    """Figure A5: Opti-CAM after more steps, at several learning rates."""
    rows, iterations = [], np.array(sorted(measured.study.iterations))
    for rate in measured.study.learning_rates:
        for steps in iterations:
            maps = measured.maps(
                OPTI,
                most=measured.study.ablation_images,
                learning_rate=float(rate),
                steps=int(steps),
            )
            columns = drop_gain_increase(measured.masked(maps))
            rows.append({"learning_rate": f"{rate:g}", "steps": int(steps), **columns})
    figures = _sweeps("figure_a5", rows, "steps", iterations, "steps", "learning_rate")
    return Result("Figure A5: convergence of Opti-CAM", NAMED, rows, figures)


def _sweeps(
    name: str, rows: list[dict[str, Any]], column: str, x: np.ndarray, xlabel: str, series: str
) -> dict[str, Any]:
    """One figure for each of AD, AG and AI, one line for each value of a column."""
    figures = {}
    for measure in ("AD", "AG", "AI"):
        curves = {}
        for value in dict.fromkeys(row[series] for row in rows):
            own = sorted((r for r in rows if r[series] == value), key=lambda row: row[column])
            ends = ("", "_low", "_high")
            curves[words(value)] = tuple(np.array([r[measure + e] for r in own]) for e in ends)
        figures[f"{name}_{measure}"] = plots.sweep(
            x, curves, xlabel=xlabel, ylabel=f"{measure} (%)", logarithmic=True
        )
    return figures


def hog_similarity(first: np.ndarray, second: np.ndarray) -> Any:
    """HOG similarity with the cells of 16 pixels that are usual, or smaller ones in small maps."""
    fitting = min(first.shape[1:]) // 3  # a block is of three cells a side
    return metrics.hog_similarity(first, second, cell=max(1, min(16, fitting)))


SIMILARITIES = {
    "spearman": metrics.spearman,
    "absolute_spearman": partial(metrics.spearman, absolute=True),
    "HOG": hog_similarity,
    "SSIM": metrics.structural_similarity,
}
"""How alike two maps are, as the paper's figure A6 has it."""


def figure_a6(measured: Measurements) -> Result:
    """Figures A6 and A7: Opti-CAM's maps as the model's layers turn random, from the top."""
    maps, names = measured.randomized(OPTI)
    count = maps.shape[0]
    clean = np.asarray(normalize(measured.maps(OPTI)[:count]))
    rows, shown = [], {"trained": clean[:SHOWN]}
    for place, name in enumerate(names):
        random = np.asarray(normalize(maps[:, place]))
        shown[name] = random[:SHOWN]
        for measure, similarity in SIMILARITIES.items():
            values = np.asarray(similarity(clean, random))
            rows.append(
                {
                    "randomized": name,
                    "layers": place + 1,
                    "similarity": measure,
                    **mean_interval(values).columns("mean"),
                }
            )
    x = np.arange(1, len(names) + 1)
    curves = {}
    for measure in SIMILARITIES:
        own = [row for row in rows if row["similarity"] == measure]
        curves[measure] = tuple(
            np.array([r["mean" + e] for r in own]) for e in ("", "_low", "_high")
        )
    figures = {
        "figure_a6": plots.sweep(
            x, curves, xlabel="layers randomised, from the top", ylabel="similarity"
        ),
        "figure_a7": plots.saliency_grid(measured.subject.images[: len(shown["trained"])], shown),
    }
    text = (
        f"{count} images. The weights of the layers are replaced by random ones from the last "
        "layer down; a method that shows what the model has learnt changes its maps."
    )
    return Result("Figures A6, A7: sanity check", text, rows, figures)


def permuted_labels(measured: Measurements) -> Result | None:
    """Appendix G: maps beside those of a twin that was trained on permuted labels."""
    if measured.study.twin is None:
        return None
    rows = []
    for method in measured.subject.methods:
        twin = np.asarray(normalize(measured.of_twin(method)))
        own = np.asarray(normalize(measured.maps(method)[: len(twin)]))
        for measure, similarity in SIMILARITIES.items():
            # What maps of one model have in common whatever the image: of the next one.
            others = similarity(own, np.roll(own, 1, axis=0))
            rows.append(
                {
                    "method": method,
                    "similarity": measure,
                    **mean_interval(np.asarray(similarity(own, twin))).columns("mean"),
                    **mean_interval(np.asarray(others)).columns("others_mean"),
                }
            )
    text = (
        "How alike each map is to that of a model trained on permuted labels, and, as what is no "
        "likeness at all (others), to the same model's map of another image."
    )
    return Result("Appendix G: permuted labels", text, rows)

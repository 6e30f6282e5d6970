"""One function a table of the paper, and those of ours: rows for a CSV and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.common.script import Result
from experiments.stability.measurements import Compared, Measurements, Sets
from experiments.stability.printed import MEASURES, NETWORKS
from experiments.stability.study import (
    CONTROL,
    LIPSCHITZ,
    MAGNITUDES,
    MODEL,
    RANDOM,
    Setting,
)
from jc2i import metrics
from jc2i.statistics import Interval

Row = dict[str, Any]

INTERVALS = (
    "Intervals (95 %) are over images and folds: the variance over images by the bootstrap, all "
    "pairs of an image together, plus that over folds by leaving out each in turn, times Student's "
    "quantile for k - 1 degrees of freedom."
)


def mege(sets: Sets) -> float:
    """Mean generalizability, as a statistic."""
    return sets.mege


def reco(sets: Sets) -> float:
    """Relative consistency, as a statistic."""
    return sets.reco


def contrast(sets: Sets) -> float:
    """How much further apart contradicting models' maps of one image are, as a statistic."""
    return sets.contrast


STATISTICS = {"MeGe": mege, "ReCo": reco}


def measures(measured: Measurements, compared: Compared) -> Row:
    """The columns MeGe and ReCo, and how many distances they are of."""
    sets = compared.sets
    found: Row = {"images": len(compared)}
    for name, statistic in STATISTICS.items():
        found |= columns(name, measured.interval(statistic, compared))
    return found | {
        "agreeing": int(np.isfinite(sets.agreeing).sum()),
        "disagreeing": int(np.isfinite(sets.disagreeing).sum()),
    }


def columns(name: str, found: Interval) -> Row:
    """An interval's columns without its count, which is the row's number of images."""
    own = found.columns(name)
    del own[f"{name}_count"]
    return own


def models(measured: Measurements) -> Result:
    """Appendix E: the accuracy of each fold's model, also of the spoilt ones."""
    rows = []
    for setting in settings(measured):
        accuracies = measured.subject.accuracies(setting)
        rows.append(
            {
                "models": setting.name,
                "accuracy": float(accuracies.mean()),
                "lowest": float(accuracies.min()),
                "highest": float(accuracies.max()),
                "within": float(np.abs(accuracies - accuracies.mean()).max()),
                "explained": float(
                    measured.correct(setting, None, measured.study.degraded_images).mean()
                ),
            }
        )
    text = (
        f"{measured.study.k} models, each trained on the images of all folds but one "
        f"({len(measured.subject.dataset)} images in all). Accuracy on "
        f"{len(measured.subject.test_data)} images of no fold: the folds' mean, lowest and "
        "highest, and the largest distance from the mean; `explained` is that on the images "
        "explained, most of which four of five models were trained on."
    )
    return Result("Appendix E: models", text, rows)


def settings(measured: Measurements) -> list[Setting]:
    """All models of a study: as trained, and spoilt."""
    return [*measured.subject.networks, *degraded(measured)]


def degraded(measured: Measurements) -> list[Setting]:
    """The spoilt ones."""
    study = measured.study
    return [
        *(Setting(kind="labels", share=share) for share in sorted(study.inverted_shares)),
        *(Setting(kind="noise", share=share) for share in sorted(study.noise_shares)),
    ]


def table1(measured: Measurements) -> Result:
    """Tables 1, 5, 6 and 7: fidelity, MeGe and ReCo of each method, for the data of the study."""
    study, rows = measured.study, []
    printed = MEASURES.get(study.printed or "", {})
    for method in measured.study.methods:
        compared = measured.compared(MODEL, method)
        fidelity = measured.fidelity(MODEL, method)
        rows.append(
            {
                "method": method,
                **columns("fidelity", measured.interval(np.nanmean, fidelity)),
                "fidelity_images": len(fidelity),
                **measures(measured, compared),
                **_null("ReCo_null", shuffled(compared), compared.sets.reco),
                **_null("ReCo_chance", by_chance(compared), compared.sets.reco),
                **columns("contrast", measured.interval(contrast, compared)),
                "ReCo_AUC": float(
                    metrics.reco_auc(
                        compared.sets.agreeing, compared.sets.disagreeing, rates=study.rates
                    )
                ),
                **{
                    f"paper_{name}": printed.get(name, {}).get(method, np.nan)
                    for name in ("fidelity", "MeGe", "ReCo")
                },
            }
        )
    text = (
        f"Mu-fidelity, MeGe and ReCo; higher is better. {INTERVALS} ReCo's null is what a method "
        "gets when the folds' labels are shuffled image by image, so that a map no longer belongs "
        "to the answer that it explains while hard images stay hard; its chance, when the answers "
        "about one image go to another: mean and 95 % quantile of "
        f"{study.shuffles} shuffles, and the part of them that reach what was found (p). "
        "Contrast: how much further apart, image by image, maps of contradicting models are than "
        "those of agreeing ones. Beside them what the paper prints for such data: MeGe below .5 is "
        "outside the range of its equation (5) with its distance, so only orders can be compared."
    )
    return Result("Tables 1, 5, 6, 7: fidelity, generality, consistency", text, rows)


def _null(name: str, drawn: np.ndarray, found: float) -> Row:
    """Mean and 95 % quantile of a null, but for draws that left a set empty, and the p-value."""
    drawn = drawn[np.isfinite(drawn)]
    high = float(np.quantile(drawn, 0.95)) if len(drawn) else np.nan
    return {
        name: float(drawn.mean()) if len(drawn) else np.nan,
        f"{name}_high": high,
        f"{name}_p": (1 + int((drawn >= found).sum())) / (1 + len(drawn)),
    }


def shuffled(compared: Compared) -> np.ndarray:
    """ReCo where the folds' labels are shuffled, image by image: as many values as shuffles.

    A map keeps its place, and whether its model is right becomes that of another model: hard images
    stay hard, and what is left of ReCo is that their maps are less alike, whoever is right.
    """
    random = np.random.default_rng(compared.study.seed)
    found = []
    for _ in range(compared.study.shuffles):
        correct = random.permuted(compared.correct, axis=0)
        sets = metrics.split_pairs(
            compared.distances, correct, compared.folds, pairs=compared.study.pairs
        )
        found.append(float(metrics.reco(*sets, rates=compared.study.rates)))
    return np.array(found)


def by_chance(compared: Compared) -> np.ndarray:
    """ReCo where answers go to other images, so that distances and they have nothing in common."""
    study = compared.study
    found = metrics.reco_null(
        compared.distances,
        compared.correct,
        compared.folds,
        key=jax.random.key(study.seed),
        draws=study.shuffles,
        pairs=study.pairs,
        rates=study.rates,
    )
    return np.asarray(found)


def table2(measured: Measurements) -> Result | None:
    """Table 2: MeGe of the model and of the 1-Lipschitz network."""
    return _networks(measured, "MeGe", "Table 2: 1-Lipschitz networks, MeGe")


def table3(measured: Measurements) -> Result | None:
    """Table 3: ReCo of the model and of the 1-Lipschitz network."""
    return _networks(measured, "ReCo", "Table 3: 1-Lipschitz networks, ReCo")


def _networks(measured: Measurements, measure: str, heading: str) -> Result | None:
    if LIPSCHITZ not in measured.subject.networks:
        return None
    statistic, rows = STATISTICS[measure], []
    for method in measured.study.methods:
        both = [measured.compared(setting, method) for setting in (MODEL, LIPSCHITZ)]
        row: Row = {"method": method, "images": min(map(len, both))}
        for setting, compared in zip((MODEL, LIPSCHITZ), both, strict=True):
            row |= columns(setting.name, measured.interval(statistic, compared))
        row |= columns("gain", gain(measured, measure, *both))
        row |= {
            f"paper_{name}": NETWORKS[measure][name].get(method, np.nan)
            for name in ("model", "lipschitz")
        }
        rows.append(row)
    text = (
        f"{measure} with both networks, and what the 1-Lipschitz one gains, on the same images and "
        f"folds. {INTERVALS} The paper's values are of CIFAR-10."
    )
    return Result(heading, text, rows)


def gain(measured: Measurements, measure: str, before: Compared, after: Compared) -> Interval:
    """By how much a measure grows from one to the other, on the same images and folds."""
    statistic = STATISTICS[measure]
    return measured.interval(lambda a, b: statistic(b) - statistic(a), before, after)


PRODUCTS = {CONTROL: RANDOM, "gradient_x_input": "sensitivity"}
"""Methods that multiply by the image, and the same ones without."""


def product(measured: Measurements) -> Result:
    """Section 4.4: what the product with the image does to MeGe and ReCo."""
    text = (
        "The same maps without and with the product with the image; the first row is a random "
        "map, which knows nothing of the model: all that it gains is the image's. Of two maps on "
        f"{_background(measured):.0%} of whose pixels the image is zero, the product makes those "
        f"pixels equal. {INTERVALS}"
    )
    rows = _changed(measured, PRODUCTS, "times_input")
    return Result("Section 4.4: the product with the input", text, rows)


def _changed(measured: Measurements, pairs: Mapping[str, str], how: str) -> list[Row]:
    """MeGe and ReCo of methods, and of what they become."""
    rows = []
    for method, plain in pairs.items():
        before, after = measured.compared(MODEL, plain), measured.compared(MODEL, method)
        row: Row = {"map": plain, "becomes": method, "images": len(before)}
        for measure, statistic in STATISTICS.items():
            row |= columns(measure, measured.interval(statistic, before))
            row |= columns(f"{measure}_{how}", measured.interval(statistic, after))
            row |= columns(f"{measure}_gain", gain(measured, measure, before, after))
        rows.append(row)
    return rows


def _background(measured: Measurements) -> float:
    return float((measured.subject.images == 0).all(axis=-1).mean())


def signs(measured: Measurements) -> Result | None:
    """Ours: what the sign of integrated gradients and SmoothGrad does to MeGe and ReCo."""
    pairs = {m: plain for m, plain in MAGNITUDES.items() if plain in measured.study.methods}
    if not pairs:
        return None
    text = (
        "The maps as their formulas are printed, which are signed, and their absolute values, of "
        f"the same maps. {INTERVALS}"
    )
    return Result("Ours: signed and absolute maps", text, _changed(measured, pairs, "absolute"))


def calibration(measured: Measurements) -> Result:
    """Ours: MeGe and ReCo of calibrated models; does calibration make explanations better?"""
    study, rows = measured.study, []
    names = ("identity", *(name for name in study.calibrators if name != "identity"))
    errors = {name: _calibration_error(measured, name) for name in names}
    for method in study.methods:
        chosen = {"most": study.calibrated_images}
        base = measured.compared(MODEL, method, calibrator="identity", **chosen)
        for name in names:
            compared = measured.compared(MODEL, method, calibrator=name, **chosen)
            row: Row = {"method": method, "calibrator": name, **measures(measured, compared)}
            for measure in STATISTICS:
                row |= columns(f"{measure}_gain", gain(measured, measure, base, compared))
            rows.append(row | {"ECE": errors[name]})
    text = (
        "Each fold's model calibrated on the same images of no fold, and the *probability* "
        "explained on both sides (a temperature divides logits by one number, which changes no "
        "map's ranks). The gain is over the model as it was trained, on the same images and folds. "
        f"ECE: the folds' mean calibration error on other images of no fold. {INTERVALS}"
    )
    return Result("Ours: explanations of calibrated models", text, rows)


def _calibration_error(measured: Measurements, calibrator: str) -> float:
    labels = measured.subject.test_data.labels
    return float(
        np.mean(
            [
                metrics.expected_calibration_error(one, labels, estimator="equal_width")
                for one in measured.probabilities(MODEL, calibrator)
            ]
        )
    )

from __future__ import annotations

import dataclasses
import re
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import sklearn.datasets

import experiments.opti
import jc2i
from experiments import opti_cam as script
from experiments.common.tables import read_csv
from experiments.opti.canvases import canvases
from experiments.opti.figures import SIMILARITIES
from experiments.opti.measurements import Measurements
from experiments.opti.study import ATTENTION, CONVOLUTIONAL, Study
from jc2i import data, explainers, metrics, models

INTERVALS = ("", "_low", "_high", "_count")


def with_intervals(*names):
    return [name + end for name in names for end in INTERVALS]


MASKED = ["images", *with_intervals("AD", "AG", "AI"), "AG_dropped"]
INSERTED = with_intervals("I", "D")
COLUMNS = {
    "times": ["method", "T"],
    "table1": ["method", *MASKED, "T"],
    "figure2": ["method", "images", "constant_maps"],
    "table3": ["method", "images", *INSERTED],
    "figure3": [
        *("image", "class", "score_cam_insertion", "score_cam_deletion"),
        *("opti_cam_insertion", "opti_cam_deletion", "fails"),
    ],
    "table4": [
        "method",
        *with_intervals("AOPC", "MS", "ADCC", "coherency", "complexity", "ADCC_drop"),
    ],
    "table5": ["map", "part", *MASKED],
    "table6": ["objective", "normalization", *MASKED],
    "table_a7": ["method", *with_intervals("OM", "LE", "F1", "BA", "SP", "EP", "SM")],
    "table_a9": ["method", "explained", *MASKED],
    "table_a12": ["objective", *MASKED],
    "table_a13": ["layer", *MASKED],
    "table_a14": ["method", *MASKED, "accuracy"],
    "figure_a4": ["method", "exponent", *MASKED],
    "figure_a5": ["learning_rate", "steps", *MASKED],
    "figure_a6": ["randomized", "layers", "similarity", *with_intervals("mean")],
    "permuted_labels": ["method", "similarity", *with_intervals("mean", "others_mean")],
    "claims": ["claim", *with_intervals("gain"), "verdict"],
}
FIGURES = {"figure2", "figure3", "figure_a6", "figure_a7"} | {
    f"figure_{number}_{measure}" for number in ("a4", "a5") for measure in ("AD", "AG", "AI")
}
METHODS = ("fake_cam", "grad_cam", "score_cam", "opti_cam")
WITH_BOXES = ("table5", "table_a7")
"""Of a study with boxes alone."""
QUICK = ("table1", "table5")
TRANSFORMER = Path(experiments.opti.__file__).parent / "models" / "vit-canvases"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Digits on canvases, and a network with random weights."""
    folder = tmp_path_factory.mktemp("opti")
    digits = sklearn.datasets.load_digits()
    items = (digits.images[:16, ..., None] * 15.9).astype(np.uint8)
    drawn, labels, boxes = canvases(items, digits.target[:16], size=56, seed=0)
    arrays = {"images": drawn, "labels": labels}
    with_boxes = {f"test_{name}": array for name, array in (arrays | {"boxes": boxes}).items()}
    np.savez(folder / "boxed.npz", **with_boxes)
    np.savez(folder / "plain.npz", **arrays)
    model = models.create(
        "small", classes=10, key=jax.random.key(0), size=56, channels=1, mean=(0.1,), std=(0.3,)
    )
    models.save(model, folder / "network")
    return Study(
        data=str(folder / "boxed.npz"),
        model=str(folder / "network"),
        twin=str(folder / "network"),
        name="tiny",
        out=folder / "results",
        methods=METHODS,
        images=4,
        costly_images=3,
        curve_images=3,
        ablation_images=2,
        adcc_images=2,
        sensitivity_images=2,
        randomized_images=2,
        steps=3,
        learning_rates=(0.1, 1.0),
        iterations=(1, 3),
        exponents=(0.5, 1.0, 2.0),
        insertion_steps=4,
        # All in one batch, so on one device: what several compute has a test of its own.
        batch_size=4,
        progress=False,
    )


@pytest.fixture(scope="module")
def tables(study):
    """Two tables of two methods, made once: what every run of the suite has time for."""
    small = dataclasses.replace(study, name="tables", methods=("grad_cam", "opti_cam"))
    for name in QUICK:
        assert script.SCRIPT.run(name, small) == small.folder
    return small


@pytest.fixture(scope="module")
def report(study):
    """The page of the whole report: made once, read by many tests."""
    return script.SCRIPT.run("report", study)


def cached(study):
    """The finished batches."""
    return set((study.out / "cache").glob("**/*.npz"))


def written(folder, suffix):
    return {path.stem for path in folder.glob(f"*{suffix}")}


def assert_whole(folder, name):
    rows = read_csv(folder / f"{name}.csv")
    assert rows and list(rows[0]) == COLUMNS[name], name


@pytest.mark.parametrize("radius", [0.0, -1.0, float("inf"), float("nan")])
def test_noise_of_no_size_is_refused(radius):
    with pytest.raises(ValueError, match=r"^sensitivity_radius: got .*, takes a number above 0"):
        Study(sensitivity_radius=radius)


def test_more_noise_and_more_draws_move_maps_further(tables):
    def moved(**options):
        return Measurements(dataclasses.replace(tables, **options)).max_sensitivity("grad_cam")

    few = moved(sensitivity_samples=1, sensitivity_radius=0.05)
    assert (few < moved(sensitivity_samples=1, sensitivity_radius=0.4)).all()
    assert (few < moved(sensitivity_samples=4, sensitivity_radius=0.4)).all()


def test_measures_of_no_images_are_left_out_of_table_4(tables):
    without = dataclasses.replace(tables, name="left-out", adcc_images=0, sensitivity_images=0)
    script.SCRIPT.run("table4", without)
    rows = read_csv(without.folder / "table4.csv")
    assert {name.split("_")[0] for name in rows[0]} == {"method", "AOPC"}


def test_a_twin_that_is_the_model_explains_as_it_does(tables):
    folder = script.SCRIPT.run("permuted_labels", dataclasses.replace(tables, name="twin"))
    rows = {(r["method"], r["similarity"]): r for r in read_csv(folder / "permuted_labels.csv")}
    for measure in ("spearman", "absolute_spearman", "HOG", "SSIM"):
        row = rows["grad_cam", measure]
        assert row["mean"] == pytest.approx(1, abs=1e-5) and row["others_mean"] < 0.99


@pytest.mark.parametrize(("side", "cell"), [(56, 16), (48, 16), (28, 9), (8, 2)])
def test_maps_of_any_size_are_compared_by_their_gradients(side, cell):
    first, second = np.random.default_rng(0).random((2, 3, side, side), np.float32)
    found = SIMILARITIES["HOG"](first, second)
    np.testing.assert_array_equal(found, metrics.hog_similarity(first, second, cell=cell))


def test_without_a_twin_there_is_nothing_to_say_of_permuted_labels(tables):
    with pytest.raises(ValueError, match="Not of this study"):
        script.SCRIPT.run("permuted_labels", dataclasses.replace(tables, twin=None))


def test_one_command_writes_its_table(tables):
    assert written(tables.folder, ".csv") == set(QUICK) and not written(tables.folder, ".html")
    for name in QUICK:
        assert_whole(tables.folder, name)
        assert (tables.folder / f"{name}.json").exists()


@pytest.mark.slow
def test_report_writes_every_table_and_figure(study, report):
    assert written(study.folder, ".csv") == {*script.RESULTS, "claims"} == set(COLUMNS)
    assert written(study.folder, ".png") == FIGURES
    for name in COLUMNS:
        assert_whole(study.folder, name)


@pytest.mark.slow
def test_page_has_every_section_and_figure(study, report):
    page = report.read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert len(headings) == len(script.RESULTS) + 2  # the claims, and how it was made
    assert page.count("data:image/png;base64,") == len(FIGURES)
    assert "Opti-CAM: AD " in page and "<script" not in page


@pytest.mark.slow
def test_rows_are_the_methods_and_their_numbers_of_images(study, report):
    for name in ("table1", "table_a14", "figure2"):
        rows = read_csv(study.folder / f"{name}.csv")
        counts = {row["method"]: row["images"] for row in rows}
        assert counts == {m: 3 if m == "score_cam" else 4 for m in METHODS}, name
    assert {row["images"] for row in read_csv(study.folder / "table3.csv")} == {3}
    for name in ("table6", "table_a12", "table_a13", "figure_a4", "figure_a5"):
        assert {row["images"] for row in read_csv(study.folder / f"{name}.csv")} == {2}, name
    verdicts = {row["verdict"] for row in read_csv(study.folder / "claims.csv")}
    assert verdicts <= {"holds", "fails", "open"}


def direct(study):
    """The images explained, their classes and the model, without the script's own code."""
    dataset = data.load(study.data, "evaluation")
    images = data.as_float(dataset.images[:4])
    boxes = list(dataset.boxes[:4])
    return models.load(study.model), images, np.asarray(dataset.labels[:4], np.int32), boxes


def worked(probabilities, images, labels, masks, mean=0.1):
    """AD, AG and AI by their equations (13) to (15), in NumPy."""
    masks = np.asarray(masks)[..., None]
    rows = np.arange(len(masks))
    before, after = (
        np.asarray(probabilities(np.float32(x)), np.float64)[rows, labels[: len(rows)]]
        for x in (images[: len(rows)], images[: len(rows)] * masks + mean * (1 - masks))
    )
    return {
        "AD": 100 * np.mean(np.maximum(before - after, 0) / before),
        "AG": 100 * np.mean(np.maximum(after - before, 0) / (1 - before)),
        "AI": 100 * np.mean(after > before),
    }


def assert_row(row, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(row[name], value, rtol=2e-3, atol=1e-4, err_msg=str(row))


def scaled(maps):
    maps = np.asarray(maps, np.float64)
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return (maps - low) / (high - low)


@pytest.mark.parametrize("method", ["grad_cam", "opti_cam"])
def test_numbers_are_those_of_the_library_called_directly(tables, method):
    model, images, labels, boxes = direct(tables)
    options = {"steps": 3, "baseline": (0.1,)} if method == "opti_cam" else {}
    maps = getattr(explainers, method)(jc2i.logits(model), images, labels, **options)
    probabilities = jc2i.probabilities(model)
    rows = {row["method"]: row for row in read_csv(tables.folder / "table1.csv")}
    assert_row(rows[method], worked(probabilities, images, labels, scaled(maps)))
    parts = {
        row["part"]: row for row in read_csv(tables.folder / "table5.csv") if row["map"] == method
    }
    inside = np.asarray(metrics.box_mask(boxes, 56, 56)).astype(float)
    assert_row(parts["map"], worked(probabilities, images, labels, scaled(maps)))
    for part, share in (("inside", inside), ("outside", 1 - inside)):
        assert_row(parts[part], worked(probabilities, images, labels, scaled(maps) * share))


def test_box_rows_are_those_of_the_boxes_as_masks(tables):
    model, images, labels, boxes = direct(tables)
    inside = np.zeros((4, 56, 56))
    for mask, ((top, left, bottom, right),) in zip(
        inside, np.round(np.array(boxes) * 56), strict=True
    ):
        mask[int(top) : int(bottom), int(left) : int(right)] = 1
    rows = {row["map"]: row for row in read_csv(tables.folder / "table5.csv")}
    probabilities = jc2i.probabilities(model)
    assert_row(rows["box"], worked(probabilities, images, labels, inside))
    assert_row(rows["complement"], worked(probabilities, images, labels, 1 - inside))


@pytest.mark.slow
def test_a_model_without_normalisation_is_another_one(study, report):
    model, images, labels, _ = direct(study)
    plain = models.load(study.model, normalize=False)
    logits = np.asarray(plain(images))
    rows = read_csv(study.folder / "table_a14.csv")
    assert {row["accuracy"] for row in rows} == {float((logits.argmax(1) == labels).mean())}
    assert np.abs(logits - np.asarray(model(images))).max() > 1e-3


def assert_kept(name, study, out):
    """One command, from the same cache, writes the same files and computes nothing."""
    before = cached(study)
    alone = dataclasses.replace(study, out=out, cache=study.out / "cache")
    script.SCRIPT.run(name, alone)
    assert before and cached(study) == before
    assert written(alone.folder, ".csv") == {name}
    for path in (*alone.folder.glob("*.csv"), *alone.folder.glob("*.png")):
        assert path.read_bytes() == (study.folder / path.name).read_bytes(), path


def test_a_second_run_computes_nothing(tables, tmp_path):
    assert_kept("table5", tables, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", script.RESULTS)
def test_one_command_writes_what_the_report_does(study, report, name, tmp_path):
    assert_kept(name, study, tmp_path)


@pytest.mark.slow
def test_without_boxes_there_are_no_tables_of_them(study, report, tmp_path):
    plain = dataclasses.replace(
        study,
        data=study.data.replace("boxed", "plain"),
        name="plain",
        out=tmp_path,
        cache=study.out / "cache",
    )
    page = script.SCRIPT.run("report", plain).read_text()
    assert written(plain.folder, ".csv") == set(COLUMNS) - set(WITH_BOXES)
    assert "Table 5" not in page and "A.7" not in page
    assert not [row for row in read_csv(plain.folder / "claims.csv") if "box" in row["claim"]]


@pytest.mark.parametrize("name", WITH_BOXES)
def test_tables_of_boxes_are_refused_without_them(study, name, tmp_path):
    plain = dataclasses.replace(study, data=study.data.replace("boxed", "plain"), out=tmp_path)
    said = script.RESULTS[name].__doc__
    with pytest.raises(ValueError, match=f"^{name}: {re.escape(said)} Not of this study.$"):
        script.SCRIPT.run(name, plain)
    assert not list(tmp_path.glob("**/*.csv"))


def test_methods_follow_the_kind_of_model(study):
    assert Measurements(dataclasses.replace(study, methods=())).subject.methods == CONVOLUTIONAL
    chosen = dataclasses.replace(study, model=str(TRANSFORMER))
    assert Measurements(chosen).subject.methods == METHODS
    methods = Measurements(dataclasses.replace(chosen, methods=())).subject.methods
    assert sorted(methods) == sorted({*CONVOLUTIONAL, *ATTENTION} - {"ablation_cam"})


def run_script(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["opti_cam.py", *arguments])
    runpy.run_path(script.__file__, run_name="__main__")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "steps: got 0, takes a number above 0"),
        (["--costly-images", "0"], "costly_images: got 0, takes a number above 0"),
        (["--lime-samples", "-1"], "lime_samples: got -1, takes a number above 0"),
        (["--adcc-images", "-1"], "adcc_images: got -1, takes a whole number of at least 0"),
        (["--iterations", "0"], "iterations: got (0,), takes numbers above 0"),
        (["--images", "100"], "images: got 100, takes at most the 8 there are"),
        (["--layer", "layer4"], "layer: got 'layer4', takes one of block0, block1, dense"),
        (["--model", "nowhere/model"], ".*nowhere/model"),
    ],
)
def test_bad_options_give_one_line_and_leave_nothing(
    study, tmp_path, monkeypatch, capsys, arguments, message
):
    given = {"--model": study.model, "--data": study.data, "--images": "4"}
    given |= {"--out": str(tmp_path / "out")} | {arguments[0]: arguments[1]}
    words = [word for option in given.items() for word in option]
    with pytest.raises(SystemExit) as refusal:
        run_script(["table1", "--methods", "grad_cam", "--no-progress", *words], monkeypatch)
    errors = capsys.readouterr().err
    assert refusal.value.code == 2 and errors.count("\n") == 1
    assert re.match(f"opti_cam.py: {message}".replace("(0,)", r"\(0,\)"), errors)
    assert not list(tmp_path.glob("**/*.csv"))


def test_a_model_without_a_mean_has_no_mean_to_mask_with(study):
    subject = Measurements(study).subject
    np.testing.assert_array_equal(subject.baseline, np.float32([0.1]))
    unknown = Measurements(study).subject
    unknown.model = lambda images: images.mean((1, 2))  # in place of the one that is loaded
    with pytest.raises(ValueError, match=r"^baseline: got mean, takes zero or blur, for a model"):
        unknown.baseline  # noqa: B018
    zero = Measurements(dataclasses.replace(study, baseline="zero")).subject
    assert zero.baseline == 0.0

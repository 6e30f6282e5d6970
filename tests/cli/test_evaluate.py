from __future__ import annotations

import csv
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i import calibrators, data, metrics, models


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_calibration_and_explanations_before_and_after(run, labelled, tmp_path, saved_model):
    fitted = tmp_path / "temperature.npz"
    calibrators.save(calibrators.Temperature(jnp.float32(0.25)), fitted)
    code, output, errors = run(
        *("evaluate", labelled, "--out", tmp_path, "--calibration", fitted, "--images", "6"),
        *("--methods", "grad-cam", "sensitivity", "--steps", "10", "--resize", "squash"),
    )
    assert (code, errors) == (0, "")
    assert all(title in output for title in ("Calibration", "grad-cam: means", "sensitivity: me"))

    dataset = data.load(labelled, "all")
    model = models.load(saved_model)
    images = jnp.asarray(data.as_float(dataset.images[:]))
    table = {row["version"]: row for row in rows(tmp_path / "calibration.csv")}
    for version, temperature in (("base", 1.0), ("calibrated", 0.25)):
        probabilities = jax.nn.softmax(model(images) / temperature)
        error = metrics.expected_calibration_error(probabilities, dataset.labels)
        assert float(table[version]["ece_debiased"]) == pytest.approx(float(error), rel=1e-3)
        accuracy = (probabilities.argmax(1) == dataset.labels).mean()
        assert float(table[version]["accuracy"]) == pytest.approx(float(accuracy))

    found = {(row["method"], row["version"]): row for row in rows(tmp_path / "explanations.csv")}
    assert list(found) == [
        (method, version)
        for version in ("base", "calibrated")
        for method in ("grad-cam", "sensitivity")
    ]
    some = images[np.random.default_rng(0).permutation(24)[:6]]
    score = jc2i.probabilities(model, calibrators.load(fitted))
    targets = score(some).argmax(1)
    maps = jc2i.explainers.sensitivity(score, some, targets)
    row = found["sensitivity", "calibrated"]
    curve = metrics.deletion_curve(score, some, targets, maps, steps=10)
    area = float(metrics.area(curve).mean())
    assert float(row["deletion_area"]) == pytest.approx(area, rel=1e-3)
    assert float(row["deletion_area_low"]) <= area <= float(row["deletion_area_high"])
    variation = float(metrics.otsu_total_variation(maps).mean())
    assert float(row["otsu_total_variation"]) == pytest.approx(variation, rel=0.05)
    assert float(found["sensitivity", "base"]["similarity_to_base"]) == pytest.approx(1)
    assert 0 <= float(row["better_than_random"]) <= 1


def test_half_of_the_images_calibrates_the_other_is_evaluated(run, labelled, tmp_path):
    code, output, _ = run(
        "evaluate", labelled, "--calibration", "half", "--methods", "--out", tmp_path
    )
    assert code == 0 and "means" not in output
    assert [row["images"] for row in rows(tmp_path / "calibration.csv")] == ["12", "12"]


def test_finished_batches_are_used_again(run, labelled, tmp_path):
    arguments = (
        *("evaluate", labelled, "--images", "4", "--steps", "5", "--resume", tmp_path / "kept"),
        *("--methods", "sensitivity", "--overwrite"),
    )
    assert run(*arguments, "--out", tmp_path)[0] == 0
    before = rows(tmp_path / "explanations.csv")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").rglob("*.npz")}
    assert stamps and run(*arguments, "--out", tmp_path)[0] == 0
    assert rows(tmp_path / "explanations.csv") == before
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_other_options_and_models_are_not_mistaken_for_those_kept(run, labelled, tmp_path):
    """Of one folder: what differs in anything that a number depends on is computed."""
    arguments = (
        *("evaluate", labelled, "--images", "4", "--methods", "sensitivity", "--steps", "5"),
        *("--resume", tmp_path / "kept"),
    )
    model = models.create("small", classes=3, key=jax.random.key(0), size=16, channels=3)
    normalised = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    other = models.create(
        "small", classes=3, key=jax.random.key(0), size=16, channels=3, **normalised
    )
    models.save(model, tmp_path / "model")
    models.save(other, tmp_path / "other")

    def area(network, out, *rest):
        assert run(*rest, "--out", tmp_path / out, model=tmp_path / network)[0] == 0
        return rows(tmp_path / out / "explanations.csv")[0]["deletion_area"]

    first = area("model", "first", *arguments)
    second = area("other", "second", *arguments)
    assert second != first and second == area("other", "alone", *arguments[:-2])
    assert area("model", "logit", *arguments, "--score", "logit") not in (first, second)
    assert area("model", "again", *arguments) == first


def test_bad_input_has_one_clear_line(run, labelled, tmp_path, photographs):
    for arguments, message in (
        ([], "data: got none, takes a labelled folder, or a data set's name"),
        ([tmp_path / "nowhere"], "name_or_path: got "),
        ([photographs], "name_or_path: got "),
        ([labelled, "--methods", "magic"], "method: got 'magic', takes '"),
        ([labelled, "--images", "0"], "images: got 0, takes a whole number above 0"),
    ):
        code, _, errors = run("evaluate", *arguments)
        assert code == 2 and errors.startswith(f"jc2i: {message}"), errors
        assert errors.count("\n") == 1
    kept = tmp_path / "kept.npz"
    kept.write_text("mine")
    arguments = (labelled, "--calibration", "half", "--save-calibrator", kept)
    code, _, errors = run("evaluate", *arguments)
    assert code == 2 and errors == f"jc2i: {kept} exists: pass --overwrite to replace it\n"
    assert kept.read_text() == "mine"
    (tmp_path / "calibration.csv").write_text("mine")
    code, _, errors = run("evaluate", labelled, "--out", tmp_path)
    assert code == 2 and errors.endswith("exists: pass --overwrite to replace it\n")


def test_a_folder_of_other_classes_is_refused(run, tmp_path, labelled):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "x.png").write_bytes(next(labelled.rglob("*.png")).read_bytes())
    code, _, errors = run("evaluate", tmp_path)
    assert code == 2
    assert errors.startswith(f"jc2i: folders: got 2 classes in {tmp_path}, takes the model's 3")


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.*")}


@pytest.mark.slow
def test_two_processes_equal_one_and_one_goes_on_alone(
    run, labelled, tmp_path, saved_model, of_two
):
    """The first writes; where the second is killed, the first says so and what is kept counts."""
    common = (
        *("evaluate", labelled, "--calibration", "half", "--batch-size", "1", "--images", "6"),
        *("--methods", "sensitivity", "rise", "--option", "masks=8", "grid=3"),
    )
    arguments = (*common[:-4], "--steps", "5", "--model", saved_model, "--no-progress")
    several = ("-m", "jc2i", *arguments, "--distributed")

    def kept(out):
        return ("--out", out, "--save-calibrator", out / "kept.npz", "--resume", tmp_path / "r")

    alone, together, resumed = (tmp_path / name for name in ("alone", "together", "resumed"))
    written = ("--out", together, "--save-calibrator", together / "kept.npz")
    assert [code for code, _ in of_two(*several, *written)] == [0, 0]
    assert run(*arguments[:-3], *kept(alone)[:4])[0] == 0
    assert files(together) == files(alone) and len(files(alone)) == 3

    def kill_the_second(processes):
        while len(list((tmp_path / "r").rglob("*.npz"))) < 30:
            assert processes[0].poll() is None
            time.sleep(0.01)
        processes[1].kill()

    (code, errors), _ = of_two(*several, *kept(resumed), during=kill_the_second)
    assert code == 2 and not resumed.exists()
    assert errors.splitlines()[-1].startswith("jc2i: another process of this run died or cannot")
    assert run(*arguments[:-3], *kept(resumed))[0] == 0
    assert files(resumed) == files(alone)

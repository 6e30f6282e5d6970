from __future__ import annotations

import dataclasses
import os
import re
import runpy
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from experiments import calibrate_to_interpret as script
from experiments.c2i.measurements import Measurements
from experiments.c2i.results import RESULTS
from experiments.c2i.study import BASE, Study, Subject
from experiments.common.store import Store
from experiments.common.tables import read_csv
from jc2i import models, parallel

FIGURES = {
    "figure1",
    "figure2",
    "figure4",
    "figure5_maps",
    "figure5_curves",
    "figure6_temperature",
    "figure7_deletion_area",
    "figure7_better_than_random",
    "figure7_otsu_total_variation",
    "figure8_temperature",
    "figure8_error",
    "figure9",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of a network with random weights, whose logits are made over-confident."""
    folder = tmp_path_factory.mktemp("c2i")
    model = models.create("small", classes=10, key=jax.random.key(0))
    models.save(model, folder / "network")
    return Study(
        data="digits",
        model=str(folder / "network"),
        name="tiny",
        out=folder / "results",
        images=5,
        calibration_images=100,
        methods=("sensitivity", "occlusion", "meaningful_perturbation"),
        calibrations=("temperature",),
        mp_steps=3,
        temperatures=(0.5, 2.0),
        sweep_images=3,
        lipschitz_points=2,
        neighbours=2,
        # All in one batch, so on one device: what several compute has a test of its own.
        batch_size=5,
        progress=False,
    )


@pytest.fixture(scope="module")
def report(study):
    """The page of the whole report: made once, read by many tests."""
    return script.run("report", study)


def cached(study):
    """The finished batches, as folder/file."""
    return {f"{path.parent.name}/{path.name}" for path in (study.out / "cache").glob("*/*.npz")}


def test_report_writes_every_table_and_figure(study, report):
    tables = {path.stem for path in study.folder.glob("*.csv")}
    assert tables == {*RESULTS, "claims"}
    figures = {path.stem for path in study.folder.glob("*.png")}
    assert figures == FIGURES
    for path in study.folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert {path.suffix for path in study.folder.iterdir()} == {".csv", ".png", ".html", ".json"}


def test_page_has_every_section_and_needs_nothing_beside_it(study, report):
    assert report == study.folder / "report.html"
    page = report.read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    for name in RESULTS:
        number = name.removeprefix("table").removeprefix("figure")
        kind = "Table" if name.startswith("table") else "Figure"
        assert any(heading.startswith(f"{kind} {number}:") for heading in headings), name
    assert any("claims" in heading for heading in headings)
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", page)
    assert len(links) > len(RESULTS)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert "<script" not in page and "<link" not in page
    assert page.count("data:image/png;base64,") == len(FIGURES)


def test_tables_hold_what_they_say(study, report):
    def rows(name):
        return read_csv(study.folder / f"{name}.csv")

    versions = {row["version"]: row for row in rows("table1")}
    assert set(versions) == {BASE, "temperature"}
    assert all(row["images"] == 749 for row in versions.values())
    assert versions[BASE]["accuracy"] == versions["temperature"]["accuracy"]
    assert (
        versions["temperature"]["negative_log_likelihood"]
        < versions[BASE]["negative_log_likelihood"]
    )
    methods = set(study.methods)
    assert {row["method"] for row in rows("figure4")} == methods
    assert {row["method"] for row in rows("figure6")} == {*methods, "random"}
    assert len(rows("figure6")) == 100 * 2 * (len(methods) + 1)
    assert all(row["mean_low"] <= row["mean"] <= row["mean_high"] for row in rows("figure7"))
    assert all(row["lipschitz_count"] == 2 for row in rows("figure9"))
    fitted = versions["temperature"]["temperature"]
    swept = [row["temperature"] for row in rows("figure8")]
    np.testing.assert_allclose(swept, sorted([1, fitted, fitted / 2, fitted * 2]), rtol=1e-6)
    assert all(row["images"] == 3 for row in rows("figure8"))
    assert {row["verdict"] for row in rows("claims")} <= {"holds", "fails", "open"}


def test_areas_are_the_means_of_the_curves(study, report):
    curves = [
        row["score"]
        for row in read_csv(study.folder / "figure6.csv")
        if (row["method"], row["version"]) == ("sensitivity", BASE)
    ]
    (area,) = [
        row["mean"]
        for row in read_csv(study.folder / "figure7.csv")
        if (row["measure"], row["method"], row["version"]) == ("deletion_area", "sensitivity", BASE)
    ]
    np.testing.assert_allclose(np.mean(curves), area, rtol=1e-5)


@pytest.mark.parametrize("name", RESULTS)
def test_one_command_writes_the_same_file_from_the_same_cache(study, report, name, tmp_path):
    """Whether alone or within the report, and with nothing computed again."""
    before = cached(study)
    alone = dataclasses.replace(study, out=tmp_path, cache=study.out / "cache")
    assert script.run(name, alone) == alone.folder
    assert cached(study) == before
    written = {path.name for path in alone.folder.iterdir() if path.suffix != ".json"}
    assert f"{name}.csv" in written and not (alone.folder / "report.html").exists()
    for path in written:
        assert (alone.folder / path).read_bytes() == (study.folder / path).read_bytes(), path


@pytest.fixture(scope="module")
def pairings(study):
    """What differs between studies: two methods' maps before and after Dirichlet calibration."""
    small = dataclasses.replace(
        study,
        name="pairings",
        out=study.out / "pairings",
        methods=("sensitivity", "occlusion"),
        calibrations=("dirichlet",),
    )
    script.run("figure4", small)
    return small


@pytest.mark.parametrize(
    ("changed", "recomputed"),
    [
        # The base model's logits instead of its probabilities.
        ({"scores": "released"}, {"maps-sensitivity-base"}),
        # Dirichlet's map of another class; a base model's class is its own.
        ({"targets": "base"}, {"maps-sensitivity-dirichlet"}),
        # Gradients of another softmax; its values, and so occlusion, are the same.
        ({"softmax": "plain"}, {"maps-sensitivity-base", "maps-sensitivity-dirichlet"}),
    ],
)
def test_a_pairing_recomputes_what_it_changes_and_shares_the_rest(pairings, changed, recomputed):
    before = cached(pairings)
    other = dataclasses.replace(pairings, name="-".join(changed.values()), **changed)
    script.run("figure4", other)
    new = {name.split("/")[0] for name in cached(other) - before}
    assert new == recomputed


def test_pairings_change_the_maps_that_they_should(pairings):
    def maps(**changed):
        measured = Measurements(dataclasses.replace(pairings, **changed))
        return {method: measured.maps(method) for method in pairings.methods}, measured.subject

    usual, subject = maps()
    released, _ = maps(scores="released")
    based, _ = maps(targets="base")
    for method in pairings.methods:
        assert (released[method][BASE] != usual[method][BASE]).any()
        np.testing.assert_array_equal(released[method]["dirichlet"], usual[method]["dirichlet"])
        np.testing.assert_array_equal(based[method][BASE], usual[method][BASE])
        changed = subject.predictions["dirichlet"] != subject.predictions[BASE]
        assert changed.any()
        same = based[method]["dirichlet"] == usual[method]["dirichlet"]
        assert not same[changed].all(axis=(1, 2)).any() and same[~changed].all()


def run_script(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["calibrate_to_interpret.py", *arguments])
    runpy.run_path(script.__file__, run_name="__main__")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "5000"], "images: got 5000, takes at most the 749 there are"),
        (["--calibration-images", "0"], "calibration_images: got 0, takes"),
        (["--batch-size", "0"], "batch_size: got 0, takes a number above 0"),
        (["--mp-steps", "-1"], "mp_steps: got -1, takes a number above 0"),
        (["--temperatures", "0.5", "-1"], "temperatures: got -1.0, takes multiples"),
        (["--calibrations"], "calibrations: got none, takes at least one"),
        (["--methods"], "methods: got none, takes at least one"),
        (["--model", "nowhere/model"], ".*nowhere/model"),
        (["--data", "nowhere/data.npz"], ".*nowhere/data.npz"),
        (["--images", "0"], "images: got 0, takes a number above 0"),
    ],
)
def test_bad_options_give_one_line_and_leave_nothing(
    study, tmp_path, monkeypatch, capsys, arguments, message
):
    network = [] if "--model" in arguments else ["--model", study.model]
    arguments = ["figure7", *network, "--out", str(tmp_path / "out"), "--no-progress", *arguments]
    with pytest.raises(SystemExit) as refusal:
        run_script(arguments, monkeypatch)
    errors = capsys.readouterr().err
    assert refusal.value.code == 2 and errors.count("\n") == 1
    assert re.match(f"calibrate_to_interpret.py: {message}", errors)
    assert not list(tmp_path.glob("**/*.csv"))


@pytest.mark.parametrize(
    "arguments", [["figure3"], ["report", "--scores", "both"], ["report", "-x"]]
)
def test_unknown_words_end_with_an_error(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit) as refusal:
        run_script(arguments, monkeypatch)
    assert refusal.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def options(study, out):
    """The study as a command line that writes elsewhere."""
    given = ["report", "--no-progress", "--out", str(out)]
    for option in dataclasses.fields(study):
        value = getattr(study, option.name)
        if option.name in ("progress", "out") or value == option.default:
            continue
        values = value if isinstance(value, tuple) else [value]
        given += [f"--{option.name.replace('_', '-')}", *map(str, values)]
    return given


@pytest.mark.slow
def test_a_report_killed_three_times_equals_an_uninterrupted_one(study, tmp_path):
    study = dataclasses.replace(
        study,
        methods=(*study.methods, "rise"),
        rise_masks=16,
        calibrations=("temperature", "dirichlet"),
    )
    environment = os.environ | {
        # Every start compiles the same programs: once is enough.
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def start(out):
        command = [sys.executable, script.__file__, *options(study, out)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def finish(out):
        process = start(out)
        _, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors[-3000:]

    finish(tmp_path / "whole")
    batches = len(list((tmp_path / "whole/cache").glob("*/*.npz")))
    for share in (0.1, 0.4, 0.8):
        process = start(tmp_path / "killed")
        until = time.monotonic() + 600
        while len(list((tmp_path / "killed/cache").glob("*/*.npz"))) < share * batches:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
        assert not (tmp_path / "killed/tiny/report.html").exists()
    finish(tmp_path / "killed")

    def files(out):
        folder = out / study.name
        return {
            path.name: path.read_bytes()
            for path in folder.iterdir()
            if path.suffix in (".csv", ".png")
        }

    whole, killed = files(tmp_path / "whole"), files(tmp_path / "killed")
    assert set(whole) == set(killed) and len(whole) > len(RESULTS)
    assert [name for name in whole if whole[name] != killed[name]] == []


def test_images_become_what_published_weights_take(tmp_path):
    """Imagenette's ten folders among ImageNet's 1,000 classes, at the network's own size."""
    subject = Subject(Study(data=str(tmp_path), model="efficientnet-lite1"))
    preparation = subject.preparation
    assert subject.class_names[701] == "parachute"
    assert preparation.pop("classes")[701] == "n03888257"
    published = {"size": (240, 240), "crop_fraction": 240 / 272, "interpolation": "bicubic"}
    assert preparation == published == models.published_resizing("efficientnet-lite1")
    asked = Study(data="food101", model="resnet50", size=96, crop_fraction=1.0)
    assert Subject(asked).preparation == {
        "size": (96, 96), "crop_fraction": 1.0, "interpolation": "bilinear"
    }  # fmt: skip
    assert Subject(Study(model="small", size=16)).preparation == {"size": (16, 16)}
    assert Subject(Study(model="small")).preparation == {}


def figure7_on(devices, study, monkeypatch):
    """The rows of figure 7 computed on the first devices, and how many batches were."""
    mesh = parallel.mesh(jax.devices()[:devices])
    with monkeypatch.context() as patched:
        patched.setattr(Store, "mesh", mesh)
        before = cached(study) if study.out.exists() else set()
        rows = RESULTS["figure7"](Measurements(study)).rows
    return rows, cached(study) - before


@pytest.mark.slow
def test_figure_7_is_equal_to_the_bit_on_any_number_of_devices(study, tmp_path, monkeypatch):
    """At one batch a device: five images in batches of two, whose last is half empty."""
    rows = {}
    for devices in (1, 2, 8):
        out = tmp_path / f"{devices}"
        small = dataclasses.replace(study, batch_size=2, cache=None, out=out, name="figure7")
        rows[devices], _ = figure7_on(devices, small, monkeypatch)
    assert rows[1] == rows[2] == rows[8]


def test_a_study_grows(study, tmp_path, monkeypatch):
    """More images: the batches that are there stay, on another number of devices too."""
    small = dataclasses.replace(
        study, out=tmp_path, cache=None, methods=("sensitivity",), batch_size=2, images=4
    )
    figure7_on(2, small, monkeypatch)
    rows, new = figure7_on(2, dataclasses.replace(small, images=6), monkeypatch)
    kinds = ("maps-sensitivity", "curves-sensitivity")
    names = {f"{kind}-{version}" for kind in kinds for version in (BASE, "temperature")}
    assert sorted(name.split("/")[0] for name in new) == sorted({*names, "curves-random"})
    alone = dataclasses.replace(small, images=6, out=tmp_path / "alone")
    assert rows == figure7_on(2, alone, monkeypatch)[0]


@pytest.mark.slow
def test_two_processes_equal_one_and_one_goes_on_alone(study, tmp_path, monkeypatch, of_two):
    """Of the two the first writes, what the study of two devices of one process writes."""
    small = dataclasses.replace(study, batch_size=2, methods=("sensitivity", "occlusion"))

    def figure7(out):
        return ["figure7", *options(small, out)[1:], "--distributed"]

    alone, together, killed = (tmp_path / name for name in ("alone", "together", "killed"))
    monkeypatch.setattr(Store, "mesh", parallel.mesh(jax.devices()[:2]))
    script.run("figure7", dataclasses.replace(small, out=alone))
    assert [code for code, _ in of_two(script.__file__, *figure7(together))] == [0, 0]

    def files(out):
        folder = out / small.name
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".json"}

    assert files(together) == files(alone) and len(files(alone)) == 4

    def kill_the_second(processes):
        while len(list(killed.rglob("*.npz"))) < 8:
            assert processes[0].poll() is None, processes[0].communicate()[1]
            time.sleep(0.01)
        processes[1].kill()

    (code, errors), _ = of_two(script.__file__, *figure7(killed), during=kill_the_second)
    assert code == 2 and not (killed / small.name).exists()
    last = errors.splitlines()[-1]
    assert last.startswith("calibrate_to_interpret.py: another process of this run died or cannot")
    kept = set(killed.rglob("*.npz"))
    script.run("figure7", dataclasses.replace(small, out=killed))
    assert files(killed) == files(alone) and kept < set(killed.rglob("*.npz"))

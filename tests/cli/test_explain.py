from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jc2i
from jc2i import calibrators, cli, data, models, parallel
from jc2i.cli import results

from .conftest import noise


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_overlay_and_raw_map_of_each_photograph(run, photographs, tmp_path, saved_model):
    code, output, errors = run("explain", photographs, "--out", tmp_path)
    assert (code, errors) == (0, "")
    names = ["first.grad-cam.npy", "first.grad-cam.png"]
    assert files(tmp_path) == [*names, "second.grad-cam.npy", "second.grad-cam.png"]
    model = models.load(saved_model)
    for name in ("first.jpg", "second.png"):
        image = data.read_image(photographs / name, size=(16, 16), crop_fraction=0.875)
        images = jnp.asarray(data.as_float(image)[None])
        score = jc2i.probabilities(model)
        probabilities = np.asarray(score(images))[0]
        target = int(probabilities.argmax())
        assert f"* {probabilities[target]:6.1%}  class {target}" in output
        expected = jc2i.explainers.grad_cam(score, images, jnp.array([target]))[0]
        stored = np.load(tmp_path / f"{name.split('.')[0]}.grad-cam.npy")
        np.testing.assert_allclose(stored, expected, rtol=1e-4, atol=1e-6)
    with Image.open(tmp_path / "first.grad-cam.png") as overlay:
        assert min(overlay.size) > 300


def test_options_layer_target_and_top_reach_the_explainer(run, photographs, tmp_path, saved_model):
    code, output, _ = run(
        *("explain", photographs / "first.jpg", "--out", tmp_path, "--method", "rise"),
        *("--option", "masks=20", "grid=4", "--target", "2", "--top", "1", "--seed", "3"),
        *("--score", "logit", "--resize", "squash"),
    )
    assert code == 0
    assert "*" in output.splitlines()[-2] and output.splitlines()[-2].endswith("class 2")
    images = data.as_float(data.read_image(photographs / "first.jpg", size=(16, 16))[None])
    expected = jc2i.explainers.rise(
        jc2i.logits(models.load(saved_model)),
        jnp.asarray(images),
        jnp.array([2]),
        key=jax.random.key(3),
        masks=20,
        grid=4,
    )[0]
    stored = np.load(tmp_path / "first.rise.npy")
    np.testing.assert_allclose(stored, expected, rtol=1e-3, atol=1e-5)


def test_a_calibrator_of_a_file_makes_the_probabilities(run, photographs, tmp_path):
    fitted = tmp_path / "temperature.npz"
    calibrators.save(calibrators.Temperature(jnp.float32(1e6)), fitted)
    image = photographs / "first.jpg"
    code, output, _ = run("explain", image, "--out", tmp_path, "--calibration", fitted)
    assert code == 0 and output.count(" 33.3%  class") == 3


def test_a_calibrator_is_fitted_on_a_labelled_folder_and_kept(
    run, photographs, labelled, tmp_path, saved_model
):
    kept = tmp_path / "kept.npz"
    options = ("--out", tmp_path, "--calibration", labelled, "--save-calibrator", kept)
    code, _, errors = run("explain", photographs / "first.jpg", *options)
    assert (code, errors) == (0, "")
    holdout = data.load(labelled, "all", size=(16, 16), crop_fraction=0.875)
    logits = models.load(saved_model)(jnp.asarray(data.as_float(holdout.images[:])))
    fitted = calibrators.fit_temperature(logits, holdout.labels)
    kept_temperature = calibrators.load(kept).temperature
    np.testing.assert_allclose(kept_temperature, fitted.temperature, rtol=1e-4)
    code, _, errors = run("explain", photographs / "second.png", *options)
    assert code == 2 and errors == f"jc2i: {kept} exists: pass --overwrite to replace it\n"


def test_nothing_is_overwritten_unless_asked_for(run, photographs, tmp_path):
    image = photographs / "first.jpg"
    assert run("explain", image, "--out", tmp_path)[0] == 0
    (tmp_path / "first.grad-cam.png").write_text("mine")
    code, _, errors = run("explain", photographs, "--out", tmp_path)
    refused = tmp_path / "first.grad-cam.png"
    assert code == 1 and errors == f"jc2i: {refused} exists: pass --overwrite to replace it\n"
    assert refused.read_text() == "mine" and len(files(tmp_path)) == 4
    assert run("explain", photographs, "--out", tmp_path, "--overwrite")[0] == 0
    assert refused.stat().st_size > 1000


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def several(tmp_path):
    """Seven photographs: with a batch of two, four batches."""
    folder = tmp_path / "several"
    folder.mkdir()
    for index in range(7):
        Image.fromarray(noise(index, 20, 20, 3)).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("method", ["grad-cam", "rise"])
def test_a_run_goes_on_where_it_stopped(run, several, tmp_path, monkeypatch, method):
    """At most one batch is lost, and every file is that of a run that was not interrupted."""
    arguments = ("explain", several, "--method", method, "--batch-size", "2", "--device", "cpu")
    arguments += ("--option", "masks=8", "grid=3") if method == "rise" else ()
    code, whole_output, errors = run(*arguments, "--out", tmp_path / "whole")
    assert (code, errors) == (0, "")
    write, written = results.write, []

    def interrupted(place, *rest, **options):
        if len(written) == 3:
            raise KeyboardInterrupt
        write(place, *rest, **options)
        written.append(place.overlay.name[0])

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(results, "write", interrupted)
        code, output, _ = run(*arguments, "--out", out)
    # What is done is written and listed, though the eight devices compute all of it at once.
    assert code == 130 and written == ["0", "1", "2"]
    assert whole_output.replace("/whole/", "/out/").startswith(output)
    explained, module = [], sys.modules["jc2i.cli.explain"]
    decode = module.decode
    monkeypatch.setattr(
        module,
        "decode",
        lambda contents, name, *o: explained.append(Path(name).stem) or decode(contents, name, *o),
    )
    code, _, errors = run(*arguments, "--out", out)
    assert (code, errors) == (0, "jc2i: 3 of 7 images are explained already\n")
    # Of the batch that was begun all is computed again, so that it is the same batch.
    assert explained == ["2", "3", "4", "5", "6"]
    assert contents(out) == contents(tmp_path / "whole")
    explained.clear()
    assert run(*arguments, "--out", out)[0] == 0 and explained == []


def test_what_a_kill_left_between_two_files_is_finished_and_no_other_array_is_lost(
    run, several, tmp_path
):
    out, paths = tmp_path / "out", [several / f"{index}.png" for index in range(3)]
    assert run("explain", *paths, "--out", out)[0] == 0
    before = contents(out)
    (out / "1.grad-cam.png").unlink()
    code, _, errors = run("explain", *paths, "--out", out)
    assert (code, errors) == (0, "jc2i: 2 of 3 images are explained already\n")
    assert contents(out) == before
    # Another's array, beside which no overlay lies, is as good as any other file.
    (out / "1.grad-cam.png").unlink()
    np.save(out / "1.grad-cam.npy", np.ones((2, 2)))
    code, output, errors = run("explain", *paths, "--out", out)
    refused = f"jc2i: {out}/1.grad-cam.npy exists: pass --overwrite to replace it"
    assert code == 1 and refused in errors.splitlines() and "1.grad-cam" not in output
    assert np.load(out / "1.grad-cam.npy").shape == (2, 2)
    assert not (out / "1.grad-cam.png").exists()
    assert run("explain", *paths, "--out", out, "--overwrite")[0] == 0
    assert contents(out) == before


def test_what_a_result_depends_on_is_not_taken_for_finished(run, several, tmp_path, photographs):
    out, paths = tmp_path / "out", [several / f"{index}.png" for index in range(3)]
    assert run("explain", *paths, "--out", out)[0] == 0
    before = contents(out)
    for other in (("--score", "logit"), ("--resize", "squash"), ("--option", "relu=false")):
        code, _, errors = run("explain", *paths, "--out", out, *other)
        assert code == 1 and errors.count(" exists: pass --overwrite to replace it\n") == 3
    assert contents(out) == before
    # A stochastic method depends on the place of an image among the others, too.
    rise = ("--out", tmp_path / "rise", "--method", "rise", "--option", "masks=5", "grid=3")
    assert run("explain", *paths, *rise)[0] == 0
    code, _, errors = run("explain", *paths[:2], several / "4.png", *rise)
    assert code == 0 and errors == "jc2i: 2 of 3 images are explained already\n"
    code, _, errors = run("explain", *paths[1:], *rise)
    assert code == 1 and errors.count("exists") == 2
    assert run("explain", *paths, *rise, "--seed", "1", "--overwrite")[0] == 0
    # Another photograph of the same name.
    paths[0].write_bytes((photographs / "second.png").read_bytes())
    code, _, errors = run("explain", *paths, "--out", out)
    assert code == 1 and errors.splitlines() == [
        f"jc2i: {out}/0.grad-cam.png exists: pass --overwrite to replace it",
        "jc2i: 2 of 3 images are explained already",
    ]


def test_results_are_no_photographs(run, several, tmp_path):
    arguments = ("explain", several, "--out", several)
    assert run(*arguments)[0] == 0
    code, output, errors = run(*arguments)
    assert (code, output, errors) == (0, "", "jc2i: 7 of 7 images are explained already\n")
    assert len(files(several)) == 21
    given = sorted(several.glob("*.png"))  # as a shell gives them
    assert run("explain", *given, "--out", several)[0] == 0 and len(files(several)) == 21
    overlay = several / "0.grad-cam.png"
    code, _, errors = run("explain", overlay)
    assert code == 2 and errors.startswith(f"jc2i: images: got {overlay}, where there is nothing")


def test_photographs_that_differ_in_their_suffix_alone(run, photographs, tmp_path):
    for name in ("x.png", "x.jpg"):
        Image.fromarray(noise(0, 20, 20, 3)).save(tmp_path / name)
    code, _, errors = run("explain", tmp_path, "--out", tmp_path / "out")
    assert (code, errors) == (0, "")
    assert files(tmp_path / "out")[1::2] == ["x.jpg.grad-cam.png", "x.png.grad-cam.png"]


def test_no_photograph_is_overwritten(run, tmp_path):
    for name in ("x.png", "x.grad-cam.png"):
        Image.fromarray(noise(0, 20, 20, 3)).save(tmp_path / name)
    before = (tmp_path / "x.grad-cam.png").read_bytes()
    code, _, errors = run("explain", tmp_path, "--out", tmp_path, "--overwrite")
    assert code == 1 and "takes another --out" in errors and errors.count("\n") == 1
    assert (tmp_path / "x.grad-cam.png").read_bytes() == before
    assert files(tmp_path)[:2] == ["x.grad-cam.grad-cam.npy", "x.grad-cam.grad-cam.png"]


def test_a_full_disk_names_the_file_and_what_is_done_stays(run, several, tmp_path, monkeypatch):
    write_bytes, out = Path.write_bytes, tmp_path / "out"

    def full(path, content):
        if "4.grad-cam.npy" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        code, _, errors = run("explain", several, "--out", out, "--batch-size", "2")
    assert code == 2 and errors == f"jc2i: {out}/4.grad-cam.npy: No space left on device\n"
    assert len(files(out)) == 8
    code, _, errors = run("explain", several, "--out", out, "--batch-size", "2")
    assert code == 0 and errors == "jc2i: 4 of 7 images are explained already\n"


def test_where_nothing_can_be_written_is_found_before_the_work(run, several, tmp_path, labelled):
    file = several / "0.png"
    for options in (
        ("--out", file),
        ("--out", file / "deeper"),
        ("--calibration", labelled, "--save-calibrator", file / "kept.npz"),
    ):
        code, output, errors = run("explain", several, *options, model="nowhere")
        assert (code, output, errors) == (2, "", f"jc2i: {file}: Not a directory\n")


def test_words_are_truth_values(run, photographs, tmp_path):
    photo, maps = photographs / "first.jpg", {}
    for word in ("false", "False", "true", "none"):
        out = tmp_path / word
        arguments = ("--method", "smoothgrad", "--option", "samples=2", f"relative={word}")
        code, _, errors = run("explain", photo, *arguments, "--out", out)
        if word == "none":
            assert code == 2 and errors == "jc2i: relative: got 'none', takes True or False\n"
        else:
            assert code == 0, errors
            maps[word] = np.load(out / "first.smoothgrad.npy")
    np.testing.assert_array_equal(maps["false"], maps["False"])
    assert not np.array_equal(maps["false"], maps["true"])


def test_nothing_but_unreadable_images(run, tmp_path, monkeypatch):
    """Nothing is compiled for them."""
    (tmp_path / "text.png").write_text("none")
    monkeypatch.setattr(parallel, "map_batches", None)
    code, output, errors = run("explain", tmp_path, "--out", tmp_path)
    assert (code, output) == (1, "") and errors.endswith("takes an image file\n")


def test_unreadable_images_change_no_other_result(run, several, tmp_path):
    rise = ("explain", several, "--method", "rise", "--option", "masks=5", "grid=3")
    assert run(*rise, "--out", tmp_path / "whole", "--batch-size", "2")[0] == 0
    (several / "2.png").write_text("none")
    assert run(*rise, "--out", tmp_path / "out", "--batch-size", "2")[0] == 1
    expected = contents(tmp_path / "whole")
    assert contents(tmp_path / "out") == {
        name: content for name, content in expected.items() if not name.startswith("2")
    }


def test_grey_and_transparent_images_work(run, tmp_path):
    random = np.random.default_rng(0)
    grey, alpha = (random.integers(0, 256, s, np.uint8) for s in ((20, 20), (20, 20, 4)))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    out = tmp_path / "out"
    code, _, errors = run("explain", tmp_path / "grey.png", tmp_path / "alpha.png", "--out", out)
    assert (code, errors) == (0, "") and len(files(out)) == 4


def test_what_is_no_image_has_one_line_and_the_others_are_done(run, photographs, tmp_path):
    text, truncated, pixel = (tmp_path / name for name in ("notes.txt", "half.jpg", "one.png"))
    text.write_text("not an image")
    whole = (photographs / "first.jpg").read_bytes()
    truncated.write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(pixel)
    good, out = photographs / "second.png", tmp_path / "out"
    code, output, errors = run("explain", text, truncated, good, pixel, "--out", out)
    assert code == 1
    first, second, third = errors.splitlines()
    assert first == f"jc2i: {text}: got a file that is not an image, takes an image file"
    assert second.startswith(f"jc2i: {truncated}: got a damaged image (image file is truncated")
    assert third == f"jc2i: {pixel}: got 1x1 pixels, takes an image of at least 8x8 pixels"
    assert files(out) == ["second.grad-cam.npy", "second.grad-cam.png"]
    assert output.startswith(f"{good}\n")


def test_images_of_one_name_get_their_folders(run, photographs, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(other / "first.png")
    out = tmp_path / "out"
    assert run("explain", other / "first.png", photographs / "first.jpg", "--out", out)[0] == 0
    assert files(out)[::2] == sorted(
        ["other-first.grad-cam.npy", f"{photographs.name}-first.grad-cam.npy"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg: no such file or folder"),
        (
            ["PHOTO", "--method", "magic"],
            "method: got 'magic', takes 'ablation-cam' or ",
        ),
        (
            ["PHOTO", "--layer", "layer4"],
            "layer: got 'layer4', takes one of block0, block1, dense, logits",
        ),
        (
            ["PHOTO", "--layer", "dense"],
            "layer: got 'dense', float32[1, 64], takes one of block0, block1",
        ),
        (
            ["PHOTO", "--layer", "x", "--method", "rise"],
            "layer: got 'x', takes none (rise has no layer)",
        ),
        (
            ["PHOTO", "--option", "masks=5"],
            "option: got 'masks', takes one of layer, channel_axis, prefix_tokens, relu, resize, b",
        ),
        (["PHOTO", "--option", "masks"], "option: got 'masks', takes name=value"),
        (
            ["PHOTO", "--option", "relu=1", "relu=0"],
            "option: got 'relu' more than once, takes each",
        ),
        (["PHOTO", "--size", "0"], "size: got 0, takes a whole number from 8 to 8192"),
        (["PHOTO", "--size", "1000000"], "size: got 1000000, takes a whole number from 8 to 8192"),
        (["PHOTO", "--seed", "1" * 20], f"seed: got {'1' * 20}, takes a whole number from 0 to 42"),
        (["PHOTO", "--seed", "-1"], "seed: got -1, takes a whole number from 0 to 4294967295"),
        (["PHOTO", "--batch-size", "0"], "batch_size: got 0, takes a whole number above 0"),
        (["PHOTO", "--class-names", "PHOTO"], "class_names: got PHOTO, which is no text, takes a"),
        (
            ["PHOTO", "--class-names", "LONG"],
            "class_names: got LONG, 3001 bytes, takes at most 3000",
        ),
        (["PHOTO", "--max-pixels", "0"], "max_pixels: got 0, takes a whole number above 0"),
        (["PHOTO", "--max-bytes", "0"], "max_bytes: got 0, takes a whole number above 0"),
        (["PHOTO", "--target", "9" * 5000], "target: got 999"),
        (["PHOTO", "--method", "..:x"], "method: got '..:x' (TypeError: "),
        (["PHOTO", "--target", "3"], "target: got 3, takes 0 to 2, or the name of a class"),
        (
            ["PHOTO", "--target", "cat"],
            "target: got 'cat', takes 0 to 2, or the name of one class (no class that is",
        ),
        (["PHOTO", "--device", "tpu"], "device: got 'tpu', takes one of cpu"),
        (["PHOTO", "--calibration", "nowhere"], "name_or_path: got 'nowhere', which is not there"),
        (["PHOTO", "--calibration", "PHOTO"], "PHOTO: got another or a damaged file"),
        (
            ["PHOTO", "--save-calibrator", "kept.npz"],
            "save_calibrator: got kept.npz, takes --calibration with labelled images",
        ),
        (["PHOTO", "--method", "information-bottleneck"], "mean: got None, takes an array"),
        (
            ["PHOTO", "--method", "tibav"],
            "layer: got None, takes a model that names its attention maps",
        ),
        ([], "images: got none, takes image files, or folders of them"),
    ],
)
def test_what_cannot_be_done_has_one_clear_line(
    run, photographs, tmp_path, tmp_path_factory, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    files = {"PHOTO": photographs / "first.jpg", "LONG": tmp_path_factory.mktemp("text") / "names"}
    files["LONG"].write_text("x" * 3001)
    code, output, errors = run("explain", *(files.get(a, a) for a in arguments))
    assert (code, output) == (2, "") and errors.count("\n") == 1
    for name, path in files.items():
        message = message.replace(name, str(path))
    assert errors.startswith(f"jc2i: {message}"), errors
    assert not list(tmp_path.iterdir())


def test_limits_of_what_is_read_are_raised_and_lowered(run, photographs, tmp_path, saved_model):
    """A JPEG above the limit is decoded at a part of its sides where that leaves the model's."""
    image = Image.new("RGB", (120, 100), "teal")
    for name in ("large.jpg", "large.png"):
        image.save(tmp_path / name)
    code, output, errors = run("explain", tmp_path, "--out", tmp_path, "--max-pixels", 3000)
    assert code == 1 and "large.jpg.grad-cam.npy" in output
    takes = "large.png: got an image too large: 100x120, 12000 pixels, takes at most 3000 pixels"
    assert takes in errors and errors.count("\n") == 1
    code, output, errors = run("explain", tmp_path, "--out", tmp_path)
    assert code == 0 and "large.png.grad-cam.npy" in output
    code, output, errors = run("explain", photographs, "--out", tmp_path, "--max-bytes", 1000)
    assert code == 2 and "at most 1000" in errors and "max_bytes" in errors


def test_long_work_is_announced_and_says_how_long_it_will_take(
    run, photographs, tmp_path, monkeypatch
):
    """Its numbers are those of the same work without progress."""
    photo, rise = photographs / "first.jpg", ("--method", "rise", "--option", "masks=120")
    module = sys.modules["jc2i.cli.explain"]  # the package's name is the function's
    monkeypatch.setattr(module, "WATCHED", 121)
    for name, watched in (("short", False), ("long", True)):
        out = tmp_path / name
        code, output, errors = run("explain", photo, *rise, "--out", out, progress=True)
        assert code == 0 and "rise ━" not in output
        lines = [line for line in errors.splitlines() if not line.startswith("scores")]
        assert lines[0] == "jc2i: rise: 120 evaluations of the model for 1 images"
        assert len(lines) == 2 + watched and re.match("rise ━+ +100% 1/1", lines[-1])
        assert not watched or re.fullmatch(r"rise: about \d:\d\d:\d\d in all", lines[1])
        monkeypatch.setattr(module, "WATCHED", 120)
    maps = [np.load(tmp_path / name / "first.rise.npy") for name in ("short", "long")]
    np.testing.assert_array_equal(*maps)


def test_an_unknown_model_is_refused(run, photographs):
    code, _, errors = run("explain", photographs, model="alexnet")
    assert code == 2 and errors.startswith("jc2i: 'alexnet' is neither a folder nor one of")


def test_a_calibrator_for_other_classes_is_refused(run, photographs, tmp_path):
    path = tmp_path / "dirichlet.npz"
    calibrators.save(calibrators.Dirichlet(jnp.eye(4), jnp.zeros(4)), path)
    code, _, errors = run("explain", photographs, "--calibration", path, "--out", tmp_path)
    assert code == 2
    assert errors.startswith("jc2i: calibration: got a Dirichlet fitted for another number of")


def test_several_devices_agree_with_one(run, photographs, tmp_path):
    """The tests' eight devices share the photographs; one kind is the default."""
    for name, options in (("all", ()), ("small", ("--batch-size", "1"))):
        assert run("explain", photographs, "--out", tmp_path / name, *options)[0] == 0
    maps = [np.load(tmp_path / name / "second.grad-cam.npy") for name in ("all", "small")]
    np.testing.assert_allclose(*maps, rtol=1e-4, atol=1e-6)


def test_the_module_is_the_command(photographs, saved_model):
    command = [sys.executable, "-m", "jc2i", "explain", "missing.jpg", "--model", str(saved_model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == "jc2i: missing.jpg: no such file or folder\n"


def test_a_reader_that_went_away_is_no_error(photographs, saved_model, tmp_path):
    command = [sys.executable, "-m", "jc2i", "explain", photographs, "--model", saved_model]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            [*map(str, command), "--out", str(tmp_path), "--no-progress"],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (cli.BROKEN_PIPE, "")
    assert len(files(tmp_path)) == 4

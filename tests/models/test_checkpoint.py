from __future__ import annotations

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import models
from jc2i.models.classifier import weights, with_weights
from jc2i.models.registry import blank


@pytest.fixture
def model():
    return models.create(
        "small", classes=3, key=jax.random.key(0), mean=(0.1,), std=(0.3,), widths=(4, 8), hidden=5
    )


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert [leaf.dtype for leaf in jax.tree.leaves(a)] == [
        leaf.dtype for leaf in jax.tree.leaves(b)
    ]


def test_round_trip_is_equal_to_the_bit(model, tmp_path):
    models.save(model, tmp_path / "deep" / "model")
    assert_equal(models.load(tmp_path / "deep" / "model"), model)
    assert os.listdir(tmp_path / "deep") == ["model"]


def test_round_trip_of_batch_norms_and_options(tmp_path):
    model = blank("resnet20_cifar", classes=3, shortcut="B", normalize=False)
    model = jax.tree.map(lambda leaf: leaf + 0.125, model)
    models.save(model, tmp_path / "model")
    assert_equal(models.load(tmp_path / "model"), model)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_weights_come_back_in_the_type_they_were_saved_in(model, tmp_path, dtype):
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype), model)
    models.save(cast, tmp_path / "model")
    loaded = models.load(tmp_path / "model")
    assert_equal(loaded, cast)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype(dtype)}


SMALL = {"widths": (2, 3), "hidden": 4, "size": 8, "channels": 3}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("small", SMALL | {"dtype": "bfloat16"}),
        ("small", SMALL | {"normalize": False, "mean": (0.1, 1 / 3, 0.3)}),
        ("resnet18_cifar", {"base_filters": 2, "dropout": 0.4, "channels": 1}),
        (
            "lipschitz",
            {"size": 8, "widths": (2, 3), "dropout": 0.1, "normalization": "kernel"}
            | {"bjorck_steps": 3, "power_iterations": 2, "channels": 1, "mean": (0.5,)},
        ),
        ("resnet20_cifar", {"shortcut": "B", "channels": 1, "dtype": "bfloat16"}),
        (
            "vit_small",
            {"size": 16, "patch": 8, "width": 8, "depth": 1, "heads": 2, "epsilon": 1e-5},
        ),
    ],
)
def test_every_kind_of_option_comes_back(name, options, tmp_path):
    model = blank(name, classes=3, **options)
    models.save(model, tmp_path / "model")
    loaded = models.load(tmp_path / "model")
    assert_equal(loaded, model)
    assert loaded.dtype == model.dtype and loaded.mean == model.mean


def test_options_may_be_numbers_of_numpy(model, tmp_path):
    model.hidden, model.normalize, model.std = np.int64(5), np.bool_(True), (np.float32(0.3),)
    models.save(model, tmp_path / "model")
    loaded = models.load(tmp_path / "model")
    assert (loaded.hidden, loaded.normalize, loaded.std) == (5, True, (float(np.float32(0.3)),))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(model, tmp_path, value):
    values = weights(model)
    spoilt = values | {"dense.bias": values["dense.bias"].at[1].set(value)}
    models.save(with_weights(model, spoilt), tmp_path / "model")
    with pytest.raises(ValueError, match=r"model \(NaN or infinite: dense.bias\), takes finite f"):
        models.load(tmp_path / "model")


def test_variances_below_zero_are_refused_by_name(tmp_path):
    model = blank("resnet20_cifar", classes=3)
    spoilt = weights(model) | {"bn1.var": -weights(model)["bn1.var"]}
    models.save(with_weights(model, spoilt), tmp_path / "model")
    with pytest.raises(ValueError, match=r"model \(variances below 0: bn1.var\), takes finite f"):
        models.load(tmp_path / "model")


def test_saving_in_training_mode_loads_in_evaluation_mode(tmp_path):
    model = blank("resnet20_cifar", classes=3)
    model.train()
    models.save(model, tmp_path / "model")
    model.eval()
    assert_equal(models.load(tmp_path / "model"), model)


def test_overwrites_only_a_model_and_only_when_asked(model, tmp_path):
    path = tmp_path / "model"
    models.save(model, path)
    other = jax.tree.map(lambda leaf: leaf + 1, model)
    with pytest.raises(FileExistsError, match="model exists: pass overwrite=True"):
        models.save(other, path)
    assert_equal(models.load(path), model)
    models.save(other, path, overwrite=True)
    assert_equal(models.load(path), other)
    assert os.listdir(tmp_path) == ["model"]

    photographs = tmp_path / "photographs"
    photographs.mkdir()
    (photographs / "a.jpg").touch()
    with pytest.raises(FileExistsError, match="photographs holds no model"):
        models.save(model, photographs, overwrite=True)
    assert os.listdir(photographs) == ["a.jpg"]


def test_a_failed_save_leaves_what_was_there(model, tmp_path, monkeypatch):
    path = tmp_path / "model"
    models.save(model, path)

    def full_disk(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(json, "dumps", full_disk)
    with pytest.raises(OSError, match="No space left"):
        models.save(jax.tree.map(lambda leaf: leaf + 1, model), path, overwrite=True)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["model"]
    assert_equal(models.load(path), model)


def test_every_damaged_file_is_one_clear_error(model, tmp_path, capfd):
    models.save(model, tmp_path / "model")
    files = [file for file in (tmp_path / "model").rglob("*") if file.is_file()]
    assert len(files) > 4
    capfd.readouterr()
    for file in files:
        whole = file.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"\x00" + whole):
            file.write_bytes(damaged)
            if damaged == whole:
                continue
            with pytest.raises(ValueError, match=r"^path: got .*model \((damaged|without a model)"):
                models.load(tmp_path / "model")
        file.write_bytes(whole)
    file.unlink()
    with pytest.raises(ValueError, match=r"takes a folder that jc2i.models.save wrote$"):
        models.load(tmp_path / "model")
    assert capfd.readouterr() == ("", "")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="takes a folder that jc2i.models.save wrote"):
        models.load(tmp_path)
    (tmp_path / "model.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="takes a folder that jc2i.models.save wrote"):
        models.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="'digits' is neither a folder nor .*from_torch"):
        models.load("digits")


def test_weights_that_do_not_fit_the_description_are_listed(model, tmp_path):
    models.save(model, tmp_path / "model")
    description = tmp_path / "model" / "model.json"
    content = json.loads(description.read_text())
    content["options"]["hidden"] = 6
    description.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"misshapen: dense.bias \[5\] instead of \[6\], dense.k"):
        models.load(tmp_path / "model")


def test_a_model_is_loaded_without_its_normalisation_or_in_another_type(model, tmp_path):
    models.save(model, tmp_path / "model")
    bare = models.load(tmp_path / "model", normalize=False)
    images = jax.random.uniform(jax.random.key(1), (2, 16, 16, 1))
    np.testing.assert_allclose(bare((images - 0.1) / 0.3), model(images), rtol=1e-5, atol=1e-6)
    assert (bare.mean, bare.normalize) == (model.mean, False)
    assert models.load(tmp_path / "model", dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(ValueError, match="^dtype: got 'int8', takes 'float32' or 'bfloat16'$"):
        models.load(tmp_path / "model", dtype="int8")

"""Imported networks against PyTorch's logits (tests/golden/models_logits.py)."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jc2i import models
from jc2i.models.classifier import weights

SCRIPT = Path(__file__).parents[1] / "golden" / "models_logits.py"
GOLDEN = json.loads(SCRIPT.with_suffix(".json").read_text())
MAKE = runpy.run_path(str(SCRIPT))
NORMALISATION = {"mean": MAKE["MEAN"], "std": MAKE["STD"]}
CASES = {
    "resnet20_cifar A": {"classes": 10},
    "resnet20_cifar B": {"classes": 10, "shortcut": "B"},
    "resnet18_cifar": {"classes": 10, "base_filters": 8},
    "vgg16_bn_cifar": {"classes": 100},
}


def drawn(case):
    return {n: MAKE["tensor"](n, tuple(s)) for n, s in GOLDEN[case]["shapes"].items()}


def imported(case, path, tensors, **options):
    save_file(tensors, path)
    options = CASES[case] | NORMALISATION | options
    return models.from_torch(case.split()[0], path, **options)


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_pytorch(case, tmp_path):
    model = imported(case, tmp_path / "weights", drawn(case))
    logits = np.asarray(jax.jit(lambda m, x: m(x))(model, MAKE["images"]()))
    expected = np.array(GOLDEN[case]["logits"])
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def test_normalize_false_takes_normalised_images(tmp_path):
    case = "resnet20_cifar A"
    model = imported(case, tmp_path / "weights", drawn(case), normalize=False)
    images = (MAKE["images"]() - np.float32(MAKE["MEAN"])) / np.float32(MAKE["STD"])
    expected = np.array(GOLDEN[case]["logits"])
    assert model.mean == MAKE["MEAN"]
    assert np.abs(np.asarray(model(images)) - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_names_of_pytorch_cifars_resnet18_are_taken(tmp_path):
    tensors = {
        name.replace("downsample", "shortcut").replace("fc", "linear"): values
        for name, values in drawn("resnet18_cifar").items()
    }
    model = imported("resnet18_cifar", tmp_path / "weights", tensors)
    np.testing.assert_array_equal(weights(model)["fc.bias"], tensors["linear.bias"])


def test_parallel_names_and_counters_are_taken(tmp_path):
    tensors = {f"module.{name}": values for name, values in drawn("resnet20_cifar A").items()}
    tensors["module.bn1.num_batches_tracked"] = np.array(5)
    model = imported("resnet20_cifar A", tmp_path / "weights", tensors)
    np.testing.assert_array_equal(weights(model)["bn1.mean"], tensors["module.bn1.running_mean"])


def test_a_training_loops_averaged_weights_are_imported(save_torch):
    case = "resnet20_cifar A"
    raw = drawn(case)
    mean = {f"module._orig_mod.{name}": values / 2 for name, values in raw.items()}
    mean |= {"n_averaged": np.array(5), "module._orig_mod.bn1.num_batches_tracked": np.array(5)}
    path = save_torch({"model": raw, "model_ema": mean})
    options = CASES[case] | NORMALISATION
    for averaged, bias in ((True, raw["linear.bias"] / 2), (False, raw["linear.bias"])):
        model = models.from_torch("resnet20_cifar", path, averaged=averaged, **options)
        np.testing.assert_array_equal(weights(model)["fc.bias"], bias)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("conv1.weight", lambda v: v * np.nan, "NaN or infinite: conv1.weight"),
        ("bn1.running_mean", lambda v: v + np.inf, "NaN or infinite: bn1.running_mean"),
        ("linear.bias", lambda v: v + 1e300, "NaN or infinite: linear.bias"),  # in float32
        ("bn1.running_var", lambda v: v * 0 - 1e-3, "variances below 0: bn1.running_var"),
        ("linear.weight", lambda v: v.astype(np.int8), "no floats: linear.weight int8"),
    ],
)
def test_weights_with_which_nothing_computes_are_refused_by_name(name, change, message, tmp_path):
    tensors = drawn("resnet20_cifar A")
    changed = np.ascontiguousarray(change(tensors[name].astype(np.float64)))
    with pytest.raises(ValueError) as error:
        imported("resnet20_cifar A", tmp_path / "weights", tensors | {name: changed})
    takes = "takes finite floats, and variances of 0 or more"
    assert str(error.value) == f"path: got {tmp_path / 'weights'} ({message}), {takes}"


def test_of_many_unsound_weights_a_few_are_named(tmp_path):
    tensors = {
        name: values * np.float32(np.nan) for name, values in drawn("resnet20_cifar A").items()
    }
    with pytest.raises(ValueError, match=r"\(NaN or infinite: (\S+, ){4}and \d+ more\)") as error:
        imported("resnet20_cifar A", tmp_path / "weights", tensors)
    assert len(str(error.value)) < 400


def test_every_difference_is_named_in_one_error(tmp_path):
    tensors = drawn("resnet20_cifar A")
    del tensors["layer2.1.bn2.running_var"]
    del tensors["conv1.weight"]
    tensors["layer4.0.conv1.weight"] = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError) as error:
        imported("resnet20_cifar A", tmp_path / "weights", tensors, classes=7)
    message = str(error.value)
    assert "missing: conv1.weight [16, 3, 3, 3], layer2.1.bn2.running_var [32]; " in message
    assert "surplus: layer4.0.conv1.weight [2, 3]; " in message
    misshapen = "linear.bias [10] instead of [7], linear.weight [10, 64] instead of [7, 64]"
    assert f"misshapen: {misshapen})" in message
    assert "takes the tensors of resnet20_cifar with {'classes': 7" in message


def test_shortcut_b_does_not_load_as_a(tmp_path):
    with pytest.raises(ValueError, match=r"surplus: layer2.0.downsample.0.weight \[32, 16, 1, 1\]"):
        tensors = drawn("resnet20_cifar B")
        imported("resnet20_cifar B", tmp_path / "weights", tensors, shortcut="A")


def test_the_small_network_has_no_pytorch_twin(tmp_path):
    with pytest.raises(ValueError, match="name: got 'small', takes one of resnet18"):
        models.from_torch("small", tmp_path / "weights", classes=2, mean=(0.0,), std=(1.0,))

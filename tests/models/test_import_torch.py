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


def test_parallel_names_and_counters_are_taken(tmp_path):
    tensors = {f"module.{name}": values for name, values in drawn("resnet20_cifar A").items()}
    tensors["module.bn1.num_batches_tracked"] = np.array(5)
    model = imported("resnet20_cifar A", tmp_path / "weights", tensors)
    np.testing.assert_array_equal(weights(model)["bn1.mean"], tensors["module.bn1.running_mean"])


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

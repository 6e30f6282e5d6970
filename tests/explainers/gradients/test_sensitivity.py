from __future__ import annotations

import numpy as np
import pytest

from jc2i import explainers


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_the_network_is_the_one_captum_explained(explained, activation):
    network, images, _, captum = explained(activation)
    np.testing.assert_allclose(network(images), captum["scores"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_sensitivity_equals_captums_saliency(explained, activation):
    network, images, targets, captum = explained(activation)
    gradient = explainers.sensitivity(network, images, targets, channels=None)
    np.testing.assert_allclose(gradient, captum["saliency"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "reduce"),
    [
        ("sum", lambda g: g.sum(-1)),
        ("abs_sum", lambda g: np.abs(g).sum(-1)),
        ("max_abs", lambda g: np.abs(g).max(-1)),
    ],
)
def test_channels_are_reduced_as_named(explained, channels, reduce):
    network, images, targets, captum = explained("relu")
    maps = explainers.sensitivity(network, images, targets, channels=channels)
    np.testing.assert_allclose(maps, reduce(captum["saliency"]), rtol=1e-5, atol=1e-6)


def test_the_default_takes_absolute_values_before_the_sum(explained):
    network, images, targets, captum = explained("relu")
    expected = np.abs(captum["saliency"]).sum(-1)
    maps = explainers.sensitivity(network, images, targets)
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-6)


def test_gradient_x_input_equals_captums(explained):
    network, images, targets, captum = explained("relu")
    signed = explainers.gradient_x_input(network, images, targets, absolute=False, channels=None)
    np.testing.assert_allclose(signed, captum["input_x_gradient"], rtol=1e-5, atol=1e-6)
    # MeGe, appendix B: the image's own sign stays, which only images below zero show.
    shifted = images - 0.5
    gradient = explainers.sensitivity(network, shifted, targets, channels=None)
    maps = explainers.gradient_x_input(network, shifted, targets, channels="sum")
    np.testing.assert_allclose(maps, (shifted * np.abs(gradient)).sum(-1), rtol=1e-4, atol=1e-6)

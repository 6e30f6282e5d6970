from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from jc2i.explainers import gradient_shap, integrated_gradients

KEY = jax.random.key(6)
GOLDEN = Path(__file__).parents[2] / "golden" / "explainers_surrogate.npz"
SAMPLES = 4000


@pytest.fixture(scope="module")
def captums():
    """Captum's mean over 20,000 samples and the standard deviation of one, by their noise."""
    with np.load(GOLDEN) as file:
        return {
            noise: [file[f"gradient_shap/{noise}/{name}"] for name in ("mean", "deviation")]
            for noise in (0.0, 0.3)
        }


def test_a_linear_models_map_is_exact(linear):
    model, targets = linear(), np.array([2, 0])
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 2))
    maps = gradient_shap(
        model, images, targets, key=KEY, samples=3, references=(0.2, 0.4), channels=None
    )
    expected = (images - np.float32([0.2, 0.4])) * np.moveaxis(model.weights, -1, 0)[targets]
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_agrees_with_captum_in_distribution(explained, captum, captums, noise):
    network, images, targets, _ = explained("softplus")
    mean, deviation = captums[noise]
    maps = gradient_shap(
        network,
        images,
        targets,
        key=KEY,
        samples=SAMPLES,
        noise=noise,
        references=("black", captum["reference"]),
        channels=None,
        batch_size=600,
    )
    z = (maps - mean) / (deviation * np.sqrt(1 / SAMPLES + 1 / 20_000))
    # Pixels of one sample share its point and reference: the mean square is near 1, not at it.
    assert np.abs(z).max() < 5 and np.square(z).mean() < 2


def test_its_expectation_is_integrated_gradients(explained, captum, captums):
    network, images, targets, _ = explained("softplus")
    options = {"references": ("black", captum["reference"]), "channels": None}
    maps = gradient_shap(
        network, images, targets, key=KEY, samples=SAMPLES, batch_size=600, **options
    )
    expected = integrated_gradients(
        network, images, targets, steps=16, method="gauss_legendre", **options
    )
    z = (maps - expected) / (captums[0.0][1] / np.sqrt(SAMPLES))
    assert np.abs(z).max() < 5 and np.square(z).mean() < 2


def test_with_noise_the_gradient_is_multiplied_by_the_noisy_difference(linear):
    """(x + e - r) w: its deviation is that of the mean noise."""
    model, targets = linear(), np.array([2, 0])
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 2))
    options = {"key": KEY, "samples": 50, "references": 0.0, "channels": None}
    maps = gradient_shap(model, images, targets, noise=0.5, **options)
    weights = np.moveaxis(model.weights, -1, 0)[targets]
    z = (np.asarray(maps) / weights - images) / (0.5 / np.sqrt(50))
    assert abs(z.mean()) < 4 / np.sqrt(z.size) and abs(z.std() - 1) < 0.15

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jc2i.explainers import sensitivity, smoothgrad
from jc2i.query import image_keys

KEY = jax.random.key(3)


def images_of(batch, shape=(8, 8, 2)):
    return jax.random.uniform(jax.random.key(1), (batch, *shape))


def test_a_linear_models_map_is_its_weights(linear):
    model, targets = linear(), np.array([2, 0])
    maps = smoothgrad(model, images_of(2), targets, key=KEY, samples=3, channels=None)
    expected = jnp.moveaxis(model.weights, -1, 0)[targets]
    np.testing.assert_allclose(maps, expected, rtol=1e-6)


def noise_of(key, batch, samples, shape=(8, 8, 2)):
    """The standard normal draws, by the documented keys: the image's, then the sample's."""

    def draw(key, index):
        return jax.random.normal(jax.random.fold_in(key, index), shape)

    over_samples = jax.vmap(draw, (None, 0))
    return jax.vmap(over_samples, (0, None))(image_keys(key, batch), jnp.arange(samples))


def quadratic(images):
    """x_i^2 w_i / 2, whose gradient w_i x_i is linear in the noise."""
    weights = jnp.linspace(-1, 1, images[0].size).reshape(images.shape[1:])
    score = jnp.sum(images**2 / 2 * weights, axis=(1, 2, 3))
    return jnp.stack([score, -score], axis=1)


def test_a_quadratic_models_map_is_the_gradient_at_the_mean_of_the_noisy_images():
    images, targets = images_of(3), np.zeros(3, int)
    options = {"key": KEY, "samples": 40, "noise": 0.3, "channels": None}
    maps = smoothgrad(quadratic, images, targets, **options)
    shift = 0.3 * noise_of(KEY, 3, 40).mean(axis=1)
    weights = np.linspace(-1, 1, 128).reshape(8, 8, 2)
    np.testing.assert_allclose(maps, weights * (images + shift), rtol=1e-4, atol=1e-5)
    # The closed form without knowing the draws: the deviation from w x is N(0, noise^2 / samples).
    z = (np.asarray(maps) / weights - images) / (0.3 / np.sqrt(40))
    assert abs(z.mean()) < 4 / np.sqrt(z.size)
    assert abs(z.std() - 1) < 0.15


def test_relative_noise_is_a_fraction_of_each_images_range():
    images, targets = images_of(2) * jnp.array([1.0, 0.25])[:, None, None, None], np.zeros(2, int)
    options = {"key": KEY, "samples": 5, "channels": None}
    maps = smoothgrad(quadratic, images, targets, noise=0.5, relative=True, **options)
    for i, image in enumerate(images):
        noise = 0.5 * float(image.max() - image.min())
        alone = {**options, "key": jax.random.fold_in(KEY, i)[None]}
        expected = smoothgrad(quadratic, image[None], targets[:1], noise=noise, **alone)
        np.testing.assert_allclose(maps[i], expected[0], rtol=1e-4, atol=1e-5)


def test_without_noise_it_is_the_gradient(convnet):
    network, images = convnet(), images_of(2, (8, 8, 3))
    maps = smoothgrad(network, images, np.array([0, 1]), key=KEY, samples=2, noise=0.0)
    np.testing.assert_allclose(maps, sensitivity(network, images, np.array([0, 1])), rtol=1e-5)


def test_another_key_gives_another_map(convnet):
    network, images, targets = convnet(), images_of(1, (8, 8, 3)), np.array([0])
    one, other = (
        smoothgrad(network, images, targets, key=jax.random.key(seed), samples=2) for seed in (0, 1)
    )
    assert not np.allclose(one, other)

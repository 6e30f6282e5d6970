"""The information bottleneck against its formulas, worked in NumPy and by integration."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from scipy import integrate, stats

import jc2i
from jc2i import query, taps
from jc2i.explainers import activation_statistics, information_bottleneck
from jc2i.explainers.information import information_bottleneck as module

ROWS, COLUMNS, FEATURES, CLASSES = 3, 4, 2, 3
RANDOM = np.random.default_rng(0)
HEAD = RANDOM.standard_normal((ROWS, COLUMNS, FEATURES, CLASSES))
IMAGES = RANDOM.uniform(size=(2, 6, 8, FEATURES))
TARGETS = np.array([2, 0])
MEAN, STD = np.array([0.4, 0.6]), RANDOM.uniform(0.1, 0.5, (ROWS, COLUMNS, FEATURES))


def model(images):
    """Logits, a linear function of the means of 2x2 pixels."""
    cells = images.reshape(len(images), ROWS, 2, COLUMNS, 2, FEATURES).mean((2, 4))
    cells = checkpoint_name(cells, "cells")
    return jnp.einsum("bhwk,hwkc->bc", cells, jnp.asarray(HEAD, images.dtype))


def smoothed(values):
    """A Gaussian of standard deviation 1 cut at 2, the border mirrored without its edge."""
    kernel = np.exp(-0.5 * np.arange(-2.0, 3) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(values, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    result = np.zeros_like(values)
    for i, j in np.ndindex(5, 5):
        part = padded[i : i + values.shape[0], j : j + values.shape[1]]
        result += kernel[i] * kernel[j] * part
    return result


def information(alpha, activation):
    """KL(N(l r + (1 - l) mean, (1 - l)^2 std^2) || N(mean, std^2)) of every value."""
    share = smoothed(1 / (1 + np.exp(-alpha)))
    mean, deviation = share * activation + (1 - share) * MEAN, (1 - share) * STD
    ratio = (deviation**2 + (mean - MEAN) ** 2) / STD**2
    return np.log(STD / deviation) + (ratio - 1) / 2


def loss(alpha, activation, target, noise, beta):
    share = smoothed(1 / (1 + np.exp(-alpha)))
    total = 0
    for drawn in noise:
        mixed = share * activation + (1 - share) * (MEAN + STD * drawn)
        logits = np.einsum("hwk,hwkc->c", mixed, HEAD)
        total += np.log(np.exp(logits).sum()) - logits[target]
    return total / len(noise) + beta * information(alpha, activation).mean()


def by_hand(activation, target, noise, beta):
    """Adam's steps with the gradient of finite differences, in float64."""
    alpha, first, second = np.full(activation.shape, 5.0), 0, 0
    for step, drawn in enumerate(noise, 1):
        gradient = np.zeros_like(alpha)
        for place in np.ndindex(alpha.shape):
            shift = np.zeros_like(alpha)
            shift[place] = 1e-4
            sides = [loss(alpha + s * shift, activation, target, drawn, beta) for s in (1, -1)]
            gradient[place] = (sides[0] - sides[1]) / 2e-4
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        alpha -= first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return information(alpha, activation).sum(-1) / np.log(2)


@pytest.mark.parametrize(("beta", "batch_size"), [(10.0, 2), (0.2, 32)])
def test_first_steps_are_those_of_finite_differences_in_numpy(beta, batch_size):
    steps, samples = 3, 4
    with jax.enable_x64(True):
        keys = query.image_keys(jax.random.key(1), 2)
        maps = information_bottleneck(
            model,
            IMAGES,
            TARGETS,
            key=keys,
            mean=MEAN,
            std=STD,
            beta=beta,
            steps=steps,
            samples=samples,
            resize=False,
            batch_size=batch_size,
        )
        activations = np.asarray(taps.capture(model, IMAGES, "cells"))
        shape = activations.shape[1:]
        noise = [module.noise(key, jnp.arange(steps * samples), shape) for key in keys]
    for i in range(2):
        drawn = np.asarray(noise[i]).reshape(steps, samples, *shape)
        expected = by_hand(activations[i], TARGETS[i], drawn, beta)
        np.testing.assert_allclose(maps[i], expected, rtol=1e-6)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.7, 0.3), (-2.0, 0.01), (1.5, 1.2)])
def test_capacity_is_the_divergence_by_numerical_integration(mean, deviation):
    norm = stats.norm
    expected, _ = integrate.quad(
        lambda x: norm.pdf(x, mean, deviation) * (norm.logpdf(x, mean, deviation) - norm.logpdf(x)),
        mean - 12 * deviation,
        mean + 12 * deviation,
    )
    value = module.capacity(jnp.float32(mean), jnp.float32(deviation))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_capacity_falls_to_zero_with_beta():
    explain = functools.partial(
        information_bottleneck,
        model,
        jnp.float32(IMAGES),
        TARGETS,
        key=jax.random.key(1),
        mean=MEAN,
        std=STD,
        steps=30,
        samples=2,
    )
    bits = [float(explain(beta=beta).mean()) for beta in (0.0, 1.0, 10.0, 1e4)]
    assert bits[0] > 10 * bits[1] and bits[1] > bits[2] > bits[3] and bits[3] < 1e-3


def test_what_the_score_does_not_read_passes_nothing():
    """A head that reads one cell: its bits stay, the others go."""
    head = jnp.zeros((ROWS, COLUMNS, FEATURES, 2)).at[1, 2, :, 0].set(20.0)

    def reads_one(images):
        cells = images.reshape(len(images), ROWS, 2, COLUMNS, 2, FEATURES).mean((2, 4))
        return jnp.einsum("bhwk,hwkc->bc", checkpoint_name(cells, "cells") - 0.5, head)

    images = jnp.full((1, 6, 8, FEATURES), 0.9)
    maps = information_bottleneck(
        reads_one,
        images,
        np.array([0]),
        key=jax.random.key(0),
        mean=0.5,
        std=0.3,
        beta=0.2,
        steps=40,
        sigma=None,
        resize=False,
    )
    others = np.delete(np.asarray(maps).ravel(), COLUMNS + 2)
    assert maps[0, 1, 2] > 0.5 and others.max() < 0.05


def test_probabilities_and_logits_have_one_cross_entropy():
    logits = jnp.float32(RANDOM.standard_normal((4, 5)))
    targets = np.array([0, 4, 1, 2])
    expected = -np.take_along_axis(np.log(softmax(logits)), targets[:, None], 1)[:, 0]
    for values in (logits, jax.nn.softmax(logits)):
        np.testing.assert_allclose(module.cross_entropy(values, targets), expected, rtol=1e-5)
    options = {"key": jax.random.key(1), "mean": MEAN, "std": STD, "steps": 3, "samples": 2}
    maps = [
        information_bottleneck(score(model), jnp.float32(IMAGES), TARGETS, **options)
        for score in (jc2i.logits, jc2i.probabilities)
    ]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-3)


def softmax(logits):
    powers = np.exp(np.asarray(logits, float))
    return powers / powers.sum(1, keepdims=True)


def test_a_probability_of_zero_has_a_finite_slope():
    values = jnp.float32([[0.0, 1.0], [1.0, 0.0]])
    gradient = jax.grad(lambda v: module.cross_entropy(v, jnp.array([0, 0])).sum())(values)
    assert np.isfinite(gradient).all()


def test_statistics_are_numpys_over_all_images_whatever_the_batches():
    images = np.random.default_rng(1).uniform(size=(7, 6, 8, FEATURES)).astype(np.float32)
    activations = np.asarray(taps.capture(model, images, "cells"), np.float64)
    batches = (images[i : i + 2] for i in range(0, 7, 2))
    for given in (images, batches):
        found = activation_statistics(model, given, batch_size=3)
        np.testing.assert_allclose(found.mean, activations.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.std, activations.std(0, ddof=1), rtol=1e-4)
    with pytest.raises(ValueError, match="images: got 1 images, takes two or more"):
        activation_statistics(model, images[:1])


def test_features_on_the_second_axis(convnet):
    network = convnet()
    images = RANDOM.uniform(size=(2, 8, 10, 3)).astype(np.float32)

    def turned(images):
        """The same network with a layer that is named features first."""
        found, behind = taps.cut(network, images, "layer2")
        return behind(jnp.moveaxis(checkpoint_name(jnp.moveaxis(found, -1, 1), "turned"), 1, -1))

    options = {"key": jax.random.key(0), "std": 0.5, "steps": 3, "samples": 2}
    maps = [
        information_bottleneck(network, images, TARGETS, mean=0.3, layer="layer2", **options),
        information_bottleneck(
            turned, images, TARGETS, mean=0.3, layer="turned", channel_axis=1, **options
        ),
    ]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-4)


def test_tokens_are_the_grid_that_they_lie_on(convnet):
    network = convnet()
    images = RANDOM.uniform(size=(2, 8, 12, 3)).astype(np.float32)

    def transformer(images):
        """The same network with the cells of a layer as tokens behind another."""
        found, behind = taps.cut(network, images, "layer2")
        tokens = found.reshape(len(found), -1, found.shape[-1])
        leading = jnp.ones_like(tokens[:, :1])
        tokens = checkpoint_name(jnp.concatenate([leading, tokens], axis=1), "tokens")
        return behind(tokens[:, 1:].reshape(found.shape)) * tokens[:, :1, 0]

    options = {"key": jax.random.key(0), "steps": 3, "samples": 2}
    maps = []
    for score, layer in ((network, "layer2"), (transformer, "tokens")):
        statistics = activation_statistics(score, images, layer)._asdict()
        maps.append(
            information_bottleneck(score, images, TARGETS, layer=layer, **statistics, **options)
        )
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-4)
    with pytest.raises(ValueError, match="^prefix_tokens: got 0, takes a number that leaves"):
        activation_statistics(transformer, images, "tokens", prefix_tokens=0)


def test_statistics_refuse_by_name(untyped):
    images = jnp.float32(IMAGES)
    with pytest.raises(ValueError, match=r"^layer: got \['cells'\], takes a name, or None"):
        activation_statistics(model, images, ["cells"])
    with pytest.raises(ValueError, match="^channel_axis: got 3, takes 1 or -1 or None"):
        activation_statistics(model, images, "cells", 3)
    pooled = lambda images: checkpoint_name(images, "pixels").mean((1, 2))  # noqa: E731
    with pytest.raises(ValueError, match="^images: got .*, takes batches of images of one size"):
        activation_statistics(pooled, [images, images[:, 1:]], "pixels")
    with pytest.raises(ValueError, match="^layer: got .*, takes a name, or None"):
        information_bottleneck(
            model, images, TARGETS, key=jax.random.key(0), layer=("cells",), mean=0, std=1
        )


@pytest.mark.parametrize("name", ["mean", "std"])
def test_refuses_statistics_that_do_not_fit_by_name(name):
    options = {"key": jax.random.key(0), "mean": MEAN, "std": STD}
    explain = functools.partial(information_bottleneck, model, jnp.float32(IMAGES), TARGETS)
    with pytest.raises(ValueError, match=rf"{name}: got None, takes an array that broadcasts"):
        explain(**{**options, name: None})
    with pytest.raises(ValueError, match=rf"{name}: got float32\[5\], takes .* \[3, 4, 2\]"):
        explain(**{**options, name: np.ones(5, np.float32)})
    with pytest.raises(ValueError, match="std: got values out of range"):
        explain(**{**options, "std": -STD})

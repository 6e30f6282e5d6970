"""Tokens as grids, several layers, and which layer is meant by none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from jc2i import explainers, models, taps
from jc2i.explainers.cam import layers

RANDOM = np.random.default_rng(0)
MIXING = jnp.float32(RANDOM.standard_normal((30, 30)) / 5)
HEAD = jnp.float32(RANDOM.standard_normal((6, 4)))
LEADING = jnp.float32(RANDOM.standard_normal((1, 5, 6)))
IMAGES = jnp.float32(RANDOM.random((2, 8, 12, 3)))
TARGETS = jnp.array([3, 0])


def transformer(images, prefix, attention=True):
    """Patches of 2 x 2 behind so many tokens, one attention, and the first token or their mean."""
    rows, columns = images.shape[1] // 2, images.shape[2] // 2
    patches = images.reshape(len(images), rows, 2, columns, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(len(images), rows * columns, 12)[..., :6]
    leading = jnp.broadcast_to(LEADING[:, :prefix], (len(images), prefix, 6))
    tokens = checkpoint_name(jnp.concatenate([leading, patches], axis=1), "tokens")
    count = tokens.shape[1]
    maps = jax.nn.softmax(MIXING[:count, :count] + tokens.sum((1, 2), keepdims=True))
    maps = jnp.broadcast_to(maps, (len(images), count, count))[:, None]
    maps = checkpoint_name(maps, "attention") if attention else maps
    mixed = checkpoint_name(jnp.tanh(maps[:, 0] @ tokens) * tokens, "mixed")
    return (mixed[:, 0] if prefix else mixed.mean(axis=1)) @ HEAD


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_become_a_grid_and_those_that_lead_keep_their_values(prefix):
    def model(images):
        return transformer(images, prefix)

    tokens = taps.capture(model, IMAGES, "tokens")
    found = layers.cut(model, IMAGES, TARGETS, "tokens")
    np.testing.assert_array_equal(found.activation, tokens[:, prefix:].reshape(2, 4, 6, 6))
    value = found.activation.at[:, 1, 2].set(7)
    changed = tokens.at[:, prefix + 1 * 6 + 2].set(7)
    scores = taps.replace(model, IMAGES, "tokens", changed)
    np.testing.assert_allclose(found.score(value), scores[jnp.arange(2), TARGETS], rtol=1e-5)
    said = layers.cut(model, IMAGES, TARGETS, "tokens", prefix_tokens=prefix)
    np.testing.assert_array_equal(said.activation, found.activation)

    def total(tokens):
        return taps.replace(model, IMAGES, "tokens", tokens)[jnp.arange(2), TARGETS].sum()

    gradient = np.asarray(jax.grad(total)(tokens), float)[:, prefix:]
    weights = gradient.mean(axis=1)
    expected = np.einsum("btk,bk->bt", np.asarray(tokens, float)[:, prefix:], weights)
    maps = explainers.grad_cam(model, IMAGES, TARGETS, layer="tokens", relu=False, resize=False)
    np.testing.assert_allclose(maps, expected.reshape(2, 4, 6), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", [explainers.score_cam, explainers.ablation_cam])
def test_methods_without_gradients_take_tokens(method):
    def model(images):
        return transformer(images, 1)

    maps = method(model, IMAGES, TARGETS, layer="tokens", relu=False)
    assert maps.shape == (2, 8, 12) and (np.std(maps, axis=(1, 2)) > 0).all()


def test_the_tokens_meant_by_none_still_reach_the_score():
    name, axis = layers.chosen(lambda images: transformer(images, 1), IMAGES, None)
    assert (name, axis) == ("tokens", -1)
    assert layers.chosen(lambda images: transformer(images, 0), IMAGES, None)[0] == "mixed"
    with pytest.raises(ValueError, match="^layer: got None, takes one of tokens, mixed"):
        layers.chosen(lambda images: transformer(images, 1, attention=False), IMAGES, None)


def test_layers_up_to_the_one_meant_by_none():
    assert layers.up_to_default(lambda images: transformer(images, 1), IMAGES) == ["tokens"]
    found = layers.up_to_default(lambda images: transformer(images, 0), IMAGES)
    assert found == ["tokens", "mixed"]


def test_a_class_token_alone_is_not_the_layer_meant_by_none():
    def model(images):
        found, behind = taps.cut(lambda images: transformer(images, 1), images, "mixed")
        alone = checkpoint_name(found[:, :1], "class")
        return behind(jnp.concatenate([alone, found[:, 1:]], axis=1))

    assert layers.chosen(model, IMAGES, None)[0] == "tokens"
    with pytest.raises(ValueError, match=r"^layer: got 'class', float32\[2, 1, 6\], takes one of"):
        layers.chosen(model, IMAGES, "class")


def test_a_number_of_tokens_that_fits_no_grid_is_refused():
    with pytest.raises(ValueError, match="^prefix_tokens: got 2, takes a number that leaves"):
        explainers.grad_cam(
            lambda images: transformer(images, 1),
            IMAGES,
            TARGETS,
            layer="tokens",
            prefix_tokens=2,
        )
    with pytest.raises(ValueError, match="^prefix_tokens: got -1, takes a whole number from 0"):
        explainers.grad_cam(lambda images: 0, IMAGES, TARGETS, prefix_tokens=-1)


def test_a_vision_transformers_default_is_the_last_attentions_normalisation():
    sizes = {"size": 16, "patch": 4, "width": 8, "depth": 2, "heads": 2}
    model = models.create("vit_small", classes=4, key=jax.random.key(0), **sizes)
    images = jnp.float32(RANDOM.random((2, 16, 16, 3)))
    assert layers.chosen(model, images, None) == ("block1.grid", -1)
    # Layer norm of the tokens that enter the block, worked by hand.
    tokens = np.asarray(taps.capture(model, images, "block0"), float)
    centred = tokens - tokens.mean(-1, keepdims=True)
    normalised = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    found = layers.cut(model, images, TARGETS, None)
    expected = normalised[:, 1:].reshape(2, 4, 4, 8)
    np.testing.assert_allclose(found.activation, expected, rtol=1e-3, atol=1e-4)
    for layer in ("block0", None):
        maps = explainers.hires_cam(model, images, TARGETS, layer=layer)
        assert (np.std(maps, axis=(1, 2)) > 0).all()


@pytest.mark.parametrize("relu", [True, False])
def test_several_layers_are_a_mean_of_normalised_maps(convnet, relu):
    model, images = convnet(), jnp.float32(RANDOM.random((3, 8, 9, 3)))
    targets, names = jnp.array([0, 3, 1]), ("layer1", "layer2")
    expected = 0
    for name in names:
        found = explainers.grad_cam(model, images, targets, layer=name, relu=relu, resize=False)
        low, high = (f(found, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
        found = (found - low) / np.where(high > low, high - low, 1)
        # JAX's bilinear resize has its pixel centres at half-integers.
        expected = expected + np.asarray(jax.image.resize(found, (3, 8, 9), "linear")) / 2
    maps = explainers.grad_cam(model, images, targets, layer=list(names), relu=relu)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="^resize: got False with layers of 8x9 and 4x5 cells"):
        explainers.grad_cam(model, images, targets, layer=names, resize=False)


def test_one_layer_in_a_tuple_is_that_layer(convnet):
    model, images = convnet(), jnp.float32(RANDOM.random((2, 8, 9, 3)))
    alone = explainers.grad_cam(model, images, TARGETS, layer="layer2")
    np.testing.assert_array_equal(
        explainers.grad_cam(model, images, TARGETS, layer=("layer2",)), alone
    )


def test_a_named_number_is_no_grid():
    def model(images):
        total = checkpoint_name(images.sum(), "total")
        kept = checkpoint_name(images, "kept")
        return kept.mean((1, 2))[:, :2] + total

    images, targets = np.ones((2, 8, 8, 3), np.float32), np.array([0, 1])
    with pytest.raises(ValueError, match=r"^layer: got 'total', float32\[\], takes one of kept"):
        explainers.grad_cam(model, images, targets, layer="total")

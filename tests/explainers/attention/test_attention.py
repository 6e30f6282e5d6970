"""Attention methods against their formulas in NumPy, and in PyTorch on transformers' ViT."""

from __future__ import annotations

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from safetensors.numpy import save_file

import jc2i
from jc2i import explainers, models, taps
from jc2i.calibrators import Temperature
from jc2i.explainers.attention.relevance import arriving_at, chefer
from jc2i.explainers.propagation.relevance import Settings
from jc2i.explainers.tokens import grid_of_tokens
from jc2i.tracing import units

GOLDEN = Path(__file__).parents[2] / "golden"
LAYERS = ("attention0", "attention1")


@pytest.fixture(scope="module")
def given(transformer):
    """Three images, their targets, and a transformer with a class token."""
    images = np.random.default_rng(0).uniform(size=(3, 6, 9, 3)).astype(np.float32)
    return transformer(), images, np.array([0, 3, 1])


@pytest.fixture(scope="module")
def attentions(given):
    model, images, _ = given
    return [np.asarray(a, np.float64) for a in taps.capture(model, images, LAYERS)]


def rolled(matrices, start=None):
    """The class token's row of the product, or the rows' sum with weights, on the patches' grid."""
    joint = matrices[1] @ matrices[0]
    row = joint[:, 0] if start is None else np.einsum("i,bij->bj", start, joint)
    return row[:, -6:].reshape(-1, 2, 3)


def normalised(fused, residual=1.0):
    total = fused + residual * np.eye(fused.shape[-1])
    return total / total.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_raw_attention_is_the_class_tokens_row(given, attentions, fusion):
    found = explainers.raw_attention(*given, fusion=fusion, resize=False)
    expected = getattr(np, fusion)(attentions[1], axis=1)[:, 0, 1:].reshape(3, 2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_raw_attention_of_another_block_and_of_the_patches(given, attentions):
    options = {"layer": "attention0", "token": "mean", "resize": False}
    found = explainers.raw_attention(*given, **options)
    expected = attentions[0].mean(axis=1)[:, 1:].mean(axis=1)[:, 1:].reshape(3, 2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_model_without_a_class_token_has_the_mean_over_rows(transformer, given):
    _, images, targets = given
    model = transformer(class_token=False)
    found = explainers.attention_rollout(model, images, targets, resize=False)
    maps = [np.asarray(a).mean(axis=1) for a in taps.capture(model, images, LAYERS)]
    expected = rolled([normalised(m) for m in maps], np.full(6, 1 / 6))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"token: got 'class', takes 'mean': this model has no"):
        explainers.attention_rollout(model, images, targets, token="class")


@pytest.mark.parametrize(
    ("fusion", "residual", "ratio"), [("mean", 1.0, 0.0), ("max", 0.5, 0.5), ("min", 0.0, 0.9)]
)
def test_rollout_equals_its_formula(given, attentions, fusion, residual, ratio):
    found = explainers.attention_rollout(
        *given, fusion=fusion, residual=residual, discard_ratio=ratio, resize=False
    )
    matrices = []
    for attention in attentions:
        fused = getattr(np, fusion)(attention, axis=1)
        for one in fused:  # a map at a time
            one.ravel()[np.argsort(one.ravel())[: int(ratio * one.size)]] = 0
        total = fused + residual * np.eye(7)
        sums = total.sum(axis=-1, keepdims=True)
        matrices.append(total / np.where(sums > 0, sums, 1))
    np.testing.assert_allclose(found, rolled(matrices), rtol=1e-5, atol=1e-7)


def test_rollout_of_rows_that_keep_all_sums_to_one(given):
    """What flows to the patches and to the class token is all that there is."""
    model, images, targets = given
    found = explainers.attention_rollout(model, images, targets, resize=False)
    maps = [normalised(np.asarray(a).mean(1)) for a in taps.capture(model, images, LAYERS)]
    own = (maps[1] @ maps[0])[:, 0, 0]
    np.testing.assert_allclose(found.sum(axis=(1, 2)) + own, 1, rtol=1e-5)


def test_maps_are_upsampled_with_pixel_centres_at_half_integers(given):
    coarse, fine = (explainers.raw_attention(*given, resize=resize) for resize in (False, True))
    assert (coarse.shape, fine.shape) == ((3, 2, 3), (3, 6, 9))
    np.testing.assert_allclose(fine, jax.image.resize(coarse, (3, 6, 9), "linear"), atol=1e-6)


@pytest.mark.parametrize("method", ["raw_attention", "attention_rollout"])
def test_no_score_and_no_calibration_moves_them(given, method):
    model, images, targets = given
    explain = getattr(explainers, method)
    expected = explain(model, images, targets)
    calibrated = jc2i.probabilities(model, Temperature(jnp.float32(3.0)))
    np.testing.assert_array_equal(explain(calibrated, images, (targets + 1) % 4), expected)


def tibav_in_numpy(relevances, gradients):
    """Later blocks on the left."""
    matrices = [
        np.eye(7) + np.maximum(r * g, 0).mean(axis=1)
        for r, g in zip(relevances, gradients, strict=True)
    ]
    return rolled(matrices)


def test_tibav_is_the_product_of_what_arrives_at_the_attention_maps(given):
    """Gradients by `taps.cut` at each map alone; relevance from a network where it is known."""
    images, targets = given[1:]
    random = np.random.default_rng(1)
    embed, head = (np.float32(random.uniform(0, 0.5, shape)) for shape in [(27, 4), (4, 4)])
    mixing = [np.float32(random.standard_normal((4, 2))) for _ in range(4)]

    def model(images):
        # Without any residual, everything that is not a softmax above zero.
        patches = images.reshape(-1, 2, 3, 3, 3, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 6, 27)
        tokens = jnp.concatenate([jnp.ones((len(images), 1, 4)), patches @ embed], axis=1)
        for i in (0, 1):
            query, key = tokens @ mixing[i], tokens @ mixing[i + 2]
            attention = jax.nn.softmax(query @ jnp.swapaxes(key, 1, 2))[:, None]
            attention = checkpoint_name(attention, f"attention{i}")
            tokens = attention[:, 0] @ tokens
        return tokens[:, 0] @ head

    def alone(layer):
        value, behind = taps.cut(model, images, layer)
        rows = np.arange(len(images))
        return value, jax.grad(lambda v: behind(v)[rows, targets].sum())(value)

    (_, gradient0), (attention1, gradient1) = map(alone, LAYERS)
    # Behind the last map all is a product of values above zero: R = A dF/dA / F / 2.
    scores = np.asarray(model(images))[np.arange(3), targets]
    relevance1 = attention1 * gradient1 / scores[:, None, None, None] / 2
    found = explainers.tibav(model, images, targets, layer="attention1", resize=False)
    expected = np.eye(7) + np.maximum(relevance1 * gradient1, 0)[:, 0]
    np.testing.assert_allclose(found, expected[:, 0, 1:].reshape(3, 2, 3), rtol=1e-4)
    whole = explainers.tibav(model, images, targets, resize=False)
    assert np.abs(gradient0).max() > 0 and not np.allclose(whole, found)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The golden script's network, images and targets, and its results."""
    lxt = runpy.run_path(str(GOLDEN / "explainers_lxt.py"))
    path = tmp_path_factory.mktemp("attention") / "weights"
    save_file(lxt["tensors"](), path)
    options = lxt["DIMENSIONS"] | {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    model = models.from_torch("vit_small", path, classes=lxt["CLASSES"], **options)
    with np.load(GOLDEN / "explainers_attention.npz") as golden:
        return (model, lxt["images"](), lxt["TARGETS"]), dict(golden)


@pytest.mark.parametrize("method", ["raw_attention", "attention_rollout", "tibav"])
def test_maps_of_a_vision_transformer_equal_those_worked_in_pytorch(published, method):
    (model, images, targets), golden = published
    name = {"raw_attention": "raw", "attention_rollout": "rollout"}.get(method, method)
    np.testing.assert_allclose(model(images), golden["logits"], atol=1e-4)
    found = getattr(explainers, method)(model, images, targets, resize=False)
    expected = golden[name].reshape(found.shape)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_relevance_and_gradient_at_named_maps_equal_those_worked_in_pytorch(published):
    (model, images, targets), golden = published
    settings = Settings(1e-9, False, 0.25, 1.0, False, lambda unit: (images, images))
    rules = chefer(settings)
    layers = [name for name in taps.names(model, images) if name.endswith("attention")]
    one = jnp.asarray(images[:1])
    by_rules = units.read(model, one, normalisations_held=True)
    start = jax.nn.one_hot(targets[:1], golden["logits"].shape[1])
    relevance = arriving_at(layers, by_rules, rules, one, start)
    gradient = arriving_at(layers, units.read(model, one), {}, one, start)
    for found, expected in ((relevance, golden["relevance"]), (gradient, golden["gradient"])):
        found = np.concatenate(found)
        assert np.abs(found - expected[0]).max() < 1e-4 * np.abs(expected[0]).max()


@pytest.mark.parametrize(
    ("tokens", "size", "prefix", "expected"),
    [
        (197, (224, 224), None, (1, 14, 14)),
        (198, (224, 224), None, (2, 14, 14)),  # DeiT's distillation token
        (201, (224, 224), None, (5, 14, 14)),  # four registers
        (196, (224, 224), None, (0, 14, 14)),
        (50, (56, 56), None, (1, 7, 7)),
        (1 + 14 * 10, (224, 160), None, (1, 14, 10)),
        (1 + 16 * 37, (224, 518), None, (1, 16, 37)),  # patches of 14 pixels
        (7, (8, 9), None, (1, 2, 3)),  # 2 rows of 8 pixels left over
        (17, (30, 30), 1, (1, 4, 4)),  # 2 pixels left over
        (65, (32, 32), None, (1, 8, 8)),  # patches of 4, not 16 tokens and patches of 5
        (20, (8, 8), 4, (4, 4, 4)),
        (36, (8, 8), 20, (20, 4, 4)),
        (5, (8, 8), None, (1, 2, 2)),
    ],
)
def test_the_grid_of_tokens_by_arithmetic(tokens, size, prefix, expected):
    assert grid_of_tokens(tokens, *size, prefix) == expected


@pytest.mark.parametrize(
    ("tokens", "size", "one", "other"),
    [
        (29, (64, 96), "1 (a grid of 4 x 7)", "5 (a grid of 4 x 6)"),
        (9, (32, 32), "0 (a grid of 3 x 3)", "5 (a grid of 2 x 2)"),
        (17, (30, 30), "1 (a grid of 4 x 4)", "8 (a grid of 3 x 3)"),
    ],
)
def test_patches_that_fit_are_not_passed_over_for_some_that_do_not(tokens, size, one, other):
    """Patches that divide the image, with registers, or patches that do not: it must be said."""
    with pytest.raises(ValueError) as refusal:
        grid_of_tokens(tokens, *size)
    assert str(refusal.value).endswith(f"image, takes {one} or {other}")
    for prefix in (int(one.split()[0]), int(other.split()[0])):
        assert grid_of_tokens(tokens, *size, prefix).prefix == prefix


@pytest.mark.parametrize(("tokens", "prefix"), [(1, None), (2, None), (5, 4)])
def test_one_cell_is_no_grid(tokens, prefix):
    with pytest.raises(ValueError, match=rf"^prefix_tokens: got {prefix} for {tokens} tokens"):
        grid_of_tokens(tokens, 8, 8, prefix)


def test_refusals_name_what_there_is(given, convnet):
    model, images, targets = given
    with pytest.raises(ValueError, match=r"^layer: got None, takes a model that names its attent"):
        explainers.tibav(convnet(), images, targets)
    with pytest.raises(ValueError, match=r"^layer: got 'layer1', .* takes a model that names its"):
        explainers.tibav(convnet(), images, targets, layer="layer1")
    with pytest.raises(ValueError, match=r"^layer: got 'block', takes one of attention0, attenti"):
        explainers.raw_attention(model, images, targets, layer="block")
    with pytest.raises(ValueError, match=r"^prefix_tokens: got 2 for 7 tokens of a 6 x 9 image"):
        explainers.attention_rollout(model, images, targets, prefix_tokens=2)


def test_blocks_in_a_scan_are_named_by_number(given):
    """`name#k`, in order of execution, one at a time or all."""
    _, images, targets = given
    random = np.random.default_rng(2)
    weights = np.float32(random.standard_normal((3, 4, 4)))
    embed, head = (np.float32(random.standard_normal(shape) / 4) for shape in [(27, 4), (4, 4)])

    def blocks(tokens, unrolled):
        def block(tokens, weight):
            scores = tokens @ weight @ jnp.swapaxes(tokens, 1, 2)
            attention = checkpoint_name(jax.nn.softmax(scores)[:, None], "attention")
            return tokens + attention[:, 0] @ tokens, None

        if not unrolled:
            return jax.lax.scan(block, tokens, weights)[0]
        for weight in weights:
            tokens = block(tokens, weight)[0]
        return tokens

    def model(images, unrolled):
        patches = images.reshape(-1, 2, 3, 3, 3, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 6, 27)
        return blocks(patches @ embed, unrolled).mean(axis=1) @ head

    scanned, unrolled = (functools.partial(model, unrolled=flag) for flag in (False, True))
    assert list(taps.names(scanned, images)) == ["attention#0", "attention#1", "attention#2"]
    found, expected = (explainers.tibav(m, images, targets) for m in (scanned, unrolled))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    last = explainers.raw_attention(scanned, images, targets)
    named = explainers.raw_attention(scanned, images, targets, layer="attention#2")
    np.testing.assert_array_equal(last, named)


@pytest.mark.parametrize(
    "explain", [explainers.raw_attention, explainers.attention_rollout, explainers.tibav]
)
def test_a_convolutions_square_activation_is_no_attention(explain):
    def model(images):
        values = checkpoint_name(jnp.moveaxis(images, -1, 1)[..., :8], "layer")  # [2, 3, 8, 8]
        return values.mean(axis=(2, 3))

    images = np.random.default_rng(0).random((2, 8, 8, 3)).astype(np.float32)
    with pytest.raises(ValueError, match="^layer: got None, takes one of layer, or a"):
        explain(model, images, np.array([0, 1]))

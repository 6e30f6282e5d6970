"""Transformers against Hugging Face's (tests/golden/models_transformers.py), and their layout."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from safetensors.numpy import save_file

from jc2i import models
from jc2i.models.classifier import weights
from jc2i.models.registry import blank
from jc2i.tracing.interpreter import evaluate, trace

SCRIPT = Path(__file__).parents[1] / "golden" / "models_transformers.py"
GOLDEN = json.loads(SCRIPT.with_suffix(".json").read_text())
SMALL = {"size": 16, "width": 48, "depth": 3}


@pytest.fixture(scope="module")
def make():
    """What the script draws: images, and weights by name."""
    sys.path.insert(0, str(SCRIPT.parent))
    yield runpy.run_path(str(SCRIPT))
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture
def imported(make, tmp_path):
    def imported(case, rename=lambda name: name, **options):
        shapes = GOLDEN[case]["shapes"]
        drawn = {rename(n): make["tensor"](n, tuple(s)) for n, s in shapes.items()}
        save_file(drawn, tmp_path / "weights")
        options = {"classes": 7, "epsilon": make["CASES"][case][1]} | SMALL | options
        still = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        return models.from_torch("vit_small", tmp_path / "weights", **still, **options)

    return imported


def named(model, images):
    """Every named activation, in order."""
    found = {}

    def record(operation, value):
        name = operation.parameters["name"]
        assert name not in found
        found[name] = value
        return [value]

    closed, _ = trace(lambda m, x: m(x), model, images)
    evaluate(closed, {"name": record}, *jax.tree.leaves((model, images)))
    return found


@jax.jit
def scores(model, images, cotangent):
    """The logits, and the input gradient of their weighted sum."""
    logits, backward = jax.vjp(model, images)
    return logits, backward(jnp.asarray(cotangent))[0]


def assert_close(found, expected, tolerance=1e-4):
    expected = np.reshape(expected, found.shape)
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("case", ["timm", "torchvision"])
def test_logits_gradients_and_attention_equal_those_of_transformers(case, imported, make):
    model, golden = imported(case), GOLDEN[case]
    images = make["images"](16)
    logits, gradient = scores(model, images, make["cotangent"](7))
    assert_close(logits, golden["logits"])
    assert_close(gradient, golden["gradient"])
    assert_close(named(model, images)["block2.attention"][0], golden["attention"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_b16", "deit_b16"])
def test_base_networks_equal_that_of_transformers(name, make, tmp_path):
    golden, size = GOLDEN[make["BASE"]], make["BASE_SIZE"]
    drawn = {n: make["tensor"](n, tuple(s)) for n, s in golden["shapes"].items()}
    save_file(drawn, tmp_path / "weights")
    still = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    model = models.from_torch(name, tmp_path / "weights", classes=7, size=size, **still)
    logits, gradient = scores(model, make["images"](size), make["cotangent"](7))
    assert_close(logits, golden["logits"])
    assert_close(np.ravel(gradient)[make["entries"](size)], golden["gradient"])


def test_torchvision_renamed_its_dense_layers(imported):
    new = {"mlp.linear_1": "mlp.0", "mlp.linear_2": "mlp.3"}

    def rename(name):
        for old, now in new.items():
            name = name.replace(old, now)
        return name

    old, new = weights(imported("torchvision")), weights(imported("torchvision", rename))
    jax.tree.map(np.testing.assert_array_equal, old, new)


def test_differences_are_named_as_the_file_names_things(imported):
    def rename(name):
        return name.replace("encoder_layer_1.ln_2.bias", "extra").replace("class_token", "token")

    with pytest.raises(ValueError) as error:
        imported("torchvision", rename, depth=2, patch=8)
    path, missing, surplus, misshapen = str(error.value).split(": ", 1)[1].split(": ", 3)
    assert "class_token [1, 1, 48]" in missing
    assert "encoder.layers.encoder_layer_1.ln_2.bias [48]" in missing
    assert "blocks" not in missing
    # Of many, two and how many more.
    assert "encoder.layers.encoder_layer_2" in surplus and " more; " in surplus
    assert "conv_proj.weight [48, 3, 4, 4] instead of [48, 3, 8, 8]" in misshapen


@pytest.mark.parametrize("name", ["vit_b16", "deit_b16"])
def test_base_networks_have_the_published_number_of_weights(name):
    model = jax.eval_shape(lambda: blank(name, classes=1000))
    # torchvision's `num_params` of ViT-B/16, and timm's of both.
    assert sum(leaf.size for leaf in jax.tree.leaves(model)) == 86_567_656


def test_activations_are_named_in_order_and_shaped_as_documented():
    model = blank("vit_small", classes=5, size=8, depth=2, width=12)
    found = named(model, jnp.zeros((3, 8, 8, 3)))
    block = {"norm1": (3, 5, 12), "grid": (3, 2, 2, 12), "attention": (3, 3, 5, 5)}
    blocks = {
        name: shape
        for i in range(2)
        for name, shape in [
            *((f"block{i}.{part}", shape) for part, shape in block.items()),
            (f"block{i}", (3, 5, 12)),
        ]
    }
    whole = {"norm": (3, 5, 12), "pool": (3, 12), "logits": (3, 5)}
    assert list(found) == ["patches", *blocks, *whole]
    expected = {"patches": (3, 2, 2, 12)} | blocks | whole
    assert {name: value.shape for name, value in found.items()} == expected


def test_a_grid_holds_the_patches_in_their_places():
    model = models.create("vit_small", classes=5, key=jax.random.key(0), depth=1, width=12, size=16)
    images = np.full((1, 16, 16, 3), 0.5, np.float32)
    changed = images.copy()
    changed[0, 4:8, 12:16] = 1.0  # the patch in row 1, column 3
    for name in ("patches", "block0.grid"):
        moved = np.abs(named(model, changed)[name] - named(model, images)[name]).max(axis=(0, 3))
        assert list(zip(*np.nonzero(moved), strict=True)) == [(1, 3)]


def test_attention_is_computed_in_float32():
    model = models.create(
        "vit_small", classes=5, key=jax.random.key(0), size=16, depth=1, dtype="bfloat16"
    )
    closed = jax.make_jaxpr(lambda m, x: m(x))(model, jnp.zeros((1, 16, 16, 3)))
    exponentials = [e for e in closed.eqns if e.primitive.name == "exp"]
    assert [e.outvars[0].aval.dtype for e in exponentials] == [jnp.float32]


def test_saved_and_loaded_with_every_option(tmp_path):
    options = {"size": 8, "patch": 2, "width": 8, "depth": 1, "heads": 2, "epsilon": 1e-12}
    model = models.create("vit_small", classes=3, key=jax.random.key(0), channels=1, **options)
    models.save(model, tmp_path / "model")
    again = models.load(tmp_path / "model")
    assert jax.tree.structure(again) == jax.tree.structure(model)
    jax.tree.map(np.testing.assert_array_equal, again, model)


def test_stacked_weights_run_under_vmap_and_new_ones_do_not_recompile():
    options = {"classes": 3, "size": 8, "width": 12, "depth": 1}
    one, other = (models.create("vit_small", key=jax.random.key(i), **options) for i in (0, 1))
    images = jax.random.uniform(jax.random.key(2), (2, 8, 8, 3))
    traces = []

    @jax.jit
    def call(model, images):
        traces.append(model)
        return model(images)

    apart = jnp.stack([call(one, images), call(other, images)])
    assert len(traces) == 1
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, other)
    together = jax.jit(jax.vmap(lambda m, x: m(x), in_axes=(0, None)))(both, images)
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-5)
    assert not np.allclose(apart[0], apart[1])


def test_new_weights_have_the_deviation_of_deit():
    model = weights(models.create("vit_small", classes=10, key=jax.random.key(0), depth=1))
    for name in ("blocks.0.qkv.kernel", "pos_embed", "cls_token", "patch_embed.kernel"):
        assert np.std(model[name]) == pytest.approx(0.02, rel=0.1)
    np.testing.assert_array_equal(model["blocks.0.norm1.scale"], np.ones(192))
    np.testing.assert_array_equal(model["blocks.0.qkv.bias"], np.zeros(3 * 192))


def test_a_new_network_learns_where_the_bright_quarter_is():
    model = models.create("vit_small", classes=4, key=jax.random.key(0), size=8, width=48, depth=1)
    graph, params = nnx.as_pure(nnx.split(model))
    labels = jnp.arange(16) % 4
    bright = jax.nn.one_hot(labels, 4).reshape(16, 2, 1, 2, 1, 1)
    bright = jnp.broadcast_to(bright, (16, 2, 4, 2, 4, 3)).reshape(16, 8, 8, 3)
    images = (jax.random.uniform(jax.random.key(1), bright.shape) + bright) / 2
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state):
        def loss(params):
            logits = nnx.merge(graph, params)(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return value, optax.apply_updates(params, updates), state

    state, losses = optimizer.init(params), []
    for _ in range(80):
        value, params, state = step(params, state)
        losses.append(float(value))
    assert losses[0] == pytest.approx(np.log(4), rel=0.1)
    assert losses[-1] < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 30}, "size: got 30, takes a multiple of 4, the patch"),
        ({"width": 100}, "width: got 100, takes a multiple of 3, the heads"),
        ({"depth": 0}, "depth: got 0, takes a whole number above 0"),
        ({"epsilon": 0.0}, "epsilon: got 0.0, takes a number above 0"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        blank("vit_small", classes=2, **options)

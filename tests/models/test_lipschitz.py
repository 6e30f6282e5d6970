"""The 1-Lipschitz network keeps what its bound says, wherever one looks.

The network of `lipschitz_digits` was made by

    python experiments/train.py --data digits --model lipschitz --option 'widths=(16,32,32)' \
        --epochs 60 --batch-size 50 --learning-rate 0.01 --loss-temperature 0.02 \
        --out tests/models/lipschitz_digits
"""

from __future__ import annotations

import functools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jc2i import data, explainers, models, taps
from jc2i.models.classifier import weights, with_weights
from jc2i.models.registry import blank
from jc2i.tracing import prepared

SCRIPT = Path(__file__).parents[1] / "golden" / "models_deel_torchlip.py"
MAKE = runpy.run_path(str(SCRIPT))
GOLDEN = np.load(SCRIPT.with_suffix(".npz"))
DRAWN = MAKE["drawn"]()
TINY = {"size": 8, "channels": 1, "widths": (3, 4)}
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def trained():
    return models.load(Path(__file__).with_name("lipschitz_digits"))


@pytest.fixture(scope="module")
def digits():
    dataset = data.load("digits", "test")
    return data.as_float(dataset[np.arange(1000)][0]), dataset.labels[:1000]


def free(seed=0, **options):
    """A network with weights that keep no promise."""
    model, random = blank("lipschitz", classes=3, **TINY | options), np.random.default_rng(seed)
    drawn = {name: random.standard_normal(w.shape) for name, w in weights(model).items()}
    return with_weights(model, drawn)


def torchlip_network(**options):
    """deel-torchlip's network: its weights, channels last."""
    model = blank(
        "lipschitz",
        classes=MAKE["CLASSES"],
        size=MAKE["SIZE"],
        widths=MAKE["WIDTHS"],
        channels=1,
        **options,
    )
    values = {name: DRAWN[name] for name in weights(model)}
    for name, value in values.items():
        if name.endswith("kernel"):
            values[name] = np.moveaxis(value, (0, 1), (-1, -2))
    images = np.moveaxis(DRAWN["images"], 1, -1).astype(np.float32)
    return with_weights(model, values), images


@functools.partial(jax.jit, static_argnames="of")
def together(model, images, of):
    def one(image):
        jacobian = jax.jacrev(lambda image: prepared(model)(image[None])[0])(image)
        rows = jacobian.reshape(len(jacobian), -1)
        if of == "logits":
            return jnp.linalg.norm(rows, axis=1).max()
        return jnp.sqrt(jnp.linalg.eigvalsh(rows @ rows.T)[-1])

    return jax.vmap(one)(images)


def steepness(model, images, of="jacobian"):
    """The largest singular value of each image's Jacobian, or its longest logit's gradient."""
    # In a loop on the host: gradients of convolutions are slow in a compiled one.
    parts = np.split(np.float32(images), range(100, len(images), 100))
    return np.concatenate([together(model, part, of) for part in parts])


def test_network_equals_deel_torchlips():
    model, images = torchlip_network(normalization="kernel")
    finished = model.trainable().finished()
    np.testing.assert_allclose(finished(images), GOLDEN["logits"], rtol=1e-5)
    # In training, once the power iteration has settled: it starts from the singular vectors.
    np.testing.assert_allclose(model.trainable()(images), GOLDEN["logits"], rtol=1e-4)


def test_rectifier_and_pooling_equal_deel_torchlips():
    values, slopes = np.moveaxis(DRAWN["values"], 1, -1), np.array(MAKE["SLOPES"])
    model = blank("lipschitz", classes=2, size=4, widths=(len(slopes), 1), channels=len(slopes))
    identity = np.zeros((3, 3, len(slopes), len(slopes)))
    identity[1, 1] = np.eye(len(slopes))
    made = weights(model) | {"convolutions.0.kernel": identity, "slopes.0": np.clip(slopes, -1, 1)}
    model = with_weights(model, made)
    images = np.float32(values[:, :4, :4])
    rectified = taps.capture(model, images, "convolution0")
    golden = np.moveaxis(GOLDEN["rectified"], 1, -1)[:, :4, :4]
    np.testing.assert_allclose(rectified, golden, atol=1e-6)
    # What the next convolution sees: half of the sum of four pixels.
    pooled = np.moveaxis(GOLDEN["pooled"], 1, -1)
    np.testing.assert_allclose(pooled[:, 0, 0], values[:, :2, :2].sum((1, 2)) / 2, atol=1e-12)
    last = made | {"slopes.0": np.ones(len(slopes))}
    last["convolutions.1.kernel"] = np.zeros((3, 3, len(slopes), 1))
    last["convolutions.1.kernel"][1, 1, 2] = 1
    unrectified = with_weights(model, last)
    seen = taps.capture(unrectified, images, "convolution1")
    np.testing.assert_allclose(seen[..., 0], pooled[:, :2, :2, 2], atol=1e-6)


def operator_of(layer, size):
    """The matrix of a layer, from the identity's images, without its bias."""
    kernel = layer.kernel[...]
    pixels = np.eye(size * size * kernel.shape[2], dtype=np.float32)
    images = pixels.reshape(-1, size, size, kernel.shape[2])
    return np.asarray(layer(images) - layer.bias[...]).reshape(len(pixels), -1)


def test_every_layer_stretches_by_one_and_no_more(trained):
    for layer, size in zip(trained.convolutions, trained.sizes, strict=False):
        norm = np.linalg.norm(operator_of(layer, size).astype(np.float64), 2)
        assert norm == pytest.approx(1, abs=2e-5)
        # Nearly orthonormal: all singular values of the kernel as a matrix are the same.
        matrix = np.asarray(layer.kernel[...]).reshape(-1, layer.kernel.shape[-1])
        values = np.linalg.svd(matrix, compute_uv=False)
        assert values[-1] > 0.99 * values[0]
    head = np.linalg.svd(trained.head.kernel[...], compute_uv=False)
    np.testing.assert_allclose(head, 1, atol=1e-3)
    bounds = models.layer_bounds(trained)
    names = ["convolutions.0", "convolutions.1", "convolutions.2", "slopes.0", "slopes.1"]
    assert list(bounds) == ["preprocess", *names, "pools", "head"]
    assert all(bound == pytest.approx(1, abs=2e-5) for bound in bounds.values())
    bound = models.lipschitz_bound(trained)
    assert bound == pytest.approx(np.prod(list(bounds.values())))
    assert 1 - 1e-4 < bound <= 1 + 1e-6


def test_bound_is_computed_from_the_weights_and_not_asserted(trained):
    steeper = {"convolutions.1.kernel": 3.0, "slopes.0": -8.0, "head.kernel": 0.5}
    changed = {n: steeper.get(n, 1.0) * value for n, value in weights(trained).items()}
    bounds, slope = (
        models.layer_bounds(with_weights(trained, changed)),
        weights(trained)["slopes.0"],
    )
    assert bounds["convolutions.1"] == pytest.approx(3, rel=1e-4)
    assert bounds["slopes.0"] == pytest.approx(max(1, 8 * float(np.abs(slope).max())))
    assert bounds["head"] == pytest.approx(0.5, rel=1e-3)
    assert models.lipschitz_bound(free()) > 10


def test_gradients_are_never_longer_than_one(trained, digits):
    random = np.random.default_rng(0)
    points = np.concatenate([digits[0][:100], random.uniform(size=(100, 16, 16, 1))])
    norms = steepness(trained, points)
    assert 0.1 < norms.max() <= 1 + TOLERANCE
    assert np.all(steepness(trained, points[:50], of="logits") <= norms[:50] + 1e-5)


@pytest.mark.slow  # 110,000 gradients
def test_gradients_are_never_longer_than_one_at_many_points(trained, digits):
    random = np.random.default_rng(1)
    kinds = {
        "uniform": random.uniform(size=(5000, 16, 16, 1)),
        "normal": random.standard_normal((2500, 16, 16, 1)),
        "far": 100 * random.standard_normal((2500, 16, 16, 1)),
        "real": digits[0],
    }
    for kind, points in kinds.items():
        norms = steepness(trained, points)
        assert np.all(norms <= 1 + TOLERANCE), (kind, norms.max())


@jax.jit
def ascended(model, images, steps):
    """The slopes of chords from images, at first and after 50 steps of ascent; where they are then.

    The network is linear in pieces, so that the length of a gradient has the gradient 0 almost
    everywhere: what can be ascended is the slope of chords, over both ends.
    """

    network = prepared(model)

    def slope(image, step):
        rise = network((image + step)[None])[0] - network(image[None])[0]
        return jnp.linalg.norm(rise) / jnp.linalg.norm(step)

    def climb(image, step):
        def move(_, ends):
            found = jax.grad(lambda ends: jnp.log(slope(*ends)))(ends)
            far = 0.5 * jnp.linalg.norm(step)
            return jax.tree.map(lambda end, g: end + far * g / jnp.linalg.norm(g), ends, found)

        image, step = jax.lax.fori_loop(0, 50, move, (image, step))
        return slope(image, step), image

    before = jax.vmap(slope)(images, steps)
    after, images = jax.vmap(climb)(images, steps)
    return before, after, images


def test_ascent_finds_no_steeper_place(trained, digits):
    start = jnp.asarray(digits[0][:20])
    steps = 0.1 * jax.random.normal(jax.random.key(0), start.shape)
    before, after, found = ascended(trained, start, steps)
    assert after.mean() > 2 * before.mean()
    assert after.max() <= 1 + TOLERANCE
    assert np.all(steepness(trained, found) <= 1 + TOLERANCE)
    # And it would: of a network whose second layer stretches by five.
    kernel = "convolutions.1.kernel"
    steep = with_weights(trained, weights(trained) | {kernel: 5 * weights(trained)[kernel]})
    assert ascended(steep, start, steps)[1].max() > 1.2


@pytest.mark.parametrize("normalization", ["operator", "kernel", "average"])
def test_free_weights_are_normalised_in_training_as_in_the_end(normalization):
    model = free(normalization=normalization, power_iterations=60)
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    constrained = model.trainable()
    finished = constrained.finished()
    np.testing.assert_allclose(constrained(images), finished(images), rtol=2e-3, atol=1e-4)
    bounds = models.layer_bounds(finished)
    norms = [bounds[f"convolutions.{index}"] for index in (0, 1)]
    if normalization == "operator":
        np.testing.assert_allclose(norms, 1, atol=2e-5)
    elif normalization == "kernel":
        assert max(norms) <= 1 + 1e-5
    assert bounds["slopes.0"] == 1.0 and bounds["head"] <= 1
    assert np.abs(weights(model)["slopes.0"]).max() > 1
    np.testing.assert_array_equal(
        weights(finished)["slopes.0"], np.clip(weights(model)["slopes.0"], -1, 1)
    )


def test_power_iteration_moves_in_training_alone_and_settles():
    model = free().trainable()
    images = jnp.ones((1, 8, 8, 1))
    graph, state = nnx.split(model)
    model(images)
    jax.tree.map(np.testing.assert_array_equal, nnx.split(model)[1], state)
    model.train()

    @jax.jit
    def call(state):
        training = nnx.merge(graph_of_training, state)
        logits = training(images, jax.random.key(0))
        return logits, nnx.as_pure(nnx.state(training))

    graph_of_training, state = nnx.split(model)
    state = nnx.as_pure(state)
    for _ in range(100):
        _, state = call(state)
    settled = nnx.merge(graph, state)
    np.testing.assert_allclose(settled(images), settled.finished()(images), rtol=1e-3, atol=1e-5)
    given = {"model": model.model, "finished": settled.finished()}
    assert given["finished"].draws is False and settled.model.options == given["model"].options


def test_slopes_beyond_the_bound_come_back():
    constrained = free().trainable()
    graph, parameters, rest = nnx.split(constrained, nnx.Param, ...)

    def loss(parameters):
        return jnp.square(nnx.merge(graph, parameters, rest)(jnp.ones((2, 8, 8, 1)))).sum()

    gradient = jax.grad(loss)(nnx.as_pure(parameters))
    slopes = gradient["model"]["slopes"][0]
    beyond = np.abs(weights(constrained.model)["slopes.0"]) > 1
    assert beyond.any() and np.all(np.asarray(slopes)[beyond] != 0)


def test_what_is_evaluated_is_plain_weights_and_ordinary_layers(trained):
    names = {name.rsplit(".", 1)[-1] for name in weights(trained)}
    assert names == {"kernel", "bias", "0", "1"}  # slopes by their number
    images = jnp.zeros((2, 16, 16, 1))
    equations = jax.make_jaxpr(lambda m, x: m(x))(trained, images).eqns
    counted = [equation.primitive.name for equation in equations]
    assert counted.count("conv_general_dilated") == 3 and counted.count("dot_general") == 1
    assert list(taps.names(trained, images)) == [
        *(f"convolution{index}" for index in range(3)), "logits"
    ]  # fmt: skip
    assert taps.names(trained, images)["convolution2"].shape == (2, 4, 4, 32)


def test_a_created_network_and_a_new_last_layer_keep_the_bound(trained):
    created = models.create("lipschitz", classes=4, key=jax.random.key(0), **TINY)
    assert 0.01 < models.lipschitz_bound(created) <= 1 + 1e-5
    other = models.create("lipschitz", classes=4, key=jax.random.key(1), **TINY)
    assert not np.allclose(weights(created)["head.kernel"], weights(other)["head.kernel"])
    new = models.with_new_head(trained, classes=3, key=jax.random.key(0))
    assert models.lipschitz_bound(new) <= 1 + 1e-5
    np.testing.assert_array_equal(
        weights(new)["convolutions.2.kernel"], weights(trained)["convolutions.2.kernel"]
    )


def test_explainers_see_the_trained_network(trained, digits):
    images, targets = digits[0][:2], np.asarray(digits[1][:2])
    key = jax.random.key(0)
    assert np.mean(np.argmax(trained(digits[0]), 1) == digits[1]) > 0.8
    at = explainers.grad_cam(trained, images, targets)
    named = explainers.grad_cam(trained, images, targets, layer="convolution2")
    np.testing.assert_array_equal(at, named)
    # No further than the bound: a map of absolute gradients, as long as the gradient.
    maps = np.asarray(explainers.sensitivity(trained, images, targets))
    assert np.all(np.linalg.norm(maps.reshape(2, -1), axis=1) <= 1 + TOLERANCE)
    scores = np.asarray(trained(images))[np.arange(2), targets]
    blank_scores = np.asarray(trained(0 * images))[np.arange(2), targets]
    deep = np.asarray(explainers.deeplift(trained, images, targets, reference="black"))
    np.testing.assert_allclose(deep.sum((1, 2)), scores - blank_scores, rtol=1e-3, atol=1e-4)
    relevance = explainers.lrp(trained, images, targets, composite="epsilon_plus")
    masked = explainers.rise(trained, images, targets, key=key, masks=20)
    assert np.isfinite(relevance).all() and np.isfinite(masked).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bjorck_steps": -1}, "bjorck_steps: got -1, takes a whole number from 0"),
        ({"power_iterations": 0}, "power_iterations: got 0, takes a whole number above 0"),
        ({"dropout": 1.0}, r"dropout: got 1.0, takes a number in \[0, 1\)"),
        (
            {"normalization": "deel"},
            "normalization: got 'deel', takes 'operator' or 'kernel' or 'average'",
        ),
        ({"widths": ()}, r"widths: got \(\), takes a list of whole numbers above 0.*"),
        ({"widths": (4, 0)}, r"widths: got \(4, 0\), takes a list of whole numbers above 0.*"),
        ({"size": 7}, "size: got 7, takes a whole number of at least 8"),
        ({"std": (0.5, 0.5, 0.5)}, r"std: got \(0.5, 0.5, 0.5\), takes 1 for each channel"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        models.create("lipschitz", classes=2, key=jax.random.key(0), **options)

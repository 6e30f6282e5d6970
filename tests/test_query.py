"""What every function that queries a model does with its arguments."""

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i import explainers, query
from jc2i.calibrators import Temperature
from jc2i.metrics import deletion_curve

SHAPE = (8, 9, 3)
KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).uniform(size=(4, *SHAPE)).astype(np.float32)
TARGETS = np.array([0, 1, 2, 3])


def spoilt(value):
    images = IMAGES.copy()
    images[1, 2, 3, 0] = value
    return images


def refusal(call):
    with pytest.raises(ValueError) as refused:
        call()
    return str(refused.value)


IMAGE_REFUSALS = {
    "rank": (
        IMAGES[0],
        "images: got float32[8, 9, 3], takes floats[batch, height, width, channel]",
    ),
    "uint8": (
        np.uint8(IMAGES),
        "images: got uint8[4, 8, 9, 3], takes floats[batch, height, width, channel] in [0, 1] "
        "(integers / 255)",
    ),
    "no array": (None, "images: got None, takes floats[batch, height, width, channel]"),
    "empty": (IMAGES[:0], "images: got an empty batch, float32[0, 8, 9, 3], takes floats["),
    "NaN": (spoilt(np.nan), "images: got NaN or infinity in float32[4, 8, 9, 3], takes finite"),
    "infinity": (jnp.asarray(spoilt(np.inf)), "images: got NaN or infinity in float32"),
    "channels": (IMAGES[..., :2], "images: got float32[4, 8, 9, 2], takes images that the model"),
}


@pytest.mark.parametrize("name", IMAGE_REFUSALS)
def test_refuses_images(convnet, name):
    images, message = IMAGE_REFUSALS[name]
    call = functools.partial(explainers.sensitivity, convnet(), images, TARGETS)
    assert message in refusal(call)


TARGET_REFUSALS = {
    "too large": ([0, 1, 4, 3], "targets: got class 4, takes classes 0 to 3"),
    "negative": (jnp.array([0, 1, 2, -1]), "targets: got class -1, takes classes 0 to 3"),
    "too few": (TARGETS[:3], "targets: got int64[3], takes integers[batch], one for each of the 4"),
    "fractions": (np.zeros(4), "targets: got float64[4], takes integers[batch]"),
    "one number": (2, "targets: got 2, takes integers[batch], one for each of the 4 images"),
}


@pytest.mark.parametrize("name", TARGET_REFUSALS)
def test_refuses_targets(convnet, name):
    targets, message = TARGET_REFUSALS[name]
    assert message in refusal(lambda: explainers.sensitivity(convnet(), IMAGES, targets))


STOCHASTIC = [explainers.rise, explainers.smoothgrad, explainers.random_map]


@pytest.mark.parametrize("explain", STOCHASTIC, ids=lambda f: f.__name__)
def test_refuses_to_draw_without_a_key(convnet, explain):
    message = "key: got None, takes a jax.random.key, or one for each image"
    assert message in refusal(lambda: explain(convnet(), IMAGES, TARGETS))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (7, "key: got 7, takes a jax.random.key, or one for each of the 4 images"),
        (jax.random.split(KEY, 3), "key: got [3] keys, takes a jax.random.key, or one for each"),
        (np.zeros(2, np.float32), "key: got float32[2], takes a jax.random.key"),
    ],
)
def test_refuses_keys(convnet, key, message):
    assert message in refusal(lambda: explainers.random_map(convnet(), IMAGES, TARGETS, key=key))


OPTION_REFUSALS = {
    "batch_size 0": ("sensitivity", {"batch_size": 0}, "batch_size: got 0, takes a whole number"),
    "batch_size 2.5": ("sensitivity", {"batch_size": 2.5}, "batch_size: got 2.5, takes a whole"),
    "channels": (
        "sensitivity",
        {"channels": "mean"},
        "channels: got 'mean', takes 'abs_sum' or 'sum' or 'max_abs' or None",
    ),
    "unhashable": (
        "sensitivity",
        {"channels": {"a": 1}},
        "channels: got {'a': 1}, takes 'abs_sum' or 'sum' or 'max_abs' or None",
    ),
    "method": ("integrated_gradients", {"method": "simpson"}, "method: got 'simpson', takes 'rie"),
    "steps": ("integrated_gradients", {"steps": 0}, "steps: got 0, takes a whole number above 0"),
    "steps of the trapezoid": (
        "integrated_gradients",
        {"steps": 1, "method": "trapezoid"},
        "steps: got 1, takes a whole number from 2",
    ),
    "references": (
        "integrated_gradients",
        {"references": ("black", "grey")},
        "references: got 'grey', takes 'black' or 'white'",
    ),
    "no references": ("integrated_gradients", {"references": ()}, "references: got none, takes"),
    "reference of another size": (
        "integrated_gradients",
        {"references": np.zeros((7, 9, 3), np.float32)},
        "references: got float32[7, 9, 3], takes black, white, a number, one a channel or an array",
    ),
    "samples": ("smoothgrad", {"samples": 0}, "samples: got 0, takes a whole number above 0"),
    "half a sample": ("smoothgrad", {"samples": 1.5}, "samples: got 1.5, takes a whole number"),
    "noise": ("smoothgrad", {"noise": -0.1}, "noise: got -0.1, takes a standard deviation"),
    "masks": ("rise", {"masks": 0}, "masks: got 0, takes a whole number above 0"),
    "grid": ("rise", {"grid": 9}, "grid: got 9, takes at most 8 cells"),
    "keep": ("rise", {"keep": 0.0}, "keep: got 0.0, takes a probability in (0, 1]"),
    "normalization": ("rise", {"normalization": "sum"}, "normalization: got 'sum', takes 'expe"),
    "settled": ("rise", {"settled": 0.0}, "settled: got 0.0, takes a number above 0"),
    "baseline word": ("rise", {"baseline": "black"}, "baseline: got 'black', takes 'blur'"),
    "baseline shape": (
        "occlusion",
        {"baseline": np.zeros((7, 9, 3))},
        "baseline: got float64[7, 9, 3], takes a finite number, one a channel, an image or",
    ),
    "baselines of another batch, as large as a chunk": (
        "occlusion",
        {"baseline": np.zeros((3, *SHAPE)), "batch_size": 3},
        "baseline: got float64[3, 8, 9, 3], takes",
    ),
    "window": ("occlusion", {"window": 9}, "window: got (9, 9), takes at most the image's 8 x 9"),
    "no window": ("occlusion", {"window": 0}, "window: got 0, takes one or two whole numbers"),
    "stride": (
        "occlusion",
        {"window": 2, "stride": 3},
        "stride: got (3, 3), takes at most the window",
    ),
    "MP's steps": ("meaningful_perturbation", {"steps": 0}, "steps: got 0, takes a whole number"),
    "learning_rate": (
        "meaningful_perturbation",
        {"learning_rate": 0.0},
        "learning_rate: got 0.0, takes a number above 0",
    ),
    "tv_power": (
        "meaningful_perturbation",
        {"tv_power": 0.5},
        "tv_power: got 0.5, takes a number of at least 1",
    ),
    "mask_size": ("meaningful_perturbation", {"mask_size": 0}, "mask_size: got 0, takes a whole"),
    "reduction": (
        "meaningful_perturbation",
        {"reduction": "max"},
        "reduction: got 'max', takes 'mean' or 'sum'",
    ),
}


@pytest.mark.parametrize("name", OPTION_REFUSALS)
def test_refuses_options(convnet, untyped, name):
    explainer, options, message = OPTION_REFUSALS[name]
    explain = getattr(explainers, explainer)
    assert message in refusal(lambda: explain(convnet(), IMAGES, TARGETS, key=KEY, **options))


def test_refuses_models(untyped):
    message = refusal(lambda: explainers.sensitivity("resnet", IMAGES, TARGETS))
    assert message == "model: got 'resnet', takes a callable: images -> scores"
    message = refusal(lambda: explainers.sensitivity(lambda x: x.sum(), IMAGES, TARGETS))
    assert message.startswith(
        "model: got one that returns float32[], takes a callable that returns scores"
    )
    message = refusal(lambda: explainers.sensitivity(lambda x: x, IMAGES, TARGETS))
    assert "model: got one that returns float32[4, 8, 9, 3], takes" in message


def test_refuses_maps_of_another_size(convnet):
    message = refusal(lambda: deletion_curve(convnet(), IMAGES, TARGETS, np.zeros((4, 8, 8))))
    assert message == (
        "maps: got float64[4, 8, 8], takes an array[batch, height, width] of shape [4, 8, 9] "
        "of real numbers"
    )


def test_a_calibrator_for_other_classes_is_refused_in_its_own_words(convnet):
    weight, bias = jnp.eye(5), jnp.zeros(5)
    score = jc2i.probabilities(convnet(), jc2i.calibrators.Dirichlet(weight, bias))
    message = refusal(lambda: explainers.sensitivity(score, IMAGES, TARGETS))
    assert "4" in message and "5" in message and not message.startswith("images")


def test_keys_of_images():
    keys = query.image_keys(KEY, 3)
    expected = [jax.random.fold_in(KEY, i) for i in range(3)]
    assert [jax.random.key_data(k).tolist() for k in keys] == [
        jax.random.key_data(k).tolist() for k in expected
    ]
    # Raw keys of the older kind are the same keys.
    raw = query.image_keys(jax.random.key_data(KEY), 3)
    np.testing.assert_array_equal(jax.random.key_data(raw), jax.random.key_data(keys))
    given = query.image_keys(jax.random.key_data(keys), 3)
    np.testing.assert_array_equal(jax.random.key_data(given), jax.random.key_data(keys))


def test_signature_and_documentation_stay():
    parameters = inspect.signature(explainers.rise).parameters
    assert list(parameters)[:4] == ["model", "images", "targets", "key"]
    assert parameters["masks"].default == 4000
    assert "Petsiuk" in explainers.rise.__doc__


def test_temperatures_and_weights_share_one_compilation(convnet):
    def compilations():
        return query._compiled._cache_size()

    def explain(model, temperature, images=IMAGES, **options):
        score = jc2i.probabilities(model, Temperature(jnp.float32(temperature)))
        return explainers.integrated_gradients(score, images, TARGETS, steps=2, **options)

    # A number of classes of its own, so that no other test has compiled it.
    models = [convnet(classes=7, seed=seed) for seed in (0, 1)]
    before = compilations()
    maps = [explain(model, t) for model in models for t in (0.5, 1.0, 1.5, 2.0, 4.0)]
    assert compilations() == before + 1
    assert len({np.asarray(m).tobytes() for m in maps}) == 10
    explain(models[0], 3.0, IMAGES * 0.5)
    assert compilations() == before + 1
    explain(models[0], 3.0, method="riemann_left")
    assert compilations() == before + 2


def test_a_first_call_compiles_one_program(convnet):
    events = []

    def listen(event, duration_secs, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    # A number of classes of its own, so that no other test has compiled it.
    score, targets = jc2i.probabilities(convnet(classes=9)), jnp.asarray(TARGETS)
    keys = jax.block_until_ready(jax.random.split(jax.random.key(0), len(IMAGES)))
    jax.block_until_ready((score, IMAGES))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        explainers.rise(score, IMAGES, targets, key=keys, masks=4, baseline=0.25, keep=0.3)
        assert len(events) == 1
        explainers.rise(score, IMAGES, targets, key=keys, masks=4, baseline=0.5, keep=0.4)
        assert len(events) == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_plain_functions_are_static():
    def model(images):
        return images.mean((1, 2))

    before = query._compiled._cache_size()
    for _ in range(3):
        explainers.sensitivity(model, IMAGES, TARGETS % 3)
    assert query._compiled._cache_size() == before + 1
    explainers.sensitivity(lambda images: 2 * images.mean((1, 2)), IMAGES, TARGETS % 3)
    assert query._compiled._cache_size() == before + 2


def test_a_models_shape_is_found_once_for_each_structure(convnet):
    calls = []

    def model(images):
        calls.append(images.shape)
        return images.mean((1, 2))

    for _ in range(3):
        explainers.sensitivity(model, IMAGES, TARGETS % 3)
    assert len(calls) <= 3  # the shape, the trace of the jaxpr; never once a call


def test_entries_for_each_image_travel_with_their_chunk(convnet):
    """A baseline for each image, and an image-shaped one as long as the batch."""
    network = convnet()
    images = np.random.default_rng(1).uniform(size=(8, *SHAPE)).astype(np.float32)
    targets = np.arange(8) % 4
    for baseline in (images[::-1].copy(), images[0]):  # image[0] has 8 rows: as long as the batch
        explain = functools.partial(
            explainers.occlusion, network, images, targets, window=4, stride=4, baseline=baseline
        )
        np.testing.assert_allclose(explain(batch_size=3), explain(), rtol=1e-4, atol=1e-6)


def test_a_users_precision_stands(convnet):
    def program():
        model = convnet()
        explain = functools.partial(explainers.sensitivity, model, targets=TARGETS)
        return str(jax.make_jaxpr(lambda images: explain(images=images))(IMAGES))

    assert "HIGHEST" in program()
    with jax.default_matmul_precision("tensorfloat32"):
        assert "HIGHEST" not in program()


def test_a_model_without_a_gradient_is_refused():
    def counted(images):
        return jax.lax.while_loop(
            lambda pair: pair[0] < 3,
            lambda pair: (pair[0] + 1, pair[1] / 2),
            (0, images.mean((1, 2))),
        )[1]

    images, targets = np.ones((2, 4, 4, 3), np.float32), np.zeros(2, int)
    with pytest.raises(ValueError, match="^model: got one of which sensitivity makes no program"):
        explainers.sensitivity(counted, images, targets)


class _HoldsItself:
    def __init__(self):
        self.own = self.run

    def run(self, images):
        return images.mean((1, 2))

    __call__ = run


def test_a_model_that_holds_itself_is_refused():
    images, targets = np.ones((2, 4, 4, 3), np.float32), np.zeros(2, int)
    with pytest.raises(ValueError, match="^model: got an object of _HoldsItself that JAX cannot"):
        explainers.sensitivity(_HoldsItself(), images, targets)


def test_a_method_of_another_name_is_no_metadata():
    class Named:
        method = "mine"

        def __call__(self, model, images, targets, *, key=None):
            return images.sum(-1)

    assert query.known_method(Named()) is None

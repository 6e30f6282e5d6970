"""What holds for every explainer and metric that queries a model, by being registered.

An image's result depends on the model, the image, its target, its key and the options alone:
never on its batch, the chunks, the devices, the types, or what was compiled before.
"""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i import checks, options, parallel, query
from jc2i.calibrators import Temperature

from .conftest import BATCH, COUNT, METHODS, WITHOUT_SCORES, by_image, distance

_WHOLE = {}


@pytest.fixture
def whole(case):
    """The results of the whole batch at once, computed once a method."""
    name = case.method.name
    if name not in _WHOLE:
        _WHOLE[name] = np.asarray(case())
        assert np.isfinite(_WHOLE[name]).all() and len(_WHOLE[name]) == BATCH
        spread = np.std(_WHOLE[name].reshape(BATCH, -1), axis=1)
        # A rectified map may be empty; one value an image has no spread.
        assert (spread > 0).sum() >= 2 or _WHOLE[name].ndim == 1
    return _WHOLE[name]


def assert_equal(case, values, expected):
    if case.optimised:
        # Where a gradient is nothing but rounding, its sign moves a mask by a whole step.
        difference = np.abs(np.asarray(values) - expected)
        assert difference.mean() < 0.01 and difference.max() < 0.15
    else:
        np.testing.assert_allclose(values, expected, rtol=2e-3, atol=2e-6)


def test_alone_equals_in_the_batch(case, whole):
    for i in (0, 5):
        assert_equal(case, case(slice(i, i + 1))[0], whole[i])


@pytest.mark.parametrize("size", [3, 20])
def test_chunks_change_nothing(case, whole, size):
    """Fewer in flight than images, and several variants of each image."""
    assert_equal(case, case(batch_size=size), whole)


def on_devices(case, count):
    """The results by a mesh of so many devices, two images on each at a time."""
    mesh = parallel.mesh(jax.devices()[:count])
    rows = [slice(start, start + 2 * count) for start in range(0, BATCH, 2 * count)]
    parts = []
    for part in rows:
        inputs = {name: value[part] for name, value in case.by_image.items()}
        inputs["key"] = case.key[part]
        sharded = parallel.shard(inputs, mesh)
        score, key = parallel.replicate(case.score, mesh), sharded.pop("key")
        keys = {"key": key} if case.method.stochastic else {}
        parts.append(case(score=score, **sharded, **keys))
        assert len(parts[-1].sharding.device_set) == count
    return np.concatenate([np.asarray(part) for part in parts])


def test_devices_change_no_bit(case):
    """Each device runs the program of its own images, however many there are."""
    np.testing.assert_array_equal(on_devices(case, 2), on_devices(case, 4))


# XLA's program for one partition rounds these otherwise, by one or two units in the last place.
ROUNDED = ("kernel_shap", "opti_cam", "tibav")


@pytest.mark.slow
def test_one_device_is_as_several(case):
    one, several = on_devices(case, 1), on_devices(case, 4)
    if case.method.name in ROUNDED:
        np.testing.assert_allclose(one, several, rtol=1e-6, atol=1e-6 * np.abs(several).max())
    else:
        np.testing.assert_array_equal(one, several)


@pytest.mark.slow
def test_two_processes_change_no_bit(case_of, of_two, tmp_path):
    """One image on each device at a time, of two processes with one device each."""
    out = tmp_path / "found.npz"
    program = ("-m", "tests.contract.process", out, 1)
    assert [code for code, _ in of_two(*program, seconds=1500)] == [0, 0]
    mesh = parallel.mesh(jax.devices()[:2])
    with np.load(out) as together:
        assert set(together.files) == set(METHODS)
        differ = [
            name
            for name, values in together.items()
            if not np.array_equal(values, by_image(case_of(name), mesh))
        ]
    assert differ == []


def test_inside_jit_and_vmap_over_calibrators(case, whole):
    @jax.jit
    def both(calibrators):
        def one(calibrator):
            return case(score=jc2i.probabilities(case.score.logits.model, calibrator))

        return jax.vmap(one)(calibrators)

    stacked = both(Temperature(jnp.float32([0.7, 2.0])))
    assert_equal(case, stacked[0], whole)
    queries = max(case.method.cost(case.by_image["images"].shape, **case.options)) > 0
    if case.method.name in WITHOUT_SCORES:
        np.testing.assert_array_equal(stacked[1], stacked[0])
    elif queries and len(np.unique(whole)) > 2:  # a verdict on an image may be the same for both
        assert not np.allclose(stacked[1], whole, rtol=1e-3, atol=2e-6)


def test_equal_calls_compile_once(case, whole):
    """Defaults given or left out, numbers of any type, more in flight than there are."""
    case()  # what `whole` compiled may have been dropped since
    before = query._compiled._cache_size()
    case()
    spelled = {
        name: default
        for name, default in case.method.parameters.items()
        if name not in (*case.by_image, "key", "explainer", *case.options)
    }
    case(**spelled)
    for name, kind in case.method.kinds.items():
        if isinstance(kind, options.Number):
            default = case.method.parameters[name]
            case(**{name: np.float32(default)})
            case(**{name: jnp.float32(default)})
        elif isinstance(kind, options.Whole) and name in case.options:
            case(**{name: np.int64(case.options[name])})
    assert query._compiled._cache_size() == before


def test_nothing_is_computed_before_the_program(case, monkeypatch):
    """Each operation on a device is a program to compile: options stay on the host until then."""
    handed = []
    monkeypatch.setattr(query, "_compiled", lambda *arguments: handed.append(arguments))
    on_a_device = {name: jnp.asarray(value) for name, value in case.by_image.items()}
    jax.make_jaxpr(lambda: case(**on_a_device))()  # in a trace, what is computed is traced
    (arguments,) = handed
    assert checks.is_concrete(*jax.tree.leaves(arguments[3:]))


def test_a_sweep_of_a_number_compiles_once(case, whole):
    case()  # what `whole` compiled may have been dropped since
    before = query._compiled._cache_size()
    for name, kind in case.method.kinds.items():
        if isinstance(kind, options.Number):
            default = case.method.parameters[name] or 0.5
            for factor in (0.5, 0.75, 0.875):
                value = default * factor
                case(**{name: max(value, kind.least)})
    assert query._compiled._cache_size() == before


def test_double_precision(case, whole):
    with jax.enable_x64(True):
        images = case.by_image["images"].astype(np.float64)
        values = case(images=images)
        assert values.dtype == jnp.float64
        if not case.method.stochastic:  # other random bits
            assert_equal(case, values, whole)


def test_products_are_in_float32_on_every_device(case):
    """GPUs and TPUs round the factors of a product that asks for nothing."""

    def program():
        return str(jax.make_jaxpr(lambda images: case(images=images))(case.by_image["images"]))

    assert "precision=None" not in program()


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_half_precision_images_are_those_of_their_rounded_values(case, dtype):
    rounded = jnp.asarray(case.by_image["images"], dtype)
    values, expected = case(images=rounded), case(images=np.asarray(rounded, np.float32))
    assert values.dtype == jnp.float32
    assert distance(values, expected) < 0.02


def test_strict_promotion_without_nans(case):
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.debug_nans(True),
    ):
        assert np.isfinite(case(slice(0, 2))).all()


@pytest.mark.slow
def test_nothing_traced_leaks(case):
    with jax.checking_leaks():
        assert np.isfinite(case(slice(0, 2))).all()


def test_memory_does_not_grow_with_what_is_counted(case):
    """Masks, steps, samples: a constant or a counter may differ by a few bytes."""
    images, by_image = case.by_image["images"], dict(case.by_image)

    def temporary(option, count):
        def compute(score, images, key):
            keys = {"key": key} if case.method.stochastic else {}
            return case(score=score, images=images, batch_size=BATCH, **keys, **{option: count})

        lowered = jax.jit(compute).lower(case.score, images, case.key)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    results = case.method.role == "metric"  # whose results themselves grow
    for option in case.counts():
        if case.method.kinds[option].bounded:
            little, much = (temporary(option, count) for count in (8, 40))
            room = by_image["images"].shape[0] * 40 * 40 if results else 0
            assert 0 < much < 1.02 * little + 512 + room, option


# Refusals that are born in the decorator. Each names the argument, whatever was compiled before.

LONG = [0.5] * 5000
WRONG = {
    options.Whole: ["many", None, 2.5, 2.0, True, np.float32(2), LONG, 0, -1, object(), 1j],
    options.Number: ["some", None, True, LONG, float("nan"), float("inf"), 1j, 1e300, object()],
    options.Numbers: ["some", None, True, [], [0.5, "a"], float("nan"), [1e300], 1j, object()],
    options.Floats: ["some", [0.5, "a"], [[1.0], [2.0, 3.0]], float("nan"), 1j, [], object()],
    options.OneOf: ["other", 2.5, LONG, object(), True],
    options.Flag: ["false", None, 1, 0.0, LONG, object()],
    options.Text: [2.5, 7, LONG, object()],
    options.Fill: ["black", None, LONG, float("nan"), np.array(["a"]), object(), 1j, True],
    options.Maps: ["map", None, 2.5, LONG, object()],
    options.PerImage: ["map", None, 2.5, LONG, object()],
    options.TieKey: ["key", 7, LONG, object()],
    options.Sides: ["wide", None, 2.5, 0, (1, 2, 3), (2, 2.5), LONG, True, object()],
}


def refusal(call, argument):
    with pytest.raises(ValueError) as refused:
        call()
    message = str(refused.value)
    assert message.startswith(f"{argument}: got "), message
    assert len(message) < 400
    return message


def wrong_values(kind):
    if isinstance(kind, options.Maybe):
        return [value for value in wrong_values(kind.kind) if value is not None]
    wrong = WRONG.get(type(kind), [])
    if isinstance(kind, options.Whole):
        return [value for value in wrong if type(value) is not int or value < kind.least]
    return wrong


def test_refuses_options_by_name(case, untyped):
    for name, kind in case.method.kinds.items():
        for value in wrong_values(kind):
            if not (value is None and case.method.parameters.get(name, 0) is None):
                refusal(lambda name=name, value=value: case(**{name: value}), name)
    # A whole number that has a point is refused however often the number without one ran.
    for name, count in case.options.items():
        if isinstance(case.method.kinds[name], options.Whole):
            assert refusal(lambda n=name, c=count: case(**{n: float(c)}), name)


IMAGES = {
    "none": None,
    "rank": np.zeros((8, 9, 3), np.float32),
    "bytes": np.zeros((BATCH, 8, 9, 3), np.uint8),
    "words": np.full((BATCH, 8, 9, 3), "a"),
    "objects": np.full((BATCH, 8, 9, 3), None),
    "complex": np.zeros((BATCH, 8, 9, 3), np.complex64),
    "empty": np.zeros((0, 8, 9, 3), np.float32),
    "not finite": np.full((BATCH, 8, 9, 3), np.nan, np.float32),
    "a list": LONG,
}


def test_refuses_images_targets_and_keys_by_name(case, untyped):
    for images in IMAGES.values():
        refusal(lambda images=images: case(images="none" if images is None else images), "images")
    for targets in (
        None,
        2,
        "cat",
        np.zeros(BATCH),
        [0, 1],
        np.full(BATCH, 4),
        np.zeros((8, 1), int),
        LONG,
    ):
        refusal(lambda targets=targets: case(targets=targets), "targets")
    for key in (7, "key", np.zeros(3), LONG):
        refusal(lambda key=key: case(key=key), "key")
    if case.method.stochastic:
        refusal(lambda: case(key=None), "key")
    for size in (0, -3, 2.0, 2.5, "all", True, LONG):
        refusal(lambda size=size: case(batch_size=size), "batch_size")
    for model in (
        None,
        "resnet",
        7,
        lambda images: images.sum((1, 2, 3))[:, None],
        lambda images: images,
    ):
        refusal(lambda model=model: case(score=model or 0), "model")


def test_takes_other_byte_orders(case, whole):
    swapped = case.by_image["images"].astype(">f4")
    assert_equal(case, case(images=swapped), whole)


def test_is_documented_and_says_its_cost(case):
    function, method = case.function, case.method
    documentation = inspect.getdoc(function)
    assert documentation and "Cost: " in documentation
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in documentation
    signature = inspect.signature(function)
    for name in signature.parameters:
        assert f"{name}:" in documentation, name
    assert all(
        cost >= 0 for cost in method.cost((2, 32, 32, 3), **dict.fromkeys(case.counts(), COUNT))
    )


def test_the_registry_is_the_namespace():
    assert {"rise", "grad_cam", "score_cam", "deletion_curve", "lipschitz"} <= set(METHODS)
    assert all(function.method.name == name for name, function in METHODS.items())

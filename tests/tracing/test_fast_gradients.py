from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from jc2i import explainers
from jc2i.tracing import fast_gradients, prepared

LAYOUT = ("NHWC", "HWIO", "NHWC")


def random(shape, seed=0):
    return jnp.float32(np.random.default_rng(seed).standard_normal(shape))


def convolution(kernel, padding="SAME", strides=(1, 1), layout=LAYOUT, **options):
    def model(images):
        values = jax.lax.conv_general_dilated(
            images, kernel, strides, padding, dimension_numbers=layout, **options
        )
        return jnp.sin(values)

    return model


def loss(model):
    return lambda images: (model(images) ** 2).sum()


def equal_gradients(model, images, rtol=1e-4):
    value, gradient = jax.jit(jax.value_and_grad(loss(model)))(images)
    fast_value, fast_gradient = jax.jit(jax.value_and_grad(loss(prepared(model))))(images)
    np.testing.assert_allclose(fast_value, value, rtol=1e-6)
    np.testing.assert_allclose(fast_gradient, gradient, rtol=rtol, atol=1e-4)


def kernel_layouts(function, images):
    """The layout of every convolution that is left in a compiled loop around the function.

    Outside a loop XLA:CPU transposes such kernels as it likes; inside, a convolution whose
    kernel's layout is not the forward one runs ten times slower.
    """
    loop = jax.jit(lambda images: jax.lax.map(function, images))
    text = loop.lower(jnp.stack([images, images])).compile().as_text()
    return {part.split(",")[0].split()[0] for part in text.split("dim_labels=")[1:]}


CANONICAL = {"b01f_01io->b01f"}


CASES = {
    "3x3": ((3, 3), "SAME", (1, 1), (1, 1)),
    "1x1, stride 2": ((1, 1), "VALID", (2, 2), (1, 1)),
    "3x3, stride 2": ((3, 3), ((1, 1), (1, 1)), (2, 2), (1, 1)),
    "2x3, strides 1 and 2": ((2, 3), "SAME", (1, 2), (1, 1)),
    "8x8, stride 8, as patches": ((8, 8), "VALID", (8, 8), (1, 1)),
    "5x4, stride 3, last pixels unread": ((5, 4), "VALID", (3, 3), (1, 1)),
    "3x3 of dilation 2": ((3, 3), "SAME", (1, 1), (2, 2)),
    "3x2 of dilations 1 and 2, stride 2": ((3, 2), ((0, 2), (3, 1)), (2, 2), (1, 2)),
    "padding wider than the kernel": ((2, 2), ((4, 3), (3, 5)), (1, 1), (1, 1)),
    "negative padding": ((3, 3), ((-1, 0), (0, -2)), (1, 1), (1, 1)),
    "kernel as large as the image": ((9, 8), "VALID", (1, 1), (1, 1)),
}


@pytest.mark.parametrize("case", CASES)
def test_convolutions_have_jaxs_values_and_gradients(case):
    size, padding, strides, dilation = CASES[case]
    model = convolution(random((*size, 2, 3)), padding, strides, rhs_dilation=dilation)
    equal_gradients(model, random((2, 9, 8, 2), 1))


def equal_kernel_gradients(kernel, images, **options):
    """In training, where the images go through the product a few at a time, or all at once."""
    gradients = []
    for prepare in (lambda model: model, lambda model: prepared(model, training=True)):

        def value(kernel, images, prepare=prepare):
            return loss(prepare(convolution(kernel, **options)))(images)

        gradients.append(jax.jit(jax.grad(value))(kernel, images))
    assert gradients[1].dtype == kernel.dtype
    scale = np.abs(np.float32(gradients[0])).max()
    rtol = 1e-5 if kernel.dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(*np.float32(gradients), atol=rtol * scale)


@pytest.mark.parametrize("case", CASES)
def test_convolutions_have_jaxs_gradients_by_the_kernel(case, monkeypatch):
    size, padding, strides, dilation = CASES[case]
    options = {"padding": padding, "strides": strides, "rhs_dilation": dilation}
    monkeypatch.setattr(fast_gradients, "CACHED", 9 * 8 * 3 * 4 * 2)  # two images or more
    equal_kernel_gradients(random((*size, 2, 3)), random((5, 9, 8, 2), 1), **options)


@pytest.mark.parametrize("batch", [1, 2, 7, 12])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_by_the_kernel_at_any_batch_and_type(batch, dtype, monkeypatch):
    kernel, images = random((3, 3, 2, 3)).astype(dtype), random((batch, 9, 8, 2), 1).astype(dtype)
    for several in (1, 3, 100):
        monkeypatch.setattr(fast_gradients, "CACHED", several * 9 * 8 * 3 * kernel.itemsize)
        equal_kernel_gradients(kernel, images)


def test_only_training_waits_for_the_gradient_by_the_kernel():
    kernel, images = random((3, 3, 2, 3)), random((64, 40, 40, 2), 1)
    for training, scans in ((True, 1), (False, 0)):

        def value(kernel, training=training):
            return loss(prepared(convolution(kernel), training=training))(images)

        assert str(jax.make_jaxpr(jax.grad(value))(kernel)).count("scan[") == scans
    # Of a kernel of many entries, each would be an operation.
    assert "scan[" not in str(
        jax.make_jaxpr(jax.grad(lambda k: loss(prepared(convolution(k), training=True))(images)))(
            random((8, 8, 2, 3))
        )
    )


@pytest.mark.parametrize(
    ("layout", "kernel", "images"),
    [
        (("NCHW", "OIHW", "NCHW"), (3, 2, 3, 3), (2, 2, 7, 8)),
        (("NWC", "WIO", "NWC"), (3, 2, 4), (2, 9, 2)),
        (("NDHWC", "DHWIO", "NDHWC"), (2, 3, 2, 2, 3), (1, 4, 5, 6, 2)),
        # The output is laid out differently from the input: left to JAX.
        (("NHWC", "HWIO", "NCHW"), (3, 3, 2, 3), (2, 7, 8, 2)),
    ],
)
def test_every_layout(layout, kernel, images):
    strides = (2,) * (len(kernel) - 2)
    equal_gradients(convolution(random(kernel), "SAME", strides, layout), random(images, 1))
    equal_kernel_gradients(random(kernel), random(images, 1), strides=strides, layout=layout)


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({"feature_group_count": 2}, 4),
        # As many groups as outputs, but of two inputs each.
        ({"feature_group_count": 4}, 8),
        ({"lhs_dilation": (2, 2)}, 4),
        ({"batch_group_count": 2}, 4),
    ],
)
def test_grouped_and_transposed_convolutions_are_left_as_they_are(options, channels):
    inputs = channels // options.get("feature_group_count", 1)
    model = convolution(random((3, 3, inputs, 4)), ((1, 1), (1, 1)), **options)
    images = random((2, 7, 8, channels), 1)
    equal_gradients(model, images)
    same = [
        [equation.primitive.name for equation in jax.make_jaxpr(f)(images).eqns]
        for f in (model, prepared(model))
    ]
    assert same[0] == same[1]
    assert "custom_vjp_call" not in same[1]


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
def test_depthwise_convolutions_are_written_out(strides):
    model = convolution(random((3, 3, 1, 4)), ((1, 1), (0, 2)), strides, feature_group_count=4)
    images = random((2, 7, 8, 4), 1)
    equal_gradients(model, images)
    assert kernel_layouts(jax.grad(loss(prepared(model))), images) == set()


def test_gradients_by_the_kernel_are_jaxs(convnet):
    network, images = convnet(), random((2, 8, 9, 3), 1)
    expected = jax.grad(lambda network: loss(network)(images))(network)
    fast = jax.grad(lambda network: loss(prepared(network))(images))(network)
    for name, value in expected.weights.items():
        np.testing.assert_allclose(fast.weights[name], value, rtol=1e-4, atol=1e-4)


def test_inside_a_loop_under_vmap_and_jit(convnet):
    network, images = convnet(), random((2, 3, 8, 9, 3), 1)

    def descend(model):
        def step(image, _):
            return image - 0.1 * jax.grad(loss(model))(image), None

        return jax.jit(jax.vmap(lambda image: jax.lax.scan(step, image, None, length=3)[0]))

    plain, fast = descend(network)(images), descend(prepared(network))(images)
    np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-5)


def test_under_vmap_over_kernels():
    kernels, images = random((3, 3, 3, 2, 4)), random((2, 7, 8, 2), 1)
    plain = jax.vmap(lambda kernel: jax.grad(loss(convolution(kernel)))(images))
    fast = jax.vmap(lambda kernel: jax.grad(loss(prepared(convolution(kernel))))(images))
    np.testing.assert_allclose(fast(kernels), plain(kernels), rtol=1e-4, atol=1e-4)


MODELS = {
    "nested jit": lambda conv: jax.jit(lambda x: jax.jit(conv)(x) + 1),
    "checkpoint": lambda conv: jax.checkpoint(conv, prevent_cse=False),
    "checkpoint with a policy": lambda conv: jax.checkpoint(
        lambda x: jnp.cos(conv(x)), policy=jax.checkpoint_policies.dots_saveable
    ),
    "custom derivatives": lambda conv: lambda x: jax.nn.gelu(jax.nn.relu(conv(x))),
    "constants": lambda conv: lambda x: conv(x * np.linspace(0, 1, 8, dtype=np.float32)[:, None]),
    "scan around it": lambda conv: (
        lambda x: jax.lax.scan(lambda x, _: (conv(x)[..., :2], None), x, None, length=2)[0]
    ),
    "cond": lambda conv: lambda x: jax.lax.cond(x.sum() > 0, conv, lambda x: conv(-x), x),
    "a named value": lambda conv: lambda x: checkpoint_name(conv(x), "a"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_every_make(name):
    model = MODELS[name](convolution(random((3, 3, 2, 4))))
    equal_gradients(model, random((2, 7, 8, 2), 1))


@pytest.mark.parametrize("name", ["nested jit", "checkpoint"])
def test_convolutions_inside_calls_are_reached(name):
    model, images = MODELS[name](convolution(random((3, 3, 2, 4)))), jnp.ones((2, 7, 8, 2))
    assert kernel_layouts(jax.grad(loss(prepared(model))), images) == CANONICAL
    assert kernel_layouts(jax.grad(loss(model)), images) != CANONICAL


@pytest.mark.parametrize(
    ("explain", "options"),
    [
        (explainers.gradient_x_input, {}),
        (explainers.integrated_gradients, {"steps": 4}),
        (explainers.smoothgrad, {"samples": 4, "key": jax.random.key(0)}),
        (explainers.meaningful_perturbation, {"steps": 4, "mask_size": 4}),
    ],
)
def test_every_gradient_explainer_has_canonical_convolutions_only(convnet, explain, options):
    """What makes a step in a loop ten times faster on CPU, seen without a clock."""
    targets = jnp.array([0, 1])

    def maps(images):
        return explain(convnet(), images, targets, **options)

    assert kernel_layouts(maps, jnp.ones((2, 8, 8, 3))) == CANONICAL

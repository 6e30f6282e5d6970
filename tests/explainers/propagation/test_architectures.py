"""The architectures of `jc2i.models` are made of operations that the tables have rules for."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from jc2i import explainers
from jc2i.models import registry

METHODS = {
    "lrp": functools.partial(explainers.lrp, composite="epsilon_gamma_box"),
    "deeplift": functools.partial(explainers.deeplift, rule="reveal_cancel"),
    "guided_backprop": explainers.guided_backprop,
}


@pytest.mark.slow  # up to 15 seconds each; the other architectures are of these families
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "name", ["resnet50", "vgg16_bn", "efficientnet_b0", "vit_b16", "small", "lipschitz"]
)
def test_traced(name, method):
    model = registry.blank(name, classes=5)
    size = (model.size or 32,) * 2
    images = jax.ShapeDtypeStruct((1, *size, model.channels), jnp.float32)
    targets = jax.ShapeDtypeStruct((1,), jnp.int32)
    maps = jax.eval_shape(lambda x, t: METHODS[method](model, x, t), images, targets)
    assert maps.shape == (1, *size)

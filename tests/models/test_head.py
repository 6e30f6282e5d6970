from __future__ import annotations

import jax
import numpy as np
import pytest

from jc2i import models
from jc2i.models.classifier import weights

SMALL = {"size": 8, "widths": (4,), "hidden": 5}


@pytest.mark.parametrize(
    ("name", "options", "layer"),
    [
        ("resnet20_cifar", {}, "fc"),
        ("vgg11_bn_cifar", {"classes": 512}, "classifier.2"),  # as wide as the layers before it
        ("small", SMALL, "head"),
    ],
)
def test_head_is_what_the_number_of_classes_decides(name, options, layer):
    model = models.create(name, **{"classes": 10, "key": jax.random.key(0), **options})
    assert models.head_names(model) == {f"{layer}.kernel", f"{layer}.bias"}


@pytest.mark.parametrize("classes", [3, 10])
def test_new_head_on_the_same_body(classes):
    model = models.create("small", classes=10, key=jax.random.key(0), mean=(0.3,), **SMALL)
    before = {name: np.asarray(value) for name, value in weights(model).items()}
    new = models.with_new_head(model, classes=classes, key=jax.random.key(1))
    assert new(np.zeros((2, 8, 8, 1), np.float32)).shape == (2, classes)
    assert new.options == model.options | {"classes": classes}
    for name, value in weights(new).items():
        if name.startswith("head"):
            assert value.shape == (*before[name].shape[:-1], classes)
        else:
            np.testing.assert_array_equal(value, before[name])
        np.testing.assert_array_equal(weights(model)[name], before[name])  # the one given
    kernel, bias = (np.asarray(weights(new)[f"head.{part}"]) for part in ("kernel", "bias"))
    assert not np.array_equal(kernel, before["head.kernel"])
    assert kernel.std() > 0 and not bias.any()


def test_refusals():
    model = models.create("small", classes=10, key=jax.random.key(0), **SMALL)
    with pytest.raises(ValueError, match="classes: got 0, takes a whole number above 0"):
        models.with_new_head(model, classes=0, key=jax.random.key(0))

"""The last layer of a classifier, found and replaced: for training on other classes."""

from __future__ import annotations

import jax

from jc2i.models.classifier import Classifier, require_classifier, weights, with_weights
from jc2i.models.registry import blank, create


def head_names(model: Classifier) -> frozenset[str]:
    """The names of the last layer's weights: those whose shape the number of classes decides.

    Args:
      model: any classifier of this package.

    Returns:
      Names as saved models have them, such as `"fc.kernel"` and `"fc.bias"`.
    """
    require_classifier(model)
    shapes, others = (
        jax.eval_shape(
            lambda classes=classes: weights(
                blank(model.architecture, **model.options | {"classes": classes})
            )
        )
        for classes in (model.classes, model.classes + 1)
    )
    return frozenset(name for name in shapes if shapes[name].shape != others[name].shape)


def with_new_head(model: Classifier, *, classes: int, key: jax.Array) -> Classifier:
    """The same model with a new last layer, drawn as `create` draws it.

    Args:
      model: any classifier of this package, which is unchanged.
      classes: the number of classes of the new layer.
      key: a `jax.random.key`.

    Returns:
      A new model in evaluation mode, its other weights equal to the bit.

    Raises:
      ValueError: if `classes` is below 1, or `key` is no key.
    """
    require_classifier(model)
    new = create(model.architecture, key=key, **model.options | {"classes": classes})
    head = head_names(model)
    kept = {name: value for name, value in weights(model).items() if name not in head}
    return with_weights(new, weights(new) | kept)

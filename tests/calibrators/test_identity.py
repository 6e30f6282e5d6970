from __future__ import annotations

import jax
import numpy as np

from jc2i import calibrators


def test_changes_nothing_and_has_no_leaves(hold_out):
    logits = hold_out(0).logits
    identity = calibrators.Identity()
    np.testing.assert_array_equal(identity(logits), logits)
    np.testing.assert_array_equal(jax.jit(lambda c, z: c(z))(identity, logits), logits)
    assert jax.tree.leaves(identity) == []


def test_is_the_temperature_one(hold_out):
    logits = hold_out(0).logits
    np.testing.assert_array_equal(calibrators.Temperature(1.0)(logits), logits)

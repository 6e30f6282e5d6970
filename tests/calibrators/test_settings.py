"""Every function of scores and labels under the settings that users debug with."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import calibrators
from jc2i.metrics import calibration

SETTINGS = {
    "rank_promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype_promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "x64": lambda: jax.enable_x64(True),
    "debug_nans": lambda: jax.debug_nans(True),
}
FITS = [name for name in calibrators.__all__ if name.startswith("fit_")]
METRICS = [name for name in calibration.__all__ if name != "ReliabilityCurve"]


@pytest.mark.parametrize("name", [*FITS, *METRICS])
def test_every_setting_gives_the_same(hold_out, name):
    logits, labels = hold_out(0, 60)
    is_fit = name in FITS

    def result():
        if not is_fit:
            probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
            return getattr(calibration, name)(probabilities, labels)
        return np.asarray(getattr(calibrators, name)(logits, labels)(logits))

    expected = result()
    for setting in SETTINGS.values():
        with contextlib.ExitStack() as stack:
            stack.enter_context(setting())
            got = result()
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), got, expected
        )

"""No calibration, where a calibrator is asked for."""

from __future__ import annotations

import jax
from jaxtyping import Float

from jc2i.calibrators import _classes
from jc2i.checks import Array


@_classes.calibrator
class Identity:
    """The calibrator that changes nothing: z -> z."""

    def __call__(
        self, logits: Float[Array, "*batch classes"]
    ) -> Float[jax.Array, "*batch classes"]:
        """Returns the logits as they are."""
        return _classes.read(logits)

"""No calibration, where a calibrator is asked for."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jc2i.checks import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Identity:
    """The calibrator that changes nothing: z -> z."""

    def __call__(
        self, logits: Float[Array, "*batch classes"]
    ) -> Float[jax.Array, "*batch classes"]:
        """Returns the logits as they are."""
        return jnp.asarray(logits)

"""What a study computes, kept batch by batch on disk and computed once, on every device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jc2i import parallel


@dataclasses.dataclass(frozen=True)
class Store:
    """Finished batches in folders, one for each name.

    A batch is called by all that it depends on (`jc2i.parallel.map_batches`), so the names only
    say to a person what is where: studies share a store, and a study of more images finds those
    of a smaller one.

    Attributes:
      folder: where they are.
      progress: whether to show progress bars.
    """

    folder: Path
    progress: bool = True

    @property
    def mesh(self) -> Mesh | None:
        """All devices, if there are several."""
        return parallel.mesh() if jax.device_count() > 1 else None

    def map(
        self,
        name: str,
        function: Callable[..., Any],
        dataset: Any,
        batch_size: int,
        *,
        model: Any,
        key: jax.Array | None = None,
    ) -> Any:
        """`map_batches` over all devices, its batches kept.

        Args:
          name: a folder's name, and the progress bar's.
          function: `function(model, *batch)`, or `function(model, *batch, keys)` with a key. What
            it depends on besides is bound by `functools.partial`, so that it can be told.
          dataset: as `map_batches` takes it.
          batch_size: items a batch, of one device.
          model: a pytree of arrays.
          key: the data set's key.

        Returns:
          The results for the whole data set as NumPy arrays.
        """
        return parallel.map_batches(
            function,
            dataset,
            batch_size,
            model=model,
            key=key,
            mesh=self.mesh,
            progress=self.progress and name,
            resume=self.folder / name,
        )

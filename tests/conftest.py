"""Settings of every test: eight virtual CPU devices, and shapes checked at run time."""

from __future__ import annotations

import os

# Before JAX is imported: afterwards both are ignored.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
).strip()

from jaxtyping import install_import_hook  # noqa: E402

# Every jaxtyping annotation of the package is enforced by beartype, in tests only.
install_import_hook("jc2i", "beartype.beartype")

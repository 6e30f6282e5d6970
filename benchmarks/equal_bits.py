"""Whether a result is the same to the bit on 1, 2 and 8 devices, and of two processes.

    python benchmarks/equal_bits.py

Every method of the registry, on the contract tests' arguments: eight images, of which each device
computes one at a time. The devices are virtual ones of this CPU; two processes meet on this host
and have one device each. What is compared was compiled as users compile it. Writes
`benchmarks/results/equal-bits-cpu.csv`: for each pair the relative difference, 0 for equal bits.
"""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "benchmarks" / "results" / "equal-bits-cpu.csv"
DEVICES = (1, 2, 8)


def start(out: Path, devices: int, **environment: str) -> subprocess.Popen:
    """Starts a process that computes every method's results."""
    given = {"XLA_FLAGS": "--xla_backend_optimization_level=3", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.contract.process", str(out), str(devices)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | given | environment)


def together(processes: list[subprocess.Popen]) -> None:
    """Waits for all of them."""
    if any([process.wait() for process in processes]):
        sys.exit("a process failed")


def measured(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Each run's results, by its name and the method."""
    for devices in DEVICES:
        together([start(folder / f"{devices}.npz", devices)])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    meet = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    out = folder / "processes.npz"
    together([start(out, 1, **meet, JAX_PROCESS_ID=str(number)) for number in range(2)])
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The relative Euclidean distance of two results, 0 if every bit is equal."""
    if np.array_equal(one, other, equal_nan=True):
        return 0.0
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(f"{np.linalg.norm(one - other) / np.linalg.norm(other):.1e}")


def main() -> None:
    """Computes, compares and writes the table."""
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder))
    rows = []
    for name, expected in found["8"].items():
        others = {"1_device": "1", "2_devices": "2", "2_processes": "processes"}
        compared = {f"{kind}_and_8": found[run][name] for kind, run in others.items()}
        rows.append({"method": name} | {k: difference(v, expected) for k, v in compared.items()})
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    equal = sum(not any(list(row.values())[1:]) for row in rows)
    print(f"{equal} of {len(rows)} methods are equal to the bit: {TABLE}")


if __name__ == "__main__":
    main()

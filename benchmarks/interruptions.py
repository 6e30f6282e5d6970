"""What a run loses when it is killed or interrupted, and the memory of many photographs.

    python benchmarks/interruptions.py memory --photographs 5000
    python benchmarks/interruptions.py killed --kills 10
    python benchmarks/interruptions.py interrupted

`memory`: the resident memory of `jc2i explain` against the number of photographs that it has
explained. `killed`: each kind of run is killed (SIGKILL) at random moments of its work and started
again until it ends; every file must be that of a run that was not killed, but for the date and
command in JSON files. `interrupted`: SIGINT at random moments, some while a program is compiled
and some while one runs; the run must end with 130, whatever it has written must be whole.

Rows go to `benchmarks/results/`. The work is in a temporary folder; photographs are noise.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SIDE = 32
"""Pixels on a side of a photograph."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A command that is killed.

    Attributes:
      command: from the folder of its results.
      done: how far it is, in that folder.
    """

    command: Callable[[Path], list[str]]
    done: Callable[[Path], int]


def runs(work: Path, photographs: int) -> dict[str, Run]:
    """The four kinds of run, each on what `prepare` has made in a folder."""

    def explained(out: Path) -> list[str]:
        options = ["--method", "rise", "--option", "masks=50", "--batch-size", "16"]
        return explain(work, out, f"photographs-{photographs}", *options)

    def evaluated(out: Path) -> list[str]:
        return [
            *("-m", "jc2i", "evaluate", "digits", "--calibration", "half", "--images", "96"),
            *("--methods", "sensitivity", "rise", "--steps", "20", "--batch-size", "8"),
            *("--model", str(work / "digits"), "--out", str(out), "--resume", str(out / "kept")),
            *("--save-calibrator", str(out / "calibrator.npz"), "--no-progress"),
        ]

    def studied(out: Path) -> list[str]:
        return [
            *(str(ROOT / "experiments" / "calibrate_to_interpret.py"), "report", "--no-progress"),
            *("--model", str(work / "digits"), "--name", "study", "--out", str(out)),
            *("--images", "24", "--sweep-images", "8", "--lipschitz-points", "4"),
            *("--neighbours", "4", "--rise-masks", "64", "--mp-steps", "10", "--batch-size", "4"),
            *("--temperatures", "0.5", "--methods", "sensitivity", "rise"),
            *("meaningful_perturbation", "--calibrations", "temperature"),
        ]

    def trained(out: Path) -> list[str]:
        script = str(ROOT / "experiments" / "train.py")
        return [script, f"--out={out / 'model'}", "--epochs=40", "--checkpoint-every=1",
                "--no-progress"]  # fmt: skip

    def epochs(out: Path) -> int:
        names = [path.name for path in (out / "model.checkpoint").glob("[0-9]*")]
        return max(map(int, names), default=0)

    return {
        "explain": Run(explained, lambda out: len(list(out.glob("*.png")))),
        "evaluate": Run(evaluated, lambda out: len(list(out.rglob("*.npz")))),
        "study": Run(studied, lambda out: len(list(out.rglob("*.npz")))),
        "train": Run(trained, epochs),
    }


def explain(work: Path, out: Path, photographs: str, *options: str) -> list[str]:
    """`jc2i explain` of some of the photographs in a folder by a small network."""
    given = [str(work / photographs), "--out", str(out), "--model", str(work / "small")]
    return ["-m", "jc2i", "explain", *given, "--no-progress", *options]


def prepare(work: Path, photographs: int) -> None:
    """Makes the photographs and two networks with random weights."""
    import jax
    from PIL import Image

    from jc2i import models

    drawn = np.random.default_rng(0)
    folder = work / f"photographs-{photographs}"
    folder.mkdir()
    for number in range(photographs):
        pixels = drawn.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.png")
    key = jax.random.key(0)
    small = models.create("small", classes=10, key=key, size=SIDE, channels=3)
    models.save(small, work / "small")
    models.save(models.create("small", classes=10, key=key), work / "digits")


def start(command: Sequence[str], *, cache: bool = True) -> subprocess.Popen:
    """Starts a Python program, with what its sibling compiled or without."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if not cache:
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "0"
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(command: Sequence[str]) -> None:
    """Runs a program to its end."""
    process = start(command)
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]


def contents(out: Path) -> dict[str, bytes]:
    """The results in a folder, without what was kept on the way, nor the dates in JSON files.

    Of a saved model these are its weights: the library that writes them names its files at random.
    """
    import jax

    from jc2i import models

    found = {}
    for path in sorted(out.rglob("*")):
        place = path.relative_to(out)
        if path.is_dir() or place.parts[0] in ("kept", "cache", "model.checkpoint"):
            continue
        if path.name == "model.json":
            weights = jax.tree.leaves(models.load(path.parent))
            found[str(place)] = b"".join(np.asarray(leaf).tobytes() for leaf in weights)
        elif path.suffix == ".json":
            found[str(place)] = b""
        elif "weights" not in place.parts and path.name != "report.html":  # which holds the date
            found[str(place)] = path.read_bytes()
    return found


def whole(out: Path) -> bool:
    """Whether every file in a folder can be read, and none is half written."""
    from PIL import Image

    for path in out.rglob("*") if out.exists() else ():
        if path.suffix == ".partial":
            return False
        with contextlib.suppress(FileNotFoundError):
            if path.suffix == ".png":
                with Image.open(path) as image:
                    image.load()
            elif path.suffix in (".npy", ".npz"):
                np.load(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
    return True


def write(name: str, rows: Sequence[dict[str, object]]) -> None:
    """Writes rows to a CSV file of the results, and prints them."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row)


@contextlib.contextmanager
def prepared(photographs: int) -> Iterator[Path]:
    """A temporary folder with photographs and networks."""
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), photographs)
        yield Path(folder)


def memory(photographs: int = 5000, every: int = 100) -> None:
    """Samples the resident memory of `jc2i explain` each time so many photographs are done.

    Args:
      photographs: how many are explained.
      every: photographs between two samples.
    """
    with prepared(photographs) as work:
        out = work / "out"
        process = start(explain(work, out, f"photographs-{photographs}", "--batch-size", "32"))
        rows, following, began = [], 1, time.monotonic()
        while process.poll() is None:
            count = sum(name.endswith(".png") for name in os.listdir(out)) if out.exists() else 0
            if count >= following:
                status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                resident = next((line for line in status if line.startswith("VmRSS")), "")
                if resident:
                    mebibytes = int(resident.split()[1]) / 1024
                    seconds = time.monotonic() - began
                    rows.append(
                        {
                            "photographs": count,
                            "resident_mebibytes": round(mebibytes, 1),
                            "seconds": round(seconds, 1),
                        }
                    )
                following = count - count % every + every
            time.sleep(0.2)
        assert process.returncode == 0
        assert len(list(out.glob("*.npy"))) == photographs
    write("explain-memory-cpu", rows)
    _draw(rows)


def _draw(rows: Sequence[dict[str, float]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([r["photographs"] for r in rows], [r["resident_mebibytes"] for r in rows])
    axes.set_ylim(0)
    axes.set_xlabel("photographs explained")
    axes.set_ylabel("resident memory, MiB")
    figure.savefig(RESULTS / "explain-memory-cpu.png", dpi=120)


def killed(kills: int = 10, photographs: int = 500, only: tuple[str, ...] = ()) -> None:
    """Kills each kind of run at random moments of its work, and compares what it ends with.

    Args:
      kills: of each kind.
      photographs: how many `jc2i explain` explains.
      only: kinds; all by default.
    """
    chance, rows = random.Random(0), []
    with prepared(photographs) as work:
        for kind, run in runs(work, photographs).items():
            if only and kind not in only:
                continue
            straight, out = work / kind / "straight", work / kind / "killed"
            began = time.monotonic()
            finish(run.command(straight))
            seconds = time.monotonic() - began
            steps = run.done(straight) or 40
            moments = sorted(chance.sample(range(1, steps), kills))
            deaths, unbroken = 0, True
            for moment in moments:
                process = start(run.command(out))
                while run.done(out) < moment and process.poll() is None:
                    time.sleep(0.005)
                time.sleep(chance.uniform(0, 0.5))
                process.kill()
                process.communicate()
                deaths += process.returncode == -signal.SIGKILL
                unbroken &= all(whole(path) for path in [out] if not list(path.rglob("*.partial")))
            finish(run.command(out))
            equal = contents(out) == contents(straight)
            rows.append(
                {
                    "run": kind,
                    "steps": steps,
                    "seconds": round(seconds),
                    "killed": deaths,
                    "equal": equal,
                    "whole": unbroken and whole(out),
                    "left_over": len(list(out.rglob("*.partial"))),
                }
            )
            print(rows[-1], flush=True)
    write("killed-cpu", rows)


MASKS = {"compiling": "2000", "running": "300000"}
BEGUN = {"compiling": "evaluations of the model", "running": "in all"}
"""What the command says just before it compiles, and when the program has run for a while."""


def interrupted(photographs: int = 60) -> None:
    """Interrupts runs at 20 random moments and more: says how long each takes to end.

    Args:
      photographs: how many `jc2i explain` explains.
    """
    chance, rows = random.Random(0), []
    with prepared(photographs) as work:
        kinds = runs(work, photographs)
        long = {}
        for kind, run in kinds.items():
            began = time.monotonic()
            finish(run.command(work / kind / "straight"))
            long[kind] = time.monotonic() - began
        for number, kind in enumerate(["explain"] * 8 + list(kinds)[1:] * 2):
            for attempt in range(9):
                out, moment = work / kind / f"{number}-{attempt}", chance.uniform(0.3, long[kind])
                process, began = start(kinds[kind].command(out)), time.monotonic()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(moment)
                if process.poll() is None:
                    rows.append(_interrupt(process, kind, "any", moment, out))
                    break
                process.communicate()
                long[kind] = time.monotonic() - began  # it ended before: the machine is faster now
        for phase, masks in MASKS.items():
            for number in range(4):
                out = work / "explain" / f"{phase}-{number}"
                options = ("--method", "rise", "--option", f"masks={masks}")
                command = explain(work, out, f"photographs-{photographs}", *options)
                command.remove("--no-progress")
                process = start(command, cache=phase == "running")
                assert process.stderr
                while BEGUN[phase] not in (line := process.stderr.readline()):
                    assert line, "it ended"
                moment = chance.uniform(0, 2)
                time.sleep(moment)
                rows.append(_interrupt(process, "explain", phase, moment, out))
    write("interrupted-cpu", rows)


def _interrupt(
    process: subprocess.Popen, kind: str, phase: str, moment: float, out: Path
) -> dict[str, object]:
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    row = {
        "run": kind,
        "phase": phase,
        "moment": round(moment, 2),
        "code": process.returncode,
        "seconds": round(time.monotonic() - sent, 3),
        "last_line": errors.strip().splitlines()[-1] if errors.strip() else "",
        "traceback": "Traceback" in errors,
        "whole": whole(out),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    commands = tyro.extras.SubcommandApp()
    for command in (memory, killed, interrupted):
        commands.command(command)
    commands.cli(description=__doc__)

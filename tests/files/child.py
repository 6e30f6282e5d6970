"""Opens files, one after another, and says of each what came of it: run by running.py.

python child.py < CASES > OUTCOMES

A case is a line, ["door", "path"]; so is an outcome, a dict. The process is killed by the system
where a file holds it for minutes, and its memory is bounded: a file that is not refused spoils a
test, not a machine.
"""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

import jax
import numpy as np

from jc2i import calibrators, data, models, parallel

HUNG = 90
"""Seconds after which a file counts as one that hangs."""
MEMORY = 6 * 2**30
FOREIGN = {
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.startfile"),
    *("subprocess.Popen", "pty.spawn", "pickle.find_class", "socket.connect"),
}
"""What Python says that it does where code of a file, or another program, is run."""


def main() -> None:
    events: list[str] = []
    sys.addaudithook(lambda event, _: events.append(event) if event in FOREIGN else None)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warm_up()
    for line in sys.stdin:
        door, path = json.loads(line)
        events.clear()
        forget_peak()
        signal.alarm(HUNG)
        began = time.process_time()  # which no other process makes longer
        outcome = attempt(door, path)
        seconds = time.process_time() - began
        signal.alarm(0)
        outcome |= {"seconds": seconds, "megabytes": peak(), "ran": list(events)}
        print(json.dumps(outcome), flush=True)


def warm_up() -> None:
    """What the first call of each kind costs is no file's."""
    jax.eval_shape(jax.nn.softmax, np.ones(3))
    import orbax.checkpoint  # noqa: F401
    import safetensors.numpy  # noqa: F401


def attempt(door: str, path: str) -> dict:
    try:
        value = DOORS[door](path)
    except (ValueError, OSError) as error:
        return {"kind": "refused", "says": str(error)}
    except BaseException as error:
        return {"kind": "raw", "says": f"{type(error).__name__}: {error}"}
    return {"kind": "value", "says": digest(value)}


def digest(value: object) -> str:
    """Of a pytree of arrays, by all that a caller sees of it."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(value):
        array = np.asarray(leaf)
        sha.update(f"{array.dtype.name} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def data_set(path: str) -> list:
    found = data.load(path, "all")
    images, labels = found[:]
    return [images, labels, np.array(found.classes), found.boxes]


def weight_file(path: str) -> list:
    found = models.read_torch_file(path)
    return [[np.array(name), found[name]] for name in sorted(found)]


def network(path: str) -> object:
    return models.from_torch(
        "resnet20_cifar", path, classes=3, mean=(0.5,) * 3, std=(0.5,) * 3, shortcut="B"
    )


def calibrator(path: str) -> list:
    found = calibrators.load(path)
    return [np.array(type(found).__name__), found]


def kept(path: str) -> object:
    return parallel.map_batches(
        lambda items: {"squares": items**2, "halves": (items / 2,)},
        np.arange(6, dtype="f4"),
        2,
        progress=False,
        resume=Path(path).parent,
        tag="squares and halves",
    )


DOORS = {
    "image": data.read_image,
    "data": data_set,
    "weights": weight_file,
    "network": network,
    "calibrator": calibrator,
    "model": lambda path: models.load(path),
    "kept": kept,
}


def forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # not on this system: `peak` gives the process's


def peak() -> float:
    """The most memory that was resident since `forget_peak`, in megabytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e3
    except OSError:
        unit = 1e6 if sys.platform == "darwin" else 1e3
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()

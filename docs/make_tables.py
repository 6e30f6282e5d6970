"""Writes docs/methods.md and docs/metrics.md from what each method says of itself.

    python docs/make_tables.py

What a method is and what its options mean is read from its docstring; its cost, what its options
take and their defaults from its decorator. A test compares the committed pages with this output.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jc2i import checks, explainers, metrics, query
from jc2i.options import Anything, Maybe, Whole
from jc2i.query import Cost, Method

FOLDER = Path(__file__).resolve().parent
SHAPE = (1, 224, 224, 3)
"""The images that costs are said for."""

WORDS = {
    "forward": "forward",
    "gradient": "gradient",
    "forward_a_feature": "forward a feature",
    "behind_a_feature": "behind a feature",
}
"""How the table says each part of a cost."""

NO_OPTION = np.zeros(5, complex)
"""What no option takes."""

METHODS = """\
# Explainers

`jc2i.explainers.NAME(model, images, targets, *, key=None, batch_size=..., **options)` gives one map
an image; on the command line `--method NAME --option option=value`, with hyphens in the name. What
a model is: [models.md](models.md). A method of your own: [adding_a_method.md](adding_a_method.md).

*Cost* is for one image of 224x224 at the defaults, in evaluations of the model: forward passes or
gradients; "a feature" is one of the layer's, and "behind" the part of the network behind it. *Key*:
whether the method draws random numbers, and so needs `key=`. *Asks by score*: whether the images
that it asks the model about depend on the scores; where they do not, one run serves every
calibration of a model. `batch_size` is the most model evaluations in flight, on each device.
"""

METRICS = """\
# Metrics

Functions on arrays, one value an image out; means and intervals are the caller's
(`jc2i.statistics`).

## Those that ask a model

`jc2i.metrics.NAME(model, images, targets, ...)`; `lipschitz` takes the explainer before the model.
The columns are those of [methods.md](methods.md).
"""

ARRAYS = """\
## Those of arrays alone

Maps, curves, or probabilities and labels; no model is asked. Calibration metrics are of a whole
data set, the others of each image.
"""

GENERATED = "<!-- Written by docs/make_tables.py: edit the docstrings, and run it again. -->\n"


def pages() -> dict[str, str]:
    """The pages by file name."""
    explain, measure = query.methods(explainers), query.methods(metrics)
    arrays = {
        name: getattr(metrics, name)
        for name in sorted(metrics.__all__)
        if name not in measure and inspect.isfunction(getattr(metrics, name))
    }
    asked = [GENERATED, METHODS, _summary(explain), *map(_section, explain.values())]
    measured = [GENERATED, METRICS, _summary(measure), *map(_section, measure.values())]
    rows = [[f"[`{name}`](#{name})", _first(function)] for name, function in arrays.items()]
    measured += [ARRAYS, _table(["metric", "what it is"], rows), *map(_plain, arrays.values())]
    return {"methods.md": "\n".join(asked), "metrics.md": "\n".join(measured)}


def _summary(methods: Mapping[str, Callable]) -> str:
    rows = []
    for name, function in methods.items():
        method = query.method_of(function)
        needs, asks = (
            "yes" if flag else "no" for flag in (method.stochastic, method.depends_on_scores)
        )
        rows.append([f"[`{name}`](#{name})", _first(function), _cost(method), needs, asks])
    return _table(["name", "what it is", "cost", "key", "asks by score"], rows)


def _section(function: Callable) -> str:
    method, meanings = query.method_of(function), _meanings(function)
    kinds = {**method.kinds, "batch_size": Maybe(Whole())}
    rows = []
    for name, kind in kinds.items():
        default = f"`{method.parameters[name]!r}`" if name in method.parameters else "required"
        meaning = meanings.get(name, "most model evaluations in flight; None for one batch.")
        rows.append([f"`{name}`", default, _takes(kind), meaning])
    return _headed(function, rows, ["option", "default", "takes", "what it is"])


def _plain(function: Callable) -> str:
    meanings = _meanings(function)
    rows = []
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        default = "required" if required else f"`{parameter.default!r}`"
        rows.append([f"`{name}`", default, meanings[name]])
    return _headed(function, rows, ["argument", "default", "what it is"])


def _headed(function: Callable, rows: list[list[str]], columns: list[str]) -> str:
    return f"## {function.__name__}\n\n{_description(function)}\n\n{_table(columns, rows)}"


def _takes(kind: Any) -> str:
    """What an option takes, in the words of its own refusal."""
    if isinstance(kind, Anything):
        return ""
    try:
        kind.read("option", NO_OPTION, jnp.zeros(SHAPE))
    except checks.Refusal as refusal:
        words = str(refusal).split(", takes ", 1)[1]
        # For whichever images there are.
        words = words.replace(str(list(SHAPE)), "the images").replace(str(list(SHAPE[1:])), "one")
        return words.removesuffix(f" ({SHAPE[0]})").removesuffix(f" of shape {list(SHAPE[:3])}")
    raise TypeError(f"{kind} takes anything: say what in docs/make_tables.py")


def _cost(method: Method) -> str:
    cost = method.cost(SHAPE)
    if "explainer" in method.kinds:
        return f"{max(cost)} explanations"
    words = [WORDS[name] for name in Cost._fields]
    said = [f"{value} {word}" for value, word in zip(cost, words, strict=True) if value]
    return ", ".join(said) or "none"


def _text(function: Callable) -> tuple[str, str]:
    """The description and the arguments' part of a docstring."""
    text = inspect.getdoc(function) or ""
    description, _, rest = text.partition("\nArgs:\n")
    return description.strip(), re.split(r"\n\w+:\n", rest)[0]


def _first(function: Callable) -> str:
    """The docstring's first sentence."""
    paragraph = _text(function)[0].split("\n\n")[0].replace("\n", " ")
    return re.split(r"\.\s+(?=[A-Z])", paragraph)[0].rstrip(".")


def _description(function: Callable) -> str:
    """The docstring down to its arguments, formulas kept on lines of their own."""
    paragraphs = _text(function)[0].split("\n\n")
    return "\n\n".join(
        f"```\n{inspect.cleandoc(part)}\n```" if part.startswith("    ") else part
        for part in paragraphs
    )


def _meanings(function: Callable) -> dict[str, str]:
    """Each argument's text in the docstring."""
    found, name = {}, ""
    for line in _text(function)[1].splitlines():
        start = re.match(r"  \*{0,2}(\w+): (.*)", line)
        if start:
            name = start[1]
            found[name] = start[2]
        elif name:
            found[name] += " " + line.strip()
    return found


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    cells = [[cell.replace("|", r"\|").strip() for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text)

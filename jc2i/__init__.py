"""jc2i: can I trust this explanation, and does calibrating the model make it better?

logits, probabilities,
log_odds, two_classes   what is explained: a model composed with a calibrator
normalize               min-max of a saliency map
calibrators             make confidence mean accuracy
explainers              saliency maps
query, options          what makes an explainer or metric of a function of your own
taps                    named activations inside a model, read or replaced
metrics                 of calibration and of explanations
statistics              means and paired differences with their intervals
models, data            networks and images to try them on
parallel                over devices, hosts and data sets
plots                   figures
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jc2i import commands

if commands.is_running():
    commands.end_when_interrupted()  # while the rest is loaded, too

from jc2i import calibrators, explainers, metrics, options, parallel, query, removal, taps
from jc2i.normalization import is_constant, normalize
from jc2i.scores import log_odds, logits, probabilities, two_classes

if TYPE_CHECKING:
    from jc2i import data, models, plots, statistics

__version__ = "0.1.0"

__all__ = [
    "calibrators",
    "data",
    "explainers",
    "is_constant",
    "log_odds",
    "logits",
    "metrics",
    "models",
    "normalize",
    "options",
    "parallel",
    "plots",
    "probabilities",
    "removal",
    "query",
    "statistics",
    "taps",
    "two_classes",
]


def __getattr__(name: str) -> object:
    # Flax, Pillow, matplotlib and SciPy are loaded when first used.
    if name in ("data", "models", "plots", "statistics"):
        import importlib

        return importlib.import_module(f"jc2i.{name}")
    raise AttributeError(f"module 'jc2i' has no attribute {name!r}")

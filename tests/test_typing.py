from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What a user writes, once for each kind of array: every line that ends in "# refused" is an error
# to a type checker, and no other line is.
USERS = """
from collections.abc import Callable
from typing import assert_type

import jax
import numpy as np

from jc2i import calibrators, explainers, is_constant, log_odds, metrics, normalize, parallel
from jc2i import plots, probabilities, removal, statistics, taps


def of_images(network: Callable, images: ARRAY, targets: ARRAY, key: jax.Array) -> None:
    model = probabilities(network, calibrators.Temperature(2.0))
    assert_type(model(images), jax.Array)
    assert_type(log_odds(network)(images), jax.Array)
    maps = explainers.sensitivity(network, images, targets)
    assert_type(maps, jax.Array)
    maps.at[0].set(0)
    assert_type(explainers.gradient_x_input(model, images, targets), jax.Array)
    references = (np.zeros(3), "white")
    assert_type(
        explainers.integrated_gradients(model, images, targets, references=references), jax.Array
    )
    assert_type(
        explainers.smoothgrad(model, images, targets, key=key, noise=np.float32(0.1)), jax.Array
    )
    assert_type(explainers.occlusion(model, images, targets, baseline=images), jax.Array)
    assert_type(explainers.rise(model, images, targets, key=key), jax.Array)
    assert_type(explainers.meaningful_perturbation(model, images, targets), jax.Array)
    assert_type(explainers.grad_cam(model, images, targets), jax.Array)
    assert_type(explainers.hires_cam(model, images, targets), jax.Array)
    assert_type(explainers.score_cam(model, images, targets), jax.Array)
    assert_type(explainers.ablation_cam(model, images, targets), jax.Array)
    assert_type(explainers.lrp(model, images, targets, epsilon=np.float32(0.1)), jax.Array)
    assert_type(explainers.guided_backprop(model, images, targets), jax.Array)
    assert_type(explainers.deconvnet(model, images, targets), jax.Array)
    explainers.deeplift(model, images, targets, reference=images)
    assert_type(explainers.random_map(model, images, targets, key=key), jax.Array)
    segments = metrics.superpixels(images)
    assert_type(
        metrics.random_deletion_curve(model, images, targets, key=key, segments=segments), jax.Array
    )
    assert_type(
        metrics.lipschitz(explainers.sensitivity, model, images, targets, key=key), jax.Array
    )
    assert_type(removal.gaussian_blur(images), jax.Array)
    assert_type(taps.capture(network, images, "features"), jax.Array)
    parallel.map_batches(model, (images, targets), 8)
    explainers.sensitivity(network, "cat.png", targets)  # refused
    explainers.rise(network, images, "cat", key=key)  # refused
    explainers.rise(images, images, targets, key=key)  # refused


def of_maps(model: Callable, images: ARRAY, targets: ARRAY, maps: ARRAY, curve: ARRAY) -> None:
    assert_type(metrics.deletion_curve(model, images, targets, maps), jax.Array)
    assert_type(metrics.insertion_curve(model, images, targets, maps), jax.Array)
    assert_type(metrics.area(curve), jax.Array)
    assert_type(metrics.sparseness(maps), jax.Array)
    assert_type(metrics.spearman(maps, maps), jax.Array)
    assert_type(normalize(maps), jax.Array)
    assert_type(is_constant(maps), jax.Array)
    assert_type(metrics.dice(maps, maps), jax.Array)
    agreeing, disagreeing = metrics.distances(maps, targets, targets, distance=metrics.dice)
    metrics.distances([maps, maps], targets, targets)
    assert_type(metrics.mege(agreeing), jax.Array)
    assert_type(metrics.reco(agreeing, disagreeing), jax.Array)
    plots.saliency_grid(images, {"maps": maps})
    metrics.deletion_curve(model, images, targets, "maps.npy")  # refused
    metrics.distances("maps.npy", targets, targets)  # refused


def of_scores(logits: ARRAY, labels: ARRAY, scores: ARRAY) -> None:
    for calibrator in (
        calibrators.Identity(),
        calibrators.fit_temperature(logits, labels),
        calibrators.fit_vector_scaling(logits, labels),
        calibrators.fit_matrix_scaling(logits, labels),
        calibrators.fit_dirichlet(logits, labels, l2=0.1),
        calibrators.fit_isotonic(logits, labels),
        calibrators.fit_histogram(logits, labels),
    ):
        assert_type(calibrator(logits), jax.Array)
    assert_type(metrics.expected_calibration_error(scores, labels), jax.Array)
    assert_type(metrics.reliability_curve(scores, labels).accuracy, jax.Array)
    assert_type(metrics.brier_score(scores, labels), jax.Array)
    statistics.paired_difference(scores, scores)
    calibrators.fit_temperature("logits.npy", labels)  # refused
"""


def test_a_users_arrays_are_numpys_or_jaxs_and_results_are_jaxs(tmp_path):
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    settings = {"include": ["."], "extraPaths": [str(ROOT)], "typeCheckingMode": "basic"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    expected = set()
    for name, array in {"numpys": "np.ndarray", "jaxs": "jax.Array"}.items():
        text = USERS.replace("ARRAY", array)
        (tmp_path / f"{name}.py").write_text(text)
        lines = enumerate(text.splitlines())
        expected |= {(name, number) for number, line in lines if line.endswith("# refused")}
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    command += ["--outputjson", "--project", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    if "{" not in run.stdout:  # its first run fetches what the Python package lacks
        pytest.skip(f"pyright does not run here: {run.stderr[-200:]}")
    found = json.loads(run.stdout[run.stdout.index("{") :])["generalDiagnostics"]
    errors = {
        (Path(each["file"]).stem, each["range"]["start"]["line"]): each["message"]
        for each in found
        if each["severity"] == "error"
    }
    unexpected = {place: errors[place] for place in errors.keys() - expected}
    assert not unexpected, unexpected
    assert errors.keys() == expected

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import gaussian_kde
from sklearn.metrics import log_loss

from benchmarks import calibration_error
from jc2i.metrics import calibration

GOLDEN = Path(__file__).parents[1] / "golden" / "calibration_netcal.npz"
METRICS = [
    calibration.expected_calibration_error,
    calibration.classwise_calibration_error,
    calibration.maximum_calibration_error,
    calibration.reliability_curve,
    calibration.brier_score,
    calibration.negative_log_likelihood,
]
ESTIMATORS = ["debiased", "density", "equal_width", "equal_mass"]


def _predictions(
    rows: int = 600, classes: int = 4, spread: float = 3, over_confidence: float = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = spread * random.normal(size=(rows, classes))
    labels = np.argmax(logits / over_confidence + random.gumbel(size=logits.shape), axis=1)
    return np.array(jax.nn.softmax(jnp.asarray(logits, jnp.float32))), labels


def _silverman(values: np.ndarray) -> float:
    spread = np.subtract(*np.percentile(values, [75, 25])) / 1.34
    return 0.9 * min(values.std(ddof=1), spread) * len(values) ** (-1 / 5)


def _density_error(probabilities, labels, *, shared=True, bandwidth=None) -> float:
    """The integral of |accuracy q - s p| with SciPy's densities of the mirrored samples."""
    confidences = probabilities.max(axis=1).astype(float)
    right = confidences[probabilities.argmax(axis=1) == labels]
    lower = 1 / probabilities.shape[1]
    nodes = np.linspace(lower, 1, 10001)

    def density(values: np.ndarray, width: float) -> np.ndarray:
        mirrored = np.concatenate([values, 2 * lower - values, 2 - values])
        return 3 * gaussian_kde(mirrored, bw_method=width / mirrored.std(ddof=1))(nodes)

    width = _silverman(confidences) if bandwidth is None else bandwidth
    own = width if shared or bandwidth is not None else _silverman(right)
    accuracy = len(right) / len(confidences)
    integrand = np.abs(accuracy * density(right, own) - nodes * density(confidences, width))
    return float(np.trapezoid(integrand, nodes))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rows": 300, "classes": 50, "spread": 4.0, "over_confidence": 1.0},
        {"rows": 500, "classes": 10, "spread": 6.0, "over_confidence": 3.0},
        {"rows": 20, "classes": 2},
    ],
)
def test_density_is_the_integral_of_scipys_kernel_densities(shared, options):
    predictions = _predictions(**options)
    # A right prediction of a very confident model needs a fine grid: its own bandwidth is small.
    error = calibration.expected_calibration_error(
        *predictions, estimator="density", shared_bandwidth=shared, resolution=2**15
    )
    expected = _density_error(*predictions, shared=shared)
    np.testing.assert_allclose(error, expected, atol=2e-5)


@pytest.mark.parametrize("bandwidth", [0.003, 0.03, 0.1])
def test_density_takes_a_bandwidth_that_does_not_recompile(bandwidth):
    predictions = _predictions()
    error = calibration.expected_calibration_error(
        *predictions, estimator="density", bandwidth=bandwidth
    )
    np.testing.assert_allclose(error, _density_error(*predictions, bandwidth=bandwidth), atol=1e-5)


def test_density_of_equal_confidences_is_their_gap():
    probabilities = np.tile(np.array([0.8, 0.2], np.float32), (10, 1))
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    error = calibration.expected_calibration_error(probabilities, labels, estimator="density")
    np.testing.assert_allclose(error, 0.2, atol=1e-3)


def test_density_of_saturated_confidences_is_finite():
    probabilities = np.tile(np.array([1, 0], np.float32), (100, 1))
    labels = np.arange(100) % 4 // 3
    error = calibration.expected_calibration_error(probabilities, labels, estimator="density")
    np.testing.assert_allclose(error, 0.25, atol=1e-3)
    own = calibration.expected_calibration_error(
        probabilities, np.ones(100, int), estimator="density", shared_bandwidth=False
    )
    np.testing.assert_allclose(own, 1, atol=1e-3)


@pytest.mark.parametrize("estimator", ["equal_width", "equal_mass"])
@pytest.mark.parametrize("bins", [10, 15])
def test_binned_errors_are_netcals(estimator, bins):
    golden = np.load(GOLDEN)
    predictions = golden["probabilities"].astype(np.float32), golden["labels"]
    expected = calibration.expected_calibration_error(*predictions, estimator=estimator, bins=bins)
    largest = calibration.maximum_calibration_error(*predictions, estimator=estimator, bins=bins)
    np.testing.assert_allclose(expected, golden[f"ece_{estimator}_{bins}"], atol=1e-6)
    np.testing.assert_allclose(largest, golden[f"mce_{estimator}_{bins}"], atol=1e-6)


def test_bins_worked_by_hand():
    confidences = np.array([0.5, 0.625, 0.75, 0.75, 0.8, 1.0], np.float32)
    probabilities = np.stack([confidences, 1 - confidences], axis=1)
    labels = np.array([0, 1, 0, 1, 0, 0])
    curve = calibration.reliability_curve(probabilities, labels, bins=4)
    # (0, .25], (.25, .5], (.5, .75], (.75, 1]: an edge belongs to the bin below it.
    np.testing.assert_array_equal(curve.count, [0, 1, 3, 2])
    np.testing.assert_allclose(curve.confidence, [np.nan, 0.5, 2.125 / 3, 0.9], rtol=1e-6)
    np.testing.assert_allclose(curve.accuracy, [np.nan, 1, 1 / 3, 1], rtol=1e-6)
    options = {"estimator": "equal_width", "bins": 4}
    error = calibration.expected_calibration_error(probabilities, labels, **options)
    largest = calibration.maximum_calibration_error(probabilities, labels, bins=4)
    np.testing.assert_allclose(error, (0.5 + 1.125 + 0.2) / 6, rtol=1e-6)
    np.testing.assert_allclose(largest, 0.5, rtol=1e-6)


@pytest.mark.parametrize("rows, bins", [(100, 7), (15, 15), (4, 9)])
def test_equal_mass_bins_hold_equal_numbers(rows, bins):
    probabilities, labels = _predictions(rows)
    curve = calibration.reliability_curve(probabilities, labels, estimator="equal_mass", bins=bins)
    assert curve.count.sum() == rows
    assert set(np.asarray(curve.count)) <= {rows // bins, -(-rows // bins)}


def test_equal_mass_never_parts_equal_confidences():
    probabilities = np.tile(np.array([0.9, 0.1], np.float32), (20, 1))
    curve = calibration.reliability_curve(
        probabilities, np.arange(20) % 2, estimator="equal_mass", bins=5
    )
    np.testing.assert_array_equal(np.sort(curve.count), [0, 0, 0, 0, 20])


def test_debiased_is_the_bootstrap_of_each_bin():
    probabilities, labels = _predictions()
    options = {"estimator": "equal_width", "bins": 15}
    plain = calibration.expected_calibration_error(probabilities, labels, **options)
    debiased = calibration.expected_calibration_error(
        probabilities, labels, debiased=True, **options
    )
    curve = calibration.reliability_curve(probabilities, labels, bins=15)
    confidence, accuracy, count = (np.asarray(a, float)[curve.count > 0] for a in curve)
    noise = np.random.default_rng(0).normal(size=(200_000, len(count)))
    noisy = accuracy + noise * np.sqrt(accuracy * (1 - accuracy) / count)
    mean = (np.abs(noisy - confidence).mean(axis=0) * count).sum() / count.sum()
    np.testing.assert_allclose(debiased, 2 * float(plain) - mean, atol=1e-4)


def test_debiased_is_nearer_to_zero_for_a_calibrated_model():
    samples = [_predictions(200, over_confidence=1, seed=seed) for seed in range(20)]
    probabilities, labels = (jnp.stack(arrays) for arrays in zip(*samples, strict=True))
    plain, corrected = (
        jax.vmap(
            lambda p, y, debiased=debiased: calibration.expected_calibration_error(
                p, y, estimator="equal_width", debiased=debiased
            )
        )(probabilities, labels).mean()
        for debiased in (False, True)
    )
    assert abs(corrected) < 0.7 * plain


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_error_of_a_calibrated_model_vanishes(estimator):
    predictions = _predictions(20_000, over_confidence=1)
    options = {"estimator": estimator}
    assert calibration.expected_calibration_error(*predictions, **options) < 0.01
    # Kernels of a class's probabilities, most of which are near 0 or 1, leave a bias.
    limit = 0.02 if estimator == "density" else 0.01
    if estimator != "debiased":
        assert calibration.classwise_calibration_error(*predictions, **options) < limit


def test_classwise_is_the_mean_over_classes():
    probabilities, labels = _predictions()
    edges = np.arange(16) / 15
    errors = []
    for label, scores in enumerate(probabilities.T.astype(float)):
        index = np.clip(np.searchsorted(edges, scores, side="left") - 1, 0, 14)
        gaps = [((labels == label) - scores)[index == b].sum() for b in range(15)]
        errors.append(np.abs(gaps).sum() / len(labels))
    error = calibration.classwise_calibration_error(probabilities, labels)
    np.testing.assert_allclose(error, np.mean(errors), rtol=1e-5)


def test_classwise_of_two_classes_by_density():
    probabilities, labels = _predictions(300, classes=2)
    error = calibration.classwise_calibration_error(
        probabilities, labels, estimator="density", bandwidth=0.05
    )
    # Both classes have the same error, mirrored: p_1 = 1 - p_0.
    first = np.stack([1 - probabilities[:, 0], probabilities[:, 0]], axis=1)
    swapped = calibration.classwise_calibration_error(
        first, 1 - labels, estimator="density", bandwidth=0.05
    )
    np.testing.assert_allclose(error, swapped, rtol=1e-4)
    scores, nodes = probabilities[:, 0].astype(float), np.linspace(0, 1, 20001)
    images = np.concatenate([scores, -scores, 2 - scores])
    kernels = [
        np.exp(-(((nodes[:, None] - part) / 0.05) ** 2) / 2) @ weight
        for part in np.split(images, 3)
        for weight in [np.stack([labels == 0, np.ones(300)], axis=1)]
    ]
    right, every = np.sum(kernels, axis=0).T / (300 * 0.05 * np.sqrt(2 * np.pi))
    expected = np.trapezoid(np.abs(right - nodes * every), nodes)
    np.testing.assert_allclose(error, expected, rtol=1e-4)


def test_density_reliability_curve():
    probabilities, labels = _predictions(5000)
    curve = calibration.reliability_curve(probabilities, labels, estimator="density")
    np.testing.assert_allclose(curve.confidence[jnp.array([0, -1])], [0.25, 1], rtol=1e-6)
    np.testing.assert_allclose(np.trapezoid(curve.count, curve.confidence), 5000, rtol=1e-4)
    binned = calibration.reliability_curve(probabilities, labels, bins=20)
    held = np.asarray(binned.count) > 150
    smooth = np.interp(binned.confidence[held], curve.confidence, curve.accuracy)
    np.testing.assert_allclose(smooth, binned.accuracy[held], atol=0.08)


def test_density_reliability_curve_has_no_accuracy_where_there_are_no_samples():
    probabilities = np.tile(np.array([0.95, 0.05], np.float32), (50, 1))
    curve = calibration.reliability_curve(
        probabilities, np.zeros(50, int), estimator="density", bandwidth=0.01
    )
    assert np.isnan(curve.accuracy[0])
    np.testing.assert_allclose(np.interp(0.95, curve.confidence, curve.accuracy), 1, rtol=1e-4)
    assert (np.asarray(curve.count) >= 0).all()


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_the_order_of_the_rows_does_not_matter(metric):
    probabilities, labels = _predictions()
    order = np.random.default_rng(1).permutation(len(labels))
    expected = metric(probabilities, labels)
    got = metric(probabilities[order], labels[order])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
def test_resamples_under_vmap_compile_once(metric):
    probabilities, labels = _predictions()
    resample = jax.random.randint(jax.random.key(0), (3, 600), 0, 600)
    traces = []

    @jax.jit
    @jax.vmap
    def together(probabilities, labels):
        traces.append(None)
        return metric(probabilities, labels)

    results = together(jnp.asarray(probabilities)[resample], jnp.asarray(labels)[resample])
    together(jnp.asarray(probabilities)[resample[::-1]], jnp.asarray(labels)[resample])
    assert len(traces) == 1
    for index, rows in enumerate(np.asarray(resample)):
        alone = metric(probabilities[rows], labels[rows])
        jax.tree.map(
            lambda a, b, i=index: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5),
            results,
            alone,
        )


def test_large_samples_keep_their_accuracy():
    probabilities, labels = _predictions(50_000, classes=10, spread=5)
    confidences = probabilities.max(axis=1).astype(float)
    right = probabilities.argmax(axis=1) == labels
    index = np.ceil(confidences * 15)
    expected = sum(abs((right - confidences)[index == b].sum()) for b in range(1, 16)) / 50_000
    error = calibration.expected_calibration_error(probabilities, labels, estimator="equal_width")
    np.testing.assert_allclose(error, expected, atol=1e-6)


def test_memory_of_the_density_is_bounded():
    shape = jax.ShapeDtypeStruct((50_000, 10), jnp.float32)
    labels = jax.ShapeDtypeStruct((50_000,), jnp.int32)
    error = functools.partial(calibration.expected_calibration_error, estimator="density")
    compiled = jax.jit(error).lower(shape, labels).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None and analysis.temp_size_in_bytes < 20e6


def test_brier_score_and_likelihood():
    probabilities, labels = _predictions()
    one_hot = np.eye(4)[labels]
    brier = ((probabilities.astype(float) - one_hot) ** 2).sum(axis=1).mean()
    np.testing.assert_allclose(calibration.brier_score(probabilities, labels), brier, rtol=1e-5)
    precise = probabilities.astype(float)
    likelihood = log_loss(labels, precise / precise.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(
        calibration.negative_log_likelihood(probabilities, labels), likelihood, rtol=1e-5
    )


def test_certain_and_right_scores_zero_certain_and_wrong_stays_finite():
    certain = np.eye(3, dtype=np.float32)
    assert calibration.brier_score(certain, np.arange(3)) == 0
    assert calibration.negative_log_likelihood(certain, np.arange(3)) == 0
    assert calibration.brier_score(certain, np.array([1, 2, 0])) == 2
    wrong = calibration.negative_log_likelihood(certain, np.array([1, 2, 0]))
    np.testing.assert_allclose(wrong, -np.log(np.finfo(np.float32).tiny), rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)
@pytest.mark.parametrize(
    "probabilities, labels, message",
    [
        (np.eye(3), np.array([0, 1, 3]), "^labels: got class 3, takes classes 0 to 2"),
        (np.eye(3), np.arange(2), r"^labels: got int64\[2\].* 3 rows of probabilities"),
        (np.ones(3), np.arange(3), r"^probabilities: got float64\[3\], takes floats\[batch, cla"),
        (np.eye(3)[:0], np.arange(0), "^probabilities: got an empty batch"),
        (np.eye(3) * np.nan, np.arange(3), "^probabilities: got NaN or infinity"),
        (3 * np.eye(3), np.arange(3), "^probabilities: got values from 0 to 3, takes prob"),
        (np.eye(3) - 0.1, np.arange(3), "^probabilities: got values from -0.1 to 0.9"),
        (np.full((3, 3), 0.5), np.arange(3), "^probabilities: got a row that sums to 1.5"),
    ],
)
def test_refuses_what_is_no_prediction(metric, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(probabilities, labels)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"estimator": "sweep"}, "^estimator: got 'sweep', takes 'debiased' or 'density' or"),
        ({"bins": 0}, "^bins: got 0, takes a whole number above 0"),
        ({"resolution": 1.5}, "^resolution: got 1.5, takes a whole number above 0"),
        (
            {"estimator": "density", "bandwidth": 0.0},
            "^bandwidth: got 0.0, takes a finite number above 0, or None",
        ),
        (
            {"estimator": "density", "debiased": True},
            "^debiased: got True, takes False with the estimator 'density'",
        ),
    ],
)
def test_refuses_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        calibration.expected_calibration_error(*_predictions(20), **options)


def test_the_largest_error_has_no_density():
    with pytest.raises(ValueError, match="^estimator: got 'density', takes 'equal_width' or 'e"):
        calibration.maximum_calibration_error(*_predictions(20), estimator="density")


def _saturated(share: float, scale: float, rows: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """A calibrated model of ten classes, a share of whose confidences is within scale of 1."""
    random = np.random.default_rng(0)
    near = int(rows * share)
    confidences = np.concatenate(
        [1 - random.random(near) * scale, random.uniform(0.4, 1, rows - near)]
    )
    right = random.random(rows) < confidences
    others = np.repeat((1 - confidences)[:, None] / 9, 9, axis=1)
    probabilities = np.concatenate([confidences[:, None], others], axis=1)
    return probabilities.astype(np.float32), np.where(right, 0, 1)


@pytest.mark.parametrize(
    "share, scale", [(0.8, 1e-2), (0.8, 1e-3), (0.8, 1e-5), (0.8, 0.0), (0.9, 1e-4)]
)
def test_the_default_of_a_calibrated_saturated_model_vanishes(share, scale):
    assert abs(calibration.expected_calibration_error(*_saturated(share, scale))) < 0.01


def test_bandwidth_does_not_jump_where_the_quartiles_meet():
    near, equal = (
        calibration.expected_calibration_error(*_saturated(0.8, scale), estimator="density")
        for scale in (1e-6, 0.0)
    )
    np.testing.assert_allclose(near, equal, atol=1e-3)


@pytest.mark.parametrize("mean", [0.6, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("case", list(calibration_error.ACCURACIES))
def test_the_default_is_near_the_truth_of_simulated_miscalibrations(case, mean):
    probabilities, labels, truth = calibration_error.predictions(case, mean)
    assert abs(calibration.expected_calibration_error(probabilities, labels) - truth) < 0.01


def test_the_default_is_equal_width_debiased():
    options = {"estimator": "equal_width", "debiased": True}
    default, spelled = (
        calibration.expected_calibration_error(*_predictions(), **chosen)
        for chosen in ({}, options)
    )
    assert default == spelled

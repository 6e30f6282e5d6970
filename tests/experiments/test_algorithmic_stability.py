from __future__ import annotations

import dataclasses
import re
import runpy
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.ad_checkpoint import checkpoint_name

import experiments.train as training_script
import jc2i
from experiments import algorithmic_stability as script
from experiments.common.tables import read_csv
from experiments.stability.claims import claims
from experiments.stability.degradation import inverted, with_noise
from experiments.stability.folds import cross_train, stratified_folds
from experiments.stability.intervals import interval
from experiments.stability.measurements import Compared, Measurements, Sets
from experiments.stability.printed import MEASURES, NETWORKS
from experiments.stability.study import LIPSCHITZ, MODEL, Study, Subject
from experiments.stability.tables import shuffled
from jc2i import data, explainers, metrics, models, parallel

ENDS = ("", "_low", "_high")


def with_ends(*names):
    return [name + end for name in names for end in ENDS]


MEASURED = ["images", *with_ends("MeGe", "ReCo"), "agreeing", "disagreeing"]
COLUMNS = {
    "models": ["models", "accuracy", "lowest", "highest", "within", "explained"],
    "table1": [
        *("method", *with_ends("fidelity"), "fidelity_images", *MEASURED),
        *("ReCo_null", "ReCo_null_high", "ReCo_null_p"),
        *("ReCo_chance", "ReCo_chance_high", "ReCo_chance_p"),
        *(*with_ends("contrast"), "ReCo_AUC"),
        *("paper_fidelity", "paper_MeGe", "paper_ReCo"),
    ],
    "figure3": ["degradation", "share", "method", "images", *with_ends("MeGe", "ReCo")],
    "figure4": ["degradation", "share", "method", "images", *with_ends("fidelity")],
    "figure5": [
        *("models", "method", "answers", "distances", "mean"),
        *("quarter", "median", "three_quarters"),
    ],
    "figure6": [
        *("point", "distance", "grows", "largest_fall", "grows_until", "correlation"),
    ],
    "figure7": [
        *("point", "distance", "grows", "largest_fall", "grows_until", "correlation", "spread"),
    ],
    "appendix_d": ["case", "divergence", "wasserstein", "reco", "reco_auc"],
    "product": [
        *("map", "becomes", "images"),
        *with_ends("MeGe", "MeGe_times_input", "MeGe_gain"),
        *with_ends("ReCo", "ReCo_times_input", "ReCo_gain"),
    ],
    "signs": [
        *("map", "becomes", "images"),
        *with_ends("MeGe", "MeGe_absolute", "MeGe_gain"),
        *with_ends("ReCo", "ReCo_absolute", "ReCo_gain"),
    ],
    "calibration": [
        *("method", "calibrator", *MEASURED, *with_ends("MeGe_gain", "ReCo_gain"), "ECE"),
    ],
    "claims": ["claim", *with_ends("gain"), "gain_count", "verdict"],
}
OF_TWO_NETWORKS = ("table2", "table3")
METHODS = ("sensitivity", "gradient_x_input", "grad_cam", "random_map")
CLASSES = 3

TRAIN = """
def train(images, labels, key):
    from tests.experiments.test_algorithmic_stability import learn
    return learn(images, labels, key)
"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tiny:
    """Convolution, rectifier, means over quarters of the image, dense."""

    kernel: jax.Array
    dense: jax.Array

    def features(self, images):
        values = jax.lax.conv_general_dilated(
            images, self.kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        values = checkpoint_name(jax.nn.relu(values), "features")
        batch, height, width, channels = values.shape
        quarters = values.reshape(batch, 2, height // 2, 2, width // 2, channels)
        return quarters.mean((2, 4)).reshape(batch, -1)

    def __call__(self, images):
        return self.features(images) @ self.dense


def learn(images, labels, key):
    """Random filters and a least-squares head: a way to train that takes no time."""
    filters = jax.random.normal(key, (3, 3, 1, 5)) / 3
    blank = Tiny(filters, jnp.zeros((20, CLASSES)))
    features = np.asarray(blank.features(data.as_float(np.asarray(images))), np.float64)
    wanted = np.eye(CLASSES)[np.asarray(labels)]
    head = np.linalg.solve(features.T @ features + 1e-2 * np.eye(20), features.T @ wanted)
    return Tiny(filters, jnp.asarray(head, jnp.float32))


def drawn(count, seed):
    """Images of 8x8 whose class is where they are bright, often hard to tell."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = random.random((count, 8, 8, 1)) * (random.random((count, 8, 8, 1)) < 0.7)
    for image, label in zip(images, labels, strict=True):
        image[:4, 2 * label : 2 * label + 4] *= 1.8
    return (images / images.max()).astype(np.float32), labels.astype(np.int32)


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Programs of eight devices take twice as long to compile: one test has them."""
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stability")
    images, labels = drawn(48, 0)
    held_out, held_out_labels = drawn(30, 1)
    np.savez(
        folder / "tiny.npz",
        train_images=images,
        train_labels=labels,
        test_images=held_out,
        test_labels=held_out_labels,
    )
    (folder / "mine.py").write_text(TRAIN)
    return Study(
        data=str(folder / "tiny.npz"),
        train=f"{folder / 'mine.py'}:train",
        name="tiny",
        out=folder / "results",
        k=3,
        methods=METHODS,
        images=24,
        degraded_images=18,
        fidelity_images=12,
        calibrated_images=18,
        calibrators=("temperature",),
        inverted_shares=(0.3,),
        noise_shares=(0.3,),
        most_spread=1.0,
        resamples=10,
        shuffles=10,
        batch_size=24,
        progress=False,
    )


@pytest.fixture(scope="module")
def tables(study):
    """What every run of the suite has time for."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        patched.setattr(jax, "device_count", lambda: 1)
        assert script.SCRIPT.run("table1", study) == study.folder
    return study


def cached(study):
    return set((study.out / "cache").glob("**/*.npz"))


def test_folds_are_disjoint_equal_and_hold_every_class():
    labels = np.random.default_rng(0).integers(0, 4, 103)
    folds = stratified_folds(labels, 5, seed=0)
    sizes = np.bincount(folds)
    assert len(folds) == 103 and len(sizes) == 5 and np.ptp(sizes) <= 1
    for label in range(4):
        assert np.ptp(np.bincount(folds[labels == label], minlength=5)) <= 1
    assert (folds == stratified_folds(labels, 5, seed=0)).all()
    assert (folds != stratified_folds(labels, 5, seed=1)).any()


@pytest.mark.parametrize(
    ("labels", "k", "message"),
    [
        ([0, 1] * 5, 1, "k: got 1, takes at least 2 folds"),
        ([0, 1] * 5, True, "k: got True, takes at least 2 folds"),
        ([0, 1], 3, "k: got 3 folds, takes at most the 2 images"),
        ([0] * 9 + [1] * 2, 3, "k: got 2 images of class 1 for 3 folds, takes folds that each"),
    ],
)
def test_folds_that_cannot_be_are_refused(labels, k, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        stratified_folds(np.array(labels), k, seed=0)


def fold_data():
    labels = np.arange(12, dtype=np.int32) % 2
    images = np.arange(12.0).reshape(12, 1, 1, 1) / 12
    return (
        images,
        data.Dataset(images, labels, ("a", "b"), "twelve"),
        stratified_folds(labels, 3, seed=0),
    )


def test_a_model_is_trained_on_all_other_folds_from_the_same_key(tmp_path):
    images, dataset, folds = fold_data()
    seen = []

    def train(images, labels, key):
        seen.append((set(images.reshape(-1)), list(labels), int(jax.random.bits(key))))
        return len(seen)

    key = jax.random.key(3)
    found = cross_train(train, dataset, folds, key=key, folder=tmp_path, progress=False)
    assert found == [1, 2, 3]
    for fold, (used, classes, bits) in enumerate(seen):
        assert used == set(images[folds != fold].reshape(-1))
        assert classes == list(dataset.labels[folds != fold]) and bits == int(jax.random.bits(key))


def test_folds_are_trained_side_by_side_on_several_devices(tmp_path):
    images, dataset, folds = fold_data()
    devices, together = jax.devices()[:3], __import__("threading").Barrier(3, timeout=60)

    def train(images, labels, key):
        together.wait()  # no fold would pass if one waited for another
        return jnp.asarray(images).sum()

    found = cross_train(
        train, dataset, folds, key=jax.random.key(0), folder=tmp_path, devices=devices,
        progress=False,
    )  # fmt: skip
    expected = [images[folds != f].sum() for f in range(3)]
    np.testing.assert_allclose(np.array([float(one) for one in found]), expected, rtol=1e-6)
    assert {device for one in found for device in one.devices()} == set(devices)


def test_kept_models_are_read_and_a_killed_training_loses_only_its_own_fold(tmp_path):
    images, dataset, folds = fold_data()
    calls = []

    def train(images, labels, key, folder):
        calls.append(folder.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return models.create("small", classes=2, key=key, size=4, channels=1, widths=(2,))

    run = partial(cross_train, train, dataset, folds, key=jax.random.key(0))
    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path, progress=False)
    first = run(folder=tmp_path, progress=False)
    assert calls == [f"fold{fold}-training" for fold in (0, 1, 1, 2)]
    again = run(folder=tmp_path, progress=False)
    assert len(calls) == 4
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_inverted_labels_are_wrong_in_the_share_asked_for_and_nested():
    labels = np.random.default_rng(0).integers(0, 10, 1000)
    few, many = (inverted(labels, share, classes=10, seed=0) for share in (0.05, 0.3))
    assert (few != labels).sum() == 50 and (many != labels).sum() == 300
    changed = few != labels
    np.testing.assert_array_equal(few[changed], many[changed])
    assert many.min() >= 0 and many.max() < 10
    # Each other class is as probable: 300 in 9 cells.
    counts = np.bincount((many - labels)[many != labels] % 10, minlength=10)
    assert counts[0] == 0 and scipy.stats.chisquare(counts[1:]).pvalue > 0.001
    np.testing.assert_array_equal(inverted(labels, 0.0, classes=10, seed=0), labels)
    for share in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="^share: got .*, takes a number from 0 to 1"):
            inverted(labels, share, classes=10, seed=0)
    with pytest.raises(ValueError, match="^classes: got 1, takes at least 2"):
        inverted(labels, 0.1, classes=1, seed=0)


def layered():
    return {
        "first": jnp.zeros((3, 3, 8, 16)),
        "norm": jnp.zeros(16),
        "second": jnp.zeros((3, 3, 16, 16)),
        "third": jnp.zeros((1, 1, 16, 20)),
        "dense": jnp.zeros((20, 10)),
    }


def test_noise_is_on_a_share_of_each_convolutions_weights():
    spoilt = [with_noise(layered(), share, seed=0) for share in (0.1, 0.3)]
    for name, kernel in layered().items():
        few, many = (np.asarray(one[name]) for one in spoilt)
        if kernel.ndim != 4:
            assert not few.any() and not many.any()
            continue
        assert (few != 0).sum() == round(0.1 * kernel.size)
        assert (many != 0).sum() == round(0.3 * kernel.size)
        np.testing.assert_array_equal(few[few != 0], many[few != 0])
    noise = np.concatenate([np.asarray(spoilt[1][n]).ravel() for n in ("first", "second")])
    noise = noise[noise != 0]
    assert abs(noise.std() - 0.5) < 0.03 and abs(noise.mean()) < 0.05
    other = with_noise(layered(), 0.3, seed=1)["second"]
    assert not np.allclose(other, spoilt[1]["second"])


def test_noise_on_layers_changes_all_weights_of_a_share_of_them():
    def changed(share):
        found = with_noise(layered(), share, seed=0, noise_on="layers")
        whole = {name: np.asarray(value) != 0 for name, value in found.items()}
        assert all(one.all() or not one.any() for one in whole.values())
        return {name for name, one in whole.items() if one.any()}

    assert len(changed(1 / 3)) == 1 and len(changed(2 / 3)) == 2 and changed(1 / 3) < changed(2 / 3)
    assert changed(1.0) == {"first", "second", "third"} and changed(0.0) == set()


def test_noise_is_refused_where_there_is_no_convolution():
    with pytest.raises(ValueError, match="^model: got no weights of rank 4, takes a model with"):
        with_noise({"dense": jnp.zeros((3, 3))}, 0.1, seed=0)
    with pytest.raises(ValueError, match="^noise_on: got 'blocks', takes 'parameters' or"):
        with_noise(layered(), 0.1, seed=0, noise_on="blocks")


def test_interval_adds_the_variances_over_images_and_over_folds():
    random = np.random.default_rng(0)
    folds = np.arange(60) % 5
    values = random.normal(size=60) + folds  # folds differ: most of the variance
    found = interval(lambda select: np.nanmean(select(values)), folds, 5, resamples=2000)
    np.testing.assert_allclose(found.estimate, values.mean())
    means = np.array([values[folds == fold].mean() for fold in range(5)])
    # Of a mean, the jackknife over equal folds is the standard error of the folds' means.
    variance = values.var() / 60 + means.var(ddof=1) / 5
    half = scipy.stats.t.ppf(0.975, 4) * np.sqrt(variance)
    np.testing.assert_allclose((found.high - found.low) / 2, half, rtol=0.03)
    np.testing.assert_allclose((found.high + found.low) / 2, found.estimate)


def test_a_left_out_fold_is_in_no_pair():
    folds, values = np.arange(6) % 3, np.arange(18.0).reshape(6, 3)
    seen = []

    def statistic(select):
        chosen = select(values)
        seen.append(set(chosen[np.isfinite(chosen)]))
        return 0.0

    interval(statistic, folds, 3, resamples=1)
    without_last = set(values[folds != 2][:, :2].ravel())
    assert seen[0] == set(values.ravel()) and seen[-1] == without_last


def test_two_folds_have_no_interval():
    found = interval(lambda select: 1.0, np.arange(4) % 2, 2, resamples=5)
    assert found.estimate == 1 and np.isnan([found.low, found.high]).all()


def test_the_papers_numbers_are_of_seven_methods():
    for tables in (*MEASURES.values(), *NETWORKS.values()):
        for row in tables.values():
            assert len(row) == 7 and set(row) <= set(Study().methods)
            assert all(0 <= value <= 1 for value in row.values())


def test_images_explained_have_equal_parts_of_folds_and_classes(study):
    subject = Subject(study)
    assert len(set(subject.explained)) == 24
    for count in (6, 12, 24):
        assert np.ptp(np.bincount(subject.fold_of_image[:count], minlength=3)) == 0
    more = Subject(dataclasses.replace(study, images=48))
    np.testing.assert_array_equal(more.explained[:24], subject.explained)
    np.testing.assert_array_equal(subject.labels, subject.dataset.labels[subject.explained])


def test_images_are_held_out_of_data_with_one_split(study):
    subject = Subject(dataclasses.replace(study, held_out_images=8, images=12))
    parts = (subject.dataset, subject.calibration_data, subject.test_data)
    assert [len(part) for part in parts] == [40, 4, 4]
    rows = np.concatenate([part.images.reshape(len(part), -1) for part in parts])
    assert len(np.unique(rows, axis=0)) == 48 and len(subject.folds) == 40
    with pytest.raises(ValueError, match="^held_out_images: got 48, takes fewer than the 48"):
        Subject(dataclasses.replace(study, held_out_images=48)).dataset  # noqa: B018


def by_hand(study, method):
    """Fidelity apart, a row of table 1 by plain loops and SciPy, from the library's maps."""
    images, labels = drawn(48, 0)
    subject = Subject(study)
    folds, chosen = subject.folds, subject.explained
    trained = [
        learn(images[folds != f], labels[folds != f], jax.random.key(0)) for f in range(study.k)
    ]
    explain = getattr(explainers, method)
    maps = [
        np.asarray(explain(jc2i.logits(one), images[chosen], labels[chosen])) for one in trained
    ]
    right = [np.asarray(one(images[chosen])).argmax(1) == labels[chosen] for one in trained]
    agreeing, disagreeing = [], []
    for place, image in enumerate(chosen):
        i = folds[image]
        for j in range(study.k):
            if i == j:
                continue
            rho = scipy.stats.spearmanr(maps[i][place].ravel(), maps[j][place].ravel()).statistic
            if right[i][place] and right[j][place]:
                agreeing.append(1 - abs(rho))
            elif right[i][place] != right[j][place]:
                disagreeing.append(1 - abs(rho))
    reco = scipy.stats.ks_2samp(agreeing, disagreeing, alternative="greater").statistic
    return {
        "MeGe": 1 / (1 + np.mean(agreeing)),
        "ReCo": reco,
        "agreeing": len(agreeing),
        "disagreeing": len(disagreeing),
    }


@pytest.mark.parametrize("method", ["sensitivity", "grad_cam"])
def test_numbers_are_those_of_plain_loops(tables, method):
    rows = {row["method"]: row for row in read_csv(tables.folder / "table1.csv")}
    for name, value in by_hand(tables, method).items():
        np.testing.assert_allclose(rows[method][name], value, rtol=1e-4, err_msg=name)


def test_table1_has_a_row_a_method_with_its_intervals(tables):
    rows = read_csv(tables.folder / "table1.csv")
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert list(row) == COLUMNS["table1"]
        assert row["MeGe_low"] < row["MeGe"] < row["MeGe_high"] and 0.5 <= row["MeGe"] <= 1
        assert row["images"] == 24 and row["fidelity_images"] == 12
        for null in ("ReCo_null", "ReCo_chance"):
            assert 0 <= row[null] <= row[f"{null}_high"] <= 1
    random = rows[-1]
    assert random["MeGe"] < 0.56 and abs(random["fidelity"]) < 0.1


def test_one_call_takes_a_way_to_train_and_data(tables, tmp_path):
    dataset, held_out = (data.load(tables.data, split) for split in ("train", "test"))
    study = dataclasses.replace(tables, train=None, out=tmp_path)
    rows = script.stability(learn, dataset, held_out, study)
    for row, kept in zip(rows, read_csv(tables.folder / "table1.csv"), strict=True):
        np.testing.assert_allclose(row["MeGe"], kept["MeGe"], rtol=1e-6)
        np.testing.assert_allclose(row["ReCo"], kept["ReCo"], rtol=1e-6)


def test_each_folds_own_model_is_the_one_whose_fidelity_is_measured(study):
    measured = Measurements(study)
    found = measured.fidelity(MODEL, "sensitivity")
    subject, place = measured.subject, 4
    fold = int(subject.fold_of_image[place])
    maps = measured.maps(MODEL, "sensitivity")[fold, [place]]
    own = np.flatnonzero(subject.fold_of_image[:12] == fold)
    key = jax.random.fold_in(
        jax.random.fold_in(measured.key, study.k + fold), list(own).index(place)
    )
    expected = metrics.mu_fidelity(
        measured.score(MODEL, fold), subject.images[[place]], subject.labels[[place]], maps,
        key=key[None],
    )  # fmt: skip
    np.testing.assert_allclose(found[place], expected[0], rtol=1e-4)


def test_shuffled_labels_of_folds_leave_little_consistency(study):
    """Maps that say which model is right have ReCo 1; of shuffled labels they have much less."""
    random = np.random.default_rng(0)
    measured = Measurements(dataclasses.replace(study, shuffles=20))
    compared = measured.compared(MODEL, "random_map")
    correct = random.random((3, 24)) < 0.6
    own = correct[compared.folds, np.arange(24)]
    distances = np.where(own[:, None] & correct.T, 0.1, 0.9) + 1e-3 * random.random((24, 3))
    distances[np.arange(24), compared.folds] = np.nan
    telling = dataclasses.replace(compared, distances=np.float32(distances), correct=correct)
    assert telling.sets.reco == 1 and np.mean(shuffled(telling)) < 0.7
    np.testing.assert_allclose(telling.sets.contrast, 0.8, atol=1e-3)


def test_contrast_is_within_an_image(study):
    """Hard images whose maps are all far apart have ReCo, and no contrast."""
    nan = np.nan
    agreeing = np.array([[nan, 0.1, 0.1], [0.1, nan, 0.1], [nan, 0.9, nan], [nan, nan, nan]])
    disagreeing = np.array([[nan, nan, nan], [nan, nan, nan], [nan, nan, 0.9], [0.9, 0.9, nan]])
    hard = Sets(np.float32(agreeing), np.float32(disagreeing), "usual")
    np.testing.assert_allclose([hard.reco, hard.contrast], [0.8, 0.0], atol=1e-6)
    nothing = Sets(hard.agreeing, np.full((4, 3), nan, np.float32), "usual")
    assert np.isnan(nothing.contrast)


def test_absolute_maps_are_those_of_the_signed_ones(study):
    measured = Measurements(dataclasses.replace(study, costly_images=6))
    signed = measured.maps(MODEL, "integrated_gradients")
    absolute = measured.maps(MODEL, "absolute_integrated_gradients")
    assert signed.shape == (3, 6, 8, 8) and (signed < 0).any()
    np.testing.assert_array_equal(absolute, np.abs(signed))
    assert measured.count("absolute_integrated_gradients", 4) == 4


def test_random_maps_of_two_folds_have_nothing_in_common(study):
    maps = Measurements(study).maps(MODEL, "random_map")
    assert maps.shape == (3, 24, 8, 8)
    assert abs(float(metrics.spearman(maps[0], maps[1]).mean())) < 0.1


def test_own_targets_explain_each_models_prediction(study):
    chosen = dataclasses.replace(study, targets="own")
    measured = Measurements(chosen)
    predicted = measured.predicted(MODEL)
    maps = measured.maps(MODEL, "sensitivity")
    expected = explainers.sensitivity(
        measured.score(MODEL, 1), measured.subject.images, predicted[1].astype(np.int32)
    )
    np.testing.assert_allclose(maps[1], expected, rtol=1e-5, atol=1e-6)
    assert (predicted[1] != measured.subject.labels).any()


def test_counts_of_images_follow_the_cost(study):
    large = dataclasses.replace(study, images=24, costly_images=12, masked_images=6)
    measured = Measurements(large)
    counts = {
        "sensitivity": 24, "grad_cam_plus_plus": 24, "integrated_gradients": 12, "smoothgrad": 12,
        "rise": 6, "lime": 6, "ablation_cam": 6, "random_map": 24, "random_x_input": 24,
    }  # fmt: skip
    assert {method: measured.count(method) for method in counts} == counts
    assert measured.options("rise")["masks"] == 1000
    assert measured.count("sensitivity", 9) == 24 and measured.count("rise", 9) == 6


class Invented(Measurements):
    """What is measured of made-up maps: how near they are is said, by models and method."""

    def compared(self, setting, method, **chosen):
        worse = setting.kind or (setting == LIPSCHITZ and method == "grad_cam_plus_plus")
        near = 0.8 if worse else 0.3 if setting == LIPSCHITZ else 0.5
        near -= 0.05 if method in ("gradient_x_input", "random_x_input") else 0
        near = 0.97 if method == "random_map" else near
        random, count = np.random.default_rng(0), len(self.subject.folds)
        correct = random.random((3, count)) < 0.7
        right = correct[self.subject.folds, np.arange(count)][:, None] & correct.T
        distances = np.where(right, near, 0.6) + 0.3 * random.random((count, 3))
        distances[np.arange(count), self.subject.folds] = np.nan
        return Compared(self.study, np.float32(distances), correct, self.subject.folds)

    def fidelity(self, setting, method, most=None):
        return np.full(len(self.subject.folds), 0.6)


def test_claims_are_signed_as_the_paper_says_them(study):
    both = dataclasses.replace(
        study, train=None, images=48, methods=(*METHODS, "grad_cam_plus_plus", "rise")
    )
    verdicts = {row["claim"]: row["verdict"] for row in claims(Invented(both))}
    for part, count in (
        ("above random maps", 10),
        ("MeGe of .* falls with 30% noise", 5),
        ("mu-fidelity of .* falls by less", 10),
        ("Lipschitz network raises", 8),
        ("Lipschitz network lowers .* Grad-CAM", 2),
        ("product with the input raises", 2),
    ):
        found = [verdict for claim, verdict in verdicts.items() if re.search(part, claim)]
        assert found == ["holds"] * count, (part, verdicts)
    # The made-up gradient x input is nearer than all that the paper recommends.
    leaders = [verdict for claim, verdict in verdicts.items() if "not recommended in MeGe" in claim]
    assert leaders == ["fails"] * 3


def kill_after(batches, monkeypatch):
    """Ends the run like an interrupt, right after so many batches are kept."""
    write, written = parallel.store.Store.write, []

    def write_then_die(self, path, kept):
        write(self, path, kept)
        written.append(path)
        if len(written) == batches:
            raise KeyboardInterrupt

    monkeypatch.setattr(parallel.store.Store, "write", write_then_die)


@pytest.mark.parametrize("batches", [1, 7])
def test_killed_and_resumed_gives_the_same_table(tables, tmp_path, monkeypatch, batches):
    other = dataclasses.replace(tables, out=tmp_path)
    with monkeypatch.context() as patched:
        kill_after(batches, patched)
        with pytest.raises(KeyboardInterrupt):
            script.SCRIPT.run("table1", other)
    assert len(cached(other)) == batches and not list(other.folder.glob("*.csv"))
    script.SCRIPT.run("table1", other)
    written = (folder / "table1.csv" for folder in (tables.folder, other.folder))
    first, second = (path.read_bytes() for path in written)
    assert first == second


def test_a_second_run_computes_nothing(tables, tmp_path):
    before = cached(tables)
    again = dataclasses.replace(tables, out=tmp_path, cache=tables.out / "cache")
    script.SCRIPT.run("table1", again)
    assert before and cached(tables) == before
    assert (again.folder / "table1.csv").read_bytes() == (tables.folder / "table1.csv").read_bytes()


@pytest.fixture(scope="module")
def report(study):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        patched.setattr(jax, "device_count", lambda: 1)
        return script.SCRIPT.run("report", study)


@pytest.mark.slow
def test_report_writes_every_table_and_figure(study, report):
    written = {path.stem for path in study.folder.glob("*.csv")}
    assert written == set(COLUMNS) - {"signs"}  # no method here has a sign
    assert set(COLUMNS) - {"claims"} == set(script.RESULTS) - set(OF_TWO_NETWORKS)
    for name in written:
        rows = read_csv(study.folder / f"{name}.csv")
        assert rows and list(rows[0]) == COLUMNS[name], name
    page = report.read_text()
    assert page.count("data:image/png;base64,") == len(list(study.folder.glob("*.png")))
    verdicts = {row["verdict"] for row in read_csv(study.folder / "claims.csv")}
    assert verdicts <= {"holds", "fails", "open"}


@pytest.mark.slow
def test_noise_makes_maps_less_alike_and_the_product_more(study, report):
    rows = read_csv(study.folder / "product.csv")
    control = next(row for row in rows if row["becomes"] == "random_x_input")
    assert control["MeGe_gain_low"] > 0 and control["MeGe"] < control["MeGe_times_input"]
    rows = read_csv(study.folder / "models.csv")
    accuracies = {row["models"]: row["accuracy"] for row in rows}
    assert set(accuracies) == {"model", "model-labels-0.3", "model-noise-0.3"}
    assert accuracies["model-noise-0.3"] < accuracies["model"]


def test_tables_of_two_networks_are_refused_with_one(study, tmp_path):
    other = dataclasses.replace(study, out=tmp_path)
    for name in OF_TWO_NETWORKS:
        with pytest.raises(ValueError, match=f"^{name}: .*Not of this study.$"):
            script.SCRIPT.run(name, other)
    assert not list(tmp_path.glob("**/*.csv"))


def test_folds_of_unlike_accuracy_are_refused_unless_asked_for(study, monkeypatch):
    subject = Subject(dataclasses.replace(study, most_spread=0.03))
    monkeypatch.setattr(Subject, "accuracies", lambda self, setting: np.array([0.9, 0.9, 0.8]))
    takes = "folds within 3.0% of their mean, or a larger most_spread"
    with pytest.raises(ValueError, match=f"most_spread: got accuracies of 90.0%, .*{takes}"):
        subject.models(MODEL)
    Subject(dataclasses.replace(study, most_spread=0.07)).models(MODEL)


@pytest.mark.parametrize(
    ("coarse", "sizes"), [(1, r"\(4, 4\), \(8, 8\)"), (3, r"\(4, 4\)")], ids=["a fold", "all"]
)
def test_maps_of_another_size_are_refused_by_name(study, monkeypatch, coarse, sizes):
    def train(images, labels, key):
        trained.append(learn(images, labels, key))
        return Coarse(trained[-1]) if len(trained) <= coarse else trained[-1]

    trained = []
    as_they_are = {"resize": False}
    monkeypatch.setattr(Measurements, "options", lambda self, method, network="": as_they_are)
    monkeypatch.setattr(parallel, "digest", lambda *values: "another")
    measured = Measurements(study, train=train)
    takes = r"takes an explainer whose maps have one size with every fold, \(8, 8\)"
    with pytest.raises(ValueError, match=rf"^methods: got grad_cam: maps {sizes}, {takes}"):
        measured.maps(MODEL, "grad_cam")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Coarse:
    """A model that sees every second pixel."""

    model: Tiny

    def __call__(self, images):
        return self.model(images[:, ::2, ::2])


def defaults(tables, out):
    """A study that trains as the script does, for one epoch."""
    return dataclasses.replace(
        tables, train=None, model="small", option=(), lipschitz=None, epochs=1,
        training_batch_size=16, out=out,
    )  # fmt: skip


def weights(models):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(models)]


def test_default_training_is_that_of_the_training_script_and_resumes(tables, tmp_path, monkeypatch):
    straight = Subject(defaults(tables, tmp_path / "straight"))
    found = straight.models(MODEL)
    alone = training_script.Training(
        out=Path(), model="small", epochs=1, batch_size=16, learning_rate=3e-3, progress=False
    )
    part = straight.dataset.subset(np.flatnonzero(straight.folds != 1))
    start = training_script.new_model(alone, None, straight.dataset)
    expected = training_script.fit(start, part, alone, tmp_path / "alone")
    for one, other in zip(weights(found[1]), weights(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

    save, saved = training_script.save_checkpoint, []

    def save_then_die(*arguments):
        save(*arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    killed = Subject(defaults(tables, tmp_path / "killed"))
    with monkeypatch.context() as patched:
        patched.setattr(training_script, "save_checkpoint", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            killed.models(MODEL)
    again = Subject(defaults(tables, tmp_path / "killed")).models(MODEL)
    for one, other in zip(weights(found), weights(again), strict=True):
        np.testing.assert_array_equal(one, other)


def run_script(arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["algorithmic_stability.py", *arguments])
    runpy.run_path(script.__file__, run_name="__main__")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "1"], "k: got 1, takes at least 2 folds"),
        (["--k", "49"], "k: got 49 folds, takes at most the 48 images"),
        (["--k", "17"], "k: got 16 images of class 0 for 17 folds, takes folds that each"),
        (["--images", "100"], "images: got 100, takes at most the 48 that are cut"),
        (["--training-images", "100"], "training_images: got 100, takes at most the 48"),
        (["--costly-images", "0"], "costly_images: got 0, takes a number above 0"),
        (["--train", "nowhere.py:train"], "train: got nowhere.py:train, takes file.py:func"),
        (["--distance", "chebyshev"], "distance: got 'chebyshev', takes 'spearman' or"),
        (["--layer", "layer9"], "layer: got 'layer9', takes one of features"),
    ],
)
def test_bad_options_give_one_line_and_leave_nothing(
    study, tmp_path, monkeypatch, capsys, arguments, message
):
    given = {"--data": study.data, "--train": study.train, "--images": "12", "--k": "3"}
    given |= {"--most-spread": "1", "--out": str(tmp_path / "out")} | {arguments[0]: arguments[1]}
    words = [word for option in given.items() for word in option]
    words += ["--methods", "grad_cam", "--no-progress"]
    with pytest.raises(SystemExit) as refusal:
        run_script(["table1", *words], monkeypatch)
    errors = capsys.readouterr().err
    assert refusal.value.code == 2 and errors.count("\n") == 1
    assert errors.startswith(f"algorithmic_stability.py: {message}")
    assert not list(tmp_path.glob("**/*.csv"))

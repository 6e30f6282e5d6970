"""The public functions that are no methods of the registry, and which names are not called here."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jc2i
from jc2i import (
    calibrators,
    data,
    explainers,
    metrics,
    models,
    options,
    parallel,
    plots,
    query,
    removal,
    statistics,
    taps,
)

from ..conftest import ConvNet
from .judge import Expected
from .malformed import JUNK, MAPS, Function, Key, Labels, Other, Values
from .models import RETURNS, Behind, Explainer, Model
from .subjects import Subject

RANDOM = np.random.default_rng(0)
BATCH, CLASSES = 8, 4
IMAGES = RANDOM.uniform(0.05, 1, (BATCH, 8, 9, 3)).astype(np.float32)
TARGETS = np.arange(BATCH) % CLASSES
SALIENCY = RANDOM.normal(size=(BATCH, 8, 9)).astype(np.float32)
OTHERS = RANDOM.normal(size=(BATCH, 8, 9)).astype(np.float32)
LOGITS = (3 * RANDOM.normal(size=(60, CLASSES))).astype(np.float32)
LABELS = np.where(RANDOM.random(60) < 0.6, LOGITS.argmax(1), RANDOM.integers(0, CLASSES, 60))
PROBABILITIES = np.asarray(jax.nn.softmax(LOGITS))
BOXES = np.tile(np.float32([[[0.1, 0.2, 0.6, 0.9], [0, 0, 0, 0]]]), (BATCH, 1, 1))
CURVES = RANDOM.uniform(0, 1, (BATCH, 6)).astype(np.float32)
ONE = RANDOM.uniform(0, 1, BATCH).astype(np.float32)
KEY = jax.random.key(0)
NETWORK = ConvNet.random()

V = Expected.VALUE
R = Expected.REFUSAL
WORDS = Other(bad=(7, True, ["a"], b"a"), junk=("None", "a long list", "an object", "a class"))
"""A text."""
IMAGES_KIND = Values(4, images=True, tied=False)


def fits():
    """The fits of calibrators."""
    number = options.Number(least=0, takes="a finite number of at least 0")
    kinds = {
        "temperature": {
            "bounds": Other(
                bad=(0, (0, 1), (2, 1), (1, np.inf), (1, 2, 3), "ab", (1, np.nan)),
                junk=("a word", "a long list", "a dict", "an object"),
            )
        },
        "vector_scaling": {"l2": number},
        "matrix_scaling": {
            "regularization": options.OneOf("l2", "odir"),
            **dict.fromkeys(("l2", "off_diagonal", "bias_weight"), number),
        },
        "isotonic": {"floor": options.Number(above=0, most=0.5)},
        "histogram": {
            "floor": options.Number(above=0, most=0.5),
            "bins": options.Whole(most=10**4),
        },
    }
    kinds["dirichlet"] = kinds["matrix_scaling"]
    for name, own in kinds.items():
        function = getattr(calibrators, f"fit_{name}")
        good = {p.name: p.default for p in inspect.signature(function).parameters.values()}
        good |= {"logits": LOGITS, "labels": LABELS}
        if "l2" in good:
            good["l2"] = 0.1
        other = {
            (option, label): None
            for option in own
            for label in ("a large number", "zero", "a small number", "a number that underflows")
        }
        more = (
            ("logits", "probabilities", PROBABILITIES, R),
            ("logits", "one class", LOGITS[:, :1], R),
            (
                "logits",
                "minus infinity",
                np.where(LOGITS > 2, -np.inf, LOGITS).astype(np.float32),
                R,
            ),
        )
        also = {"logits": ("labels",)}
        for option in own:
            other[option, "a large number"] = Expected.EITHER
        yield Subject(
            f"calibrators.fit_{name}",
            function,
            good,
            {"logits": Values(2), "labels": Labels(CLASSES), **own},
            also,
            more,
            name == "isotonic",
            other,
        )


def metrics_of_probabilities():
    """The calibration metrics."""
    estimators = ("equal_width", "equal_mass", "density")
    kinds = {
        "estimator": options.OneOf(*estimators),
        "bins": options.Whole(most=10**4),
        "resolution": options.Whole(most=10**6),
        "debiased": options.Flag(),
        "shared_bandwidth": options.Flag(),
    }
    for name in (
        "expected_calibration_error",
        "classwise_calibration_error",
        "maximum_calibration_error",
        "reliability_curve",
        "brier_score",
        "negative_log_likelihood",
    ):
        function = getattr(metrics, name)
        parameters = inspect.signature(function).parameters
        good = {p.name: p.default for p in parameters.values()}
        good |= {"probabilities": PROBABILITIES, "labels": LABELS}
        own = {option: kind for option, kind in kinds.items() if option in parameters}
        more = [
            ("probabilities", "logits", LOGITS, R),
            ("probabilities", "halves", PROBABILITIES / 2, R),
            ("probabilities", "one class", np.ones((60, 1), np.float32), R),
            ("probabilities", "above 1", np.tile(np.float32([[2, -1, 0, 0]]), (60, 1)), R),
        ]
        if "bandwidth" in parameters:
            density = {**good, "estimator": "density", "resolution": 64}
            width = {"bandwidth": options.Maybe(options.Number(above=0))}
            empty = {("bandwidth", "a small number"): Expected.SHAPE}
            yield Subject(
                f"metrics.{name} by density",
                function,
                {**density, "bandwidth": 0.1},
                width,
                other=empty,
            )
            good["estimator"] = "equal_width"
        none = ("zeros", "subnormal", "large", "huge", "float8_e5m2")  # which sum to 1 no more
        other = {("probabilities", label): R for label in none}
        if name == "reliability_curve":
            good["bins"] = 1  # none is empty
        yield Subject(
            f"metrics.{name}",
            function,
            good,
            {"probabilities": Values(2), "labels": Labels(CLASSES), **own},
            {"probabilities": ("labels",)},
            tuple(more),
            other=other,
        )


def metrics_of_maps():
    """Functions of maps, boxes and curves."""
    for name in ("normalize", "is_constant"):
        maps = Values(3, MAPS.of, finite=False, spoils=name == "normalize", tied=False)
        yield Subject(name, getattr(jc2i, name), {"maps": SALIENCY}, {"maps": maps})
    one = {"maps": Values(3, MAPS.of, finite=False, spoils=True, tied=False)}
    for name in ("sparseness", "entropy", "otsu_total_variation", "predicted_box"):
        other = {("maps", "zeros"): Expected.SHAPE, ("maps", "subnormal"): Expected.SHAPE}
        yield Subject(
            f"metrics.{name}", getattr(metrics, name), {"maps": SALIENCY}, one, other=other
        )
    plain = {"maps": Values(3, MAPS.of, finite=False, tied=False)}
    yield Subject("metrics.otsu_foreground", metrics.otsu_foreground, {"maps": SALIENCY}, plain)
    pair = {"first": SALIENCY, "second": OTHERS}
    kinds = {"first": MAPS, "second": MAPS}
    also = {"first": ("second",)}
    yield Subject(
        "metrics.spearman",
        metrics.spearman,
        {**pair, "absolute": False},
        {**kinds, "absolute": options.Flag()},
        also,
    )
    yield Subject("metrics.pearson", metrics.pearson, pair, kinds, also)
    ssim = {**pair, "window": 3, "sigma": 1.5, "data_range": 1.0}
    takes = {
        **kinds,
        "window": options.Whole(most=8),
        "sigma": options.Number(above=0),
        "data_range": options.Maybe(options.Number(above=0)),
    }
    yield Subject(
        "metrics.structural_similarity",
        metrics.structural_similarity,
        ssim,
        takes,
        also,
        (("window", "even", 4, R),),
    )
    hog = {**pair, "orientations": 4, "cell": 2, "block": 2}
    takes = {**kinds, **dict.fromkeys(("orientations", "cell", "block"), options.Whole(most=360))}
    yield Subject(
        "metrics.hog_similarity",
        metrics.hog_similarity,
        hog,
        takes,
        {**also, "cell": ("first",), "block": ("first",)},
        (("cell", "larger than the map", 8, R), ("block", "larger than the map", 9, R)),
    )

    foreground = {"foreground": Values(3, ("bool",), tied=False)}
    for name in ("largest_component", "largest_box"):
        yield Subject(
            f"metrics.{name}", getattr(metrics, name), {"foreground": SALIENCY > 0}, foreground
        )
    located = {"maps": SALIENCY, "boxes": BOXES}
    boxes = Other(
        bad=(
            BOXES[0],
            BOXES[:, :, :3],
            BOXES + 1,
            -BOXES,
            BOXES[..., ::-1],
            np.full_like(BOXES, np.nan),
            BOXES.astype(complex),
            BOXES.astype(str),
            BOXES > 0,
            np.ma.masked_array(BOXES, BOXES > 0),
            [],
            [np.zeros((1, 3))] * BATCH,
            [["a"]] * BATCH,
            [None] * BATCH,
            [[["0.1", "0.2", "0.3", "0.4"]]] * BATCH,
        ),
        good=(
            BOXES.astype(np.float64),
            jnp.asarray(BOXES),
            list(BOXES),
            [[]] * BATCH,
            BOXES[:, :0],
            BOXES.tolist(),
        ),
    )
    several = (
        ("boxes", "those of fewer images", BOXES[:-1], R),
        ("boxes", "those of one image", list(BOXES[:1]), R),
    )
    documented = {("maps", label): Expected.SHAPE for label in ("zeros", "subnormal")}
    documented |= {
        ("boxes", "[[], [], [], [], [], [], [], []]"): Expected.SHAPE,
        ("boxes", "array([], shape=(8, 0, 4), dtype=float32)"[:40]): Expected.SHAPE,
    }
    for name in ("localization_error", "pixel_f1", "pointing_game", "energy_pointing_game"):
        yield Subject(
            f"metrics.{name}",
            getattr(metrics, name),
            located,
            {"maps": MAPS, "boxes": boxes},
            {"maps": ("boxes",)},
            several,
            other=documented,
        )
    correct = {**located, "correct": TARGETS > 0}
    takes = {"maps": MAPS, "boxes": boxes, "correct": Values(1, ("bool",))}
    yield Subject(
        "metrics.official_metric",
        metrics.official_metric,
        correct,
        takes,
        {"maps": ("boxes", "correct")},
        several,
        other=documented,
    )
    accuracy = {**located, "thresholds": [0.2, 0.5], "overlaps": (0.3, 0.5)}
    shares = Other(
        bad=(
            0.5,
            [],
            [[0.5]],
            [2.0],
            [-0.1],
            [np.nan],
            [None],
            ["0.5"],
            [True],
            "ab",
            np.ones((2, 2)),
        ),
        good=(np.float64([0.1, 0.2]), jnp.float32([0.1, 0.2])),
        junk=("a word", "a dict", "an object", "an array of words", "a key"),
    )
    takes = {"maps": MAPS, "boxes": boxes, "thresholds": shares, "overlaps": shares}
    yield Subject(
        "metrics.box_accuracy",
        metrics.box_accuracy,
        accuracy,
        takes,
        {"maps": ("boxes",)},
        (*several, ("overlaps", "None", None, R)),
        other=documented,
    )
    accuracies = RANDOM.integers(0, 2, (BATCH, 3, 2)).astype(np.float32)
    yield Subject(
        "metrics.max_box_accuracy",
        metrics.max_box_accuracy,
        {"accuracies": accuracies},
        {"accuracies": Values(3, finite=False, tied=False)},
        other={("accuracies", label): V for label in ("NaN", "infinity", "minus infinity")},
    )
    yield Subject(
        "metrics.box_mask",
        metrics.box_mask,
        {"boxes": BOXES, "height": 8, "width": 9},
        {"boxes": boxes, "height": options.Whole(), "width": options.Whole()},
    )
    yield Subject(
        "metrics.pad_boxes",
        metrics.pad_boxes,
        {"boxes": BOXES, "count": 2},
        {"boxes": boxes, "count": options.Maybe(options.Whole())},
        other={("boxes", "[[], [], [], [], [], [], [], []]"): V},
        more=(("count", "too few", 1, R),),
    )
    curve = {"curve": Values(None, finite=False, spoils=True, tied=False)}
    yield Subject(
        "metrics.area",
        metrics.area,
        {"curve": CURVES, "rule": "mean"},
        {**curve, "rule": options.OneOf("mean", "trapezoid")},
        more=(
            ("curve", "a number", np.float32(1), R),
            ("curve", "an array of rank 0", np.array(1.0), R),
        ),
    )
    yield Subject(
        "metrics.area by the trapezoid",
        metrics.area,
        {"curve": CURVES, "rule": "trapezoid"},
        curve,
        more=(("curve", "one point", CURVES[:, :1], R),),
        other={("curve", "huge"): V},
    )
    areas = Values(1, finite=False, spoils=True)
    yield Subject(
        "metrics.better_than_random",
        metrics.better_than_random,
        {"areas": ONE, "random_areas": ONE[::-1]},
        {"areas": areas, "random_areas": areas},
        {"areas": ("random_areas",)},
        (("areas", "[8, 1]", ONE[:, None], R), ("random_areas", "[1]", ONE[:1], R)),
    )
    yield Subject(
        "metrics.superpixels",
        metrics.superpixels,
        {"images": IMAGES, "count": 4},
        {"images": IMAGES_KIND, "count": options.Whole()},
        other={("images", "uint8 values"): V},
    )
    blur = {"images": IMAGES, "size": 3, "sigma": 1.0, "border": "mirror"}
    takes = {
        "images": Values(4, finite=False, spoils=True, tied=False, empty=True),
        "size": options.Whole(),
        "sigma": options.Number(above=0),
        "border": options.OneOf("mirror", "black"),
    }
    yield Subject(
        "removal.gaussian_blur",
        removal.gaussian_blur,
        blur,
        takes,
        more=(("size", "even", 4, R),),
        other={("size", "NumPy's"): V},
    )
    takes = {"baseline": options.Fill()}
    yield Subject("removal.fill", removal.fill, {"images": IMAGES, "baseline": 0.5}, takes)


def across_folds():
    """Distances of maps across folds, and what is made of them."""
    maps = RANDOM.normal(size=(3, 6, 4, 5)).astype(np.float32)
    correct, folds = RANDOM.random((3, 6)) < 0.7, np.arange(6) % 3
    good = {
        "maps_by_fold": maps,
        "correct_by_fold": correct,
        "fold_of_image": folds,
        "distance": "spearman",
        "pairs": "xor",
        "batch_size": 4,
    }
    by_fold = Other(
        bad=(
            maps[0],
            maps[:1],
            maps[:, :0],
            maps.astype(complex),
            [maps[0]],
            [maps[0], maps[1][:3]],
            [maps[0], None],
            [maps[0], "a"],
            maps.tolist(),
            np.full(maps.shape, None),
        ),
        good=(list(maps), maps > 0, maps.astype(np.float16), np.full_like(maps, np.nan)),
    )
    named = {f"maps_by_fold[{i}]" for i in range(3)}
    also = {"maps_by_fold": (*named, "correct_by_fold"), "distance": ()}
    kinds = {
        "maps_by_fold": by_fold,
        "correct_by_fold": Values(2, ("bool",)),
        "fold_of_image": Labels(3),
        "distance": Other(
            bad=(
                "euclidean",
                7,
                None,
                "",
                lambda a, b: a,
                lambda a, b: 1.0,
                lambda a, b: None,
                lambda a, b: "a",
            ),
            good=("l2", lambda a, b: jnp.abs(a - b).mean((1, 2))),
            junk=("a word", "a long list", "a dict", "an object", "a shape"),
        ),
        "pairs": options.OneOf("xor", "algorithm1"),
        "batch_size": options.Whole(most=2**31 - 1),
    }
    # Infinity and NaN are pairs of another kind, as they say.
    spoilt = dict.fromkeys(
        [("maps_by_fold", repr(one)[:40]) for one in by_fold.good], Expected.SHAPE
    )
    for name in ("distances", "pair_distances"):
        function = getattr(metrics, name)
        own = {k: v for k, v in good.items() if k in inspect.signature(function).parameters}
        subject = Subject(
            f"metrics.{name}",
            _without_nan(function),
            own,
            {k: kinds[k] for k in own},
            also,
            other=spoilt,
        )
        yield subject
    between = np.asarray(metrics.pair_distances(maps, folds))
    distances = Values(2, finite=False, tied=True)
    good = {
        "distances": between,
        "correct_by_fold": correct,
        "fold_of_image": folds,
        "pairs": "xor",
    }
    takes = {
        "distances": distances,
        **{k: kinds[k] for k in ("correct_by_fold", "fold_of_image", "pairs")},
    }
    mates = {"distances": ("correct_by_fold", "fold_of_image")}
    yield Subject("metrics.split_pairs", _without_nan(metrics.split_pairs), good, takes, mates)
    good |= {"key": KEY, "draws": 5, "shuffle": "images", "rates": "usual"}
    takes |= {
        "key": Key(),
        "draws": options.Whole(),
        "shuffle": options.OneOf("images", "pairs"),
        "rates": options.OneOf("usual", "printed"),
    }
    yield Subject("metrics.reco_null", _without_nan(metrics.reco_null), good, takes, mates)
    any_shape = Values(None, ("float", "integer"), finite=False, tied=False, empty=True)
    spread = {("agreeing", label): V for label in ("NaN", "infinity", "minus infinity")} | {
        ("disagreeing", label): V for label in ("NaN", "infinity", "minus infinity")
    }
    yield Subject(
        "metrics.mege", metrics.mege, {"agreeing": ONE}, {"agreeing": any_shape}, other=spread
    )
    transported = {"first": SALIENCY[:3, :3, :3], "second": OTHERS[:3, :3, :3]}
    if importlib.util.find_spec("ot"):
        yield Subject(
            "metrics.wasserstein",
            metrics.wasserstein,
            transported,
            {"first": MAPS, "second": MAPS},
            {"first": ("second",)},
        )
    sets = {"agreeing": ONE, "disagreeing": ONE[::-1] + 1, "rates": "usual"}
    takes = {
        "agreeing": any_shape,
        "disagreeing": any_shape,
        "rates": options.OneOf("usual", "printed"),
    }
    for name in ("reco", "reco_auc"):
        yield Subject(f"metrics.{name}", getattr(metrics, name), sets, takes, other=spread)
    pair, kinds, also = (
        {"first": SALIENCY, "second": OTHERS},
        {"first": MAPS, "second": MAPS},
        {"first": ("second",)},
    )
    for name in ("dice", "l1_distance", "l2_distance"):
        own = {"share": 0.2} if name == "dice" else {}
        takes = {"share": options.Number(above=0, most=0.999)} if name == "dice" else {}
        fine = {("share", "a small number"): None, ("share", "a number that underflows"): None}
        yield Subject(
            f"metrics.{name}",
            getattr(metrics, name),
            {**pair, **own},
            {**kinds, **takes},
            also,
            other=fine,
        )


def _without_nan(function):
    """A function whose NaN and infinity are pairs that are none."""

    def call(**given):
        return jax.tree.map(
            lambda values: np.nan_to_num(np.asarray(values), posinf=2.0), function(**given)
        )

    return call


def architectures():
    """Networks of this package, and what is done with them."""
    with_key = {"name": "small", "classes": 3, "key": KEY, "size": 8, "channels": 3}
    whole = options.Whole(most=10**6)
    colours = Other(
        bad=(0.5, "abc", (0.1,), (0.1, np.nan, 0.1), [None] * 3, ["0.1"] * 3, [True] * 3, 7),
        good=((0.1, 0.2, 0.3), np.float32([0.1, 0.2, 0.3])),
        junk=("a long list", "a dict", "an object"),
    )
    good = {
        **with_key,
        "mean": None,
        "std": None,
        "normalize": True,
        "dtype": "float32",
        "widths": (2, 4),
        "hidden": 4,
    }
    names = Other(
        bad=("resnet", "", 7, ["small"], None, b"small", True),
        junk=("a dict", "an object", "a set"),
    )
    takes = {
        "name": names,
        "classes": whole,
        "channels": whole,
        "hidden": whole,
        "size": options.Whole(most=2**14),
        "key": Key(),
        "mean": colours,
        "std": colours,
        "normalize": options.Flag(),
        "dtype": options.OneOf("float32", "bfloat16"),
        "widths": Other(
            bad=((), (0,), (2.5,), "ab", 7, ("a",), (True,), (2,) * 99),
            junk=("a word", "a dict", "an object"),
        ),
    }
    more = (
        ("size", "no multiple of 4", 18, R),
        ("std", "zeros", (0, 0, 0), R),
        ("std", "below 0", (-1, 1, 1), R),
        ("bogus", "an option", 3, R),
        ("widths", "more weights than memory", (10**6, 10**6), R),
    )
    also = {"bogus": ("options",), "widths": ("options",)}
    other = {
        (argument, label): None
        for argument in ("classes", "channels", "hidden", "size")
        for label in ("NumPy's", "an array of one")
    }
    other |= {
        ("key", "a key of another generator"): None,
        ("normalize", "NumPy's"): None,
        ("normalize", "an array"): None,
        ("dtype", "a word of NumPy's"): None,
        ("key", "a raw key"): None,
    }

    def created(**given):
        return models.create(**given)(np.zeros((2, 8, 8, 3), np.float32))

    yield Subject("models.create", created, good, takes, also, more, other=other)
    model = models.create(**{**good, "widths": (2, 4)})
    images = Values(4, finite=False, tied=False, spoils=True, empty=True)
    size = (
        ("images", "another size", np.zeros((2, 4, 4, 3), np.float32), R),
        ("images", "channels", np.zeros((2, 8, 8, 1), np.float32), R),
    )
    spared = {("images", label): Expected.EITHER for label in ("no entry", "nothing in each")}
    yield Subject(
        "models.create(...)(images)",
        model,
        {"images": np.ones((2, 8, 8, 3), np.float32)},
        {"images": images},
        more=size,
        other=spared,
    )
    some = Other(
        bad=(7, "small", NETWORK, lambda x: x, models.Small),
        junk=("None", "an object", "a long list"),
    )
    yield Subject(
        "models.head_names",
        lambda model: models.head_names(model) and None,
        {"model": model},
        {"model": some},
    )
    yield Subject(
        "models.with_new_head",
        lambda **given: models.with_new_head(**given) and None,
        {"model": model, "classes": 4, "key": KEY},
        {"model": some, "classes": whole, "key": Key()},
        other={("key", label): None for label in ("a raw key", "a key of another generator")}
        | {("classes", label): None for label in ("NumPy's", "an array of one")},
    )
    yield Subject(
        "models.save",
        _saved_model,
        {"model": model, "path": "model", "overwrite": False},
        {"model": some, "path": PATHS, "overwrite": options.Flag()},
        other={("overwrite", "NumPy's"): None, ("overwrite", "an array"): None},
    )
    yield Subject(
        "models.lipschitz_bound",
        models.lipschitz_bound,
        {"model": None},
        {"model": Other(bad=(7, model, "lipschitz"), junk=("None", "an object"))},
    )
    kernel = RANDOM.normal(size=(3, 3, 2, 2)).astype(np.float32)
    bound = {("kernel", label): R for label in ("an entry less",)} | {
        ("kernel", label): None for label in ("beyond float32", "large", "huge")
    }
    yield Subject(
        "models.convolution_norm_bound",
        models.convolution_norm_bound,
        {"kernel": kernel, "size": 4},
        {"kernel": Values(4, tied=False), "size": options.Whole(most=2**14)},
        other=bound,
        more=(("kernel", "even", kernel[:2], R), ("size", "larger than memory", 2**13, R)),
    )
    for name in ("class_folders", "published_resizing", "pretrained_file"):
        function = getattr(models, name)
        weights = Other(
            bad=("resnet", "", 7, ["resnet18"], None, b"resnet18"),
            junk=("a dict", "an object", "a set"),
        )
        good = {"name": "resnet20-cifar10"}
        yield Subject(
            f"models.{name}",
            lambda function=function, **given: function(**given) and None,
            good,
            {"name": weights},
        )
    yield Subject(
        "models.published_resizing, another size",
        models.published_resizing,
        {"name": "resnet18", "size": 64},
        {"size": options.Maybe(options.Whole(most=2**14))},
    )
    yield Subject(
        "models.published_classes",
        models.published_classes,
        {"name": "resnet20-cifar10", "path": "nowhere"},
        {"path": PATHS},
    )
    yield Subject("models.load", models.load, {"name_or_path": "nowhere"}, {"name_or_path": PATHS})


PATHS = Other(
    bad=(None, 7, True, ["a"], b"a", "", "a\0b", 1.5), junk=("a dict", "an object", "a class")
)


def _saved_model(path, **given):
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        models.save(path=os.path.join(folder, path) if path == "model" else path, **given)


def pixels():
    """Arrays of images, and splits."""
    pictures = IMAGES[:, :4, :4]
    takes = Values(4, ("float", "integer"), tied=False, range=(0, 1), empty=True)
    whole = {("images", label): R for label in ("int32 values", "int64 values")}
    any_rank = {
        ("images", label): V for label in ("an axis less", "an axis more", "a column", "a number")
    }
    yield Subject(
        "data.as_float",
        data.as_float,
        {"images": pictures},
        {"images": takes},
        other=whole | {key: None for key in any_rank},
    )
    good = {"images": pictures, "size": (2, 2), "crop_fraction": 0.9, "interpolation": "bicubic"}
    sizes = Other(
        bad=(2, (2,), (2, 2, 2), (0, 2), (2, -1), (2.5, 2), "22", None, (True, 2), (10**9, 2)),
        good=([3, 3],),
        junk=("a word", "a long list", "a dict", "an object"),
    )
    yield Subject(
        "data.resize",
        data.resize,
        good,
        {
            "images": takes,
            "size": sizes,
            "crop_fraction": options.Number(above=0, most=1),
            "interpolation": options.OneOf("bicubic", "bilinear"),
        },
        other=whole
        | {
            ("size", "[3, 3]"): None,
            ("crop_fraction", "None"): V,
            ("crop_fraction", "a small number"): None,
            ("crop_fraction", "a number that underflows"): R,
        }
        | {("images", label): Expected.EITHER for label in ("no entry", "nothing in each")},
    )
    sizes = Other(
        bad=(5, (), (0,), (-1, 2), (2.5,), ("a",), (9, 9), None, (True,)),
        good=([2, 3], np.array([2, 3])),
        junk=("a word", "a dict", "an object", "a long list"),
    )
    yield Subject(
        "data.disjoint_splits",
        data.disjoint_splits,
        {"n": 10, "sizes": (3, 4), "seed": 0},
        {"n": options.Whole(), "sizes": sizes, "seed": options.Whole(0, most=2**32 - 1)},
        {"n": ("sizes",)},
        other={
            ("n", "1000000000"): None,
            ("n", "1099511627776"): None,
            ("n", "9223372036854775808"): None,
            ("n", "1000000000000000000000000000000"): None,
            ("sizes", "[2, 3]"): None,
            ("sizes", "array([2, 3])"): None,
        },
    )
    made = {
        "images": pictures,
        "labels": TARGETS.astype(np.int32),
        "classes": tuple("abcd"),
        "name": "some",
        "boxes": None,
    }
    names = Other(bad=(7, None, "abcd"), junk=("an object",))
    boxes = Other(
        bad=(
            7,
            "a",
            [7] * BATCH,
            [None] * BATCH,
            [BOXES[0]],
            [BOXES[0] + 1] * BATCH,
            [BOXES[0, :, :3]] * BATCH,
            [BOXES[0] * np.nan] * BATCH,
        ),
        junk=("a long list", "an object"),
    )
    labels = {("labels", label): None for label in ("a list", "number")}
    pictures_kind = Values(4, ("float", "integer"), finite=False)
    yield Subject(
        "data.Dataset",
        lambda **given: len(data.Dataset(**given)),
        made,
        {
            "images": pictures_kind,
            "labels": Labels(CLASSES),
            "classes": names,
            "name": WORDS,
            "boxes": boxes,
        },
        {"images": ("labels",), "labels": ("images",)},
        other=labels
        | {("images", label): None for label in ("an array of JAX's", "beyond float32")},
    )
    yield Subject(
        "data.is_image_name",
        data.is_image_name,
        {"path": pathlib.Path("a.png")},
        {"path": Other(bad=(7, None, b"a", ["a"]))},
    )
    yield Subject("data.read_image", data.read_image, {"path": "nowhere.png"}, {"path": PATHS})
    yield Subject(
        "data.load", data.load, {"name_or_path": "nowhere", "split": "all"}, {"name_or_path": PATHS}
    )


def looking_inside():
    """The taps."""
    names = Other(
        bad=("", 7, None, [], ["layer1", 7], ("layer3",), "layer1#1", "layer1#", "#0"),
        junk=tuple(
            k
            for k in (
                "a dict",
                "an object",
                "a set",
                "bytes",
                "a class",
                "a shape",
                "an array of words",
            )
        ),
    )
    images = Values(4, ("float",), finite=False, spoils=True, tied=False, empty=True)
    also = {"images": ("model",), "model": ("images",), "layer": ("layers",), "layers": ("layer",)}
    # What a model returns is not looked at here: any function has names.
    model = Other(
        bad=(7,), junk=("None", "a word", "a long list", "a dict", "an object", "a shape")
    )
    raising = tuple(
        ("model", f"raises {type(e).__name__}", functools.partial(_raise, e), R)
        for e in (KeyError("a"), RuntimeError("b"), ValueError("c\nd"), AssertionError())
    )
    anything = {
        ("images", label): Expected.EITHER
        for label in (
            "uint8 values",
            "int32 values",
            "int64 values",
            "bool values",
            "no entry",
            "nothing in each",
        )
    }
    spared = {
        ("images", label): None
        for label in (
            "float16",
            "bfloat16",
            "float128",
            "float64",
            "large",
            "huge",
            "beyond float32",
            "subnormal",
            "zeros",
        )
    }
    good = {"model": NETWORK, "images": IMAGES}
    takes = {"model": model, "images": Values(4, finite=False, tied=False)}
    yield Subject(
        "taps.names",
        taps.names,
        good,
        takes,
        also,
        (*raising, ("images", "a shape", jax.ShapeDtypeStruct(IMAGES.shape, np.float32), V)),
        other=anything | spared,
    )
    yield Subject(
        "taps.capture",
        taps.capture,
        {**good, "layer": "layer1"},
        {"model": model, "images": images, "layer": names},
        also,
        raising,
        other=anything | spared,
    )
    activation = np.asarray(taps.capture(NETWORK, IMAGES, "layer1"))
    values = Values(4, finite=False, spoils=True)
    dtypes = {
        ("value", label): R
        for label in ("float16", "bfloat16", "float128", "float64", "beyond float32")
    }
    dtypes |= {("value", label): None for label in ("large", "huge")}
    yield Subject(
        "taps.replace",
        taps.replace,
        {**good, "layer": "layer1", "value": activation},
        {"layer": names, "value": values},
        also,
        (("value", "a list of two", [activation] * 2, R),),
        other=dtypes,
    )
    several = {
        **good,
        "layer": ["layer1", "layer2"],
        "value": [activation, np.asarray(taps.capture(NETWORK, IMAGES, "layer2"))],
    }
    yield Subject(
        "taps.replace several",
        taps.replace,
        several,
        {"value": Other(bad=(activation, [activation], [activation] * 2, [activation] * 3, "ab"))},
        also,
    )
    yield Subject(
        "taps.cut",
        lambda **given: taps.cut(**given)[0],
        {**good, "layers": "layer1"},
        {"layers": names, "images": images},
        also,
        other=anything | spared,
    )


def _raise(error, images):
    raise error


def _explain(model, images, targets, *, key=None):
    return images[..., 0] * model(images).mean()


def randomised():
    """The randomization tests."""
    good = {"model": jc2i.logits(NETWORK), "images": IMAGES[:2], "targets": TARGETS[:2], "key": KEY}
    also = {"model": ("images",), "images": ("model", "targets")}
    modes = {
        "mode": options.OneOf("cascading", "independent"),
        "initializer": options.OneOf("permute", "gaussian"),
        "layers": Other(
            bad=("dense", [], ["nothing"], [7], (), ["dense", "nothing"]),
            junk=("a dict", "an object", "a set"),
        ),
    }
    chosen = {"mode": "cascading", "initializer": "permute", "layers": None}
    images = Values(4, images=True)
    subject = functools.partial(metrics.parameter_randomization, explainers.sensitivity)

    def maps(**given):
        return subject(**given).maps

    spared = {("images", label): None for label in ("float16", "bfloat16")}
    takes = {
        "images": images,
        "targets": Labels(CLASSES),
        "key": Key(),
        "explainer_key": Key(optional=True),
        **modes,
    }
    yield Subject(
        "metrics.parameter_randomization",
        maps,
        {**good, **chosen, "layers": ["weights.dense"], "explainer_key": None},
        takes,
        also,
        other=spared,
    )
    yield Subject(
        "metrics.parameter_randomization of",
        lambda **given: metrics.parameter_randomization(**given).maps,
        {**good, **chosen, "explainer": explainers.sensitivity},
        {"explainer": Explainer(), "model": Model()},
        also,
    )
    copies = {"model": good["model"], "images": good["images"], "key": KEY, **chosen}
    yield Subject(
        "metrics.randomized_models",
        lambda **given: [name for name, _ in metrics.randomized_models(**given)] and 0,
        copies,
        {"images": Values(4, images=True, tied=False), "key": Key(), **modes},
        also,
        other={("images", label): Expected.EITHER for label in ("float16", "bfloat16")},
    )

    def train(images, labels, key):
        return NETWORK

    trained = {
        "explainer": explainers.sensitivity,
        "train": train,
        "train_images": IMAGES,
        "train_labels": TARGETS,
        "images": IMAGES[:2],
        "targets": TARGETS[:2],
        "key": KEY,
    }
    takes = {
        "train": Function(),
        "train_labels": Values(1, ("integer",), tied=False),
        "images": images,
        "targets": Labels(CLASSES),
        "key": Key(),
    }
    more = (
        ("train", "returns a number", lambda images, labels, key: 7, R),
        ("model", "a number", 7, R),
        ("explainer_key", "a number", 7, R),
    )
    yield Subject(
        "metrics.label_permutation",
        lambda **given: metrics.label_permutation(**given).maps,
        trained,
        takes,
        also,
        more,
        other=spared,
    )
    randomized = metrics.RandomizedMaps(("a",), jnp.asarray(np.stack([SALIENCY, OTHERS], axis=1)))
    more = (
        ("similarity", "returns one number", lambda a, b: a.mean(), R),
        ("similarity", "returns maps", lambda a, b: a, R),
        ("similarity", "returns None", lambda a, b: None, R),
    )
    yield Subject(
        "metrics.RandomizedMaps.similarities",
        randomized.similarities,
        {"similarity": metrics.pearson},
        {"similarity": Function()},
        more=more,
    )


def composed():
    """Scores, and calls of them and of calibrators."""
    for name in ("logits", "probabilities", "log_odds", "two_classes"):
        function = getattr(jc2i, name)
        model = Function()
        good, takes = {"model": NETWORK}, {"model": model}
        if name != "two_classes":
            good["calibrator"], takes["calibrator"] = None, Function(optional=True)
        if name == "probabilities":
            good["softmax"], takes["softmax"] = "exact", options.OneOf("exact", "plain")
        yield Subject(name, function, good, takes)

    def called(model, images):
        return jc2i.probabilities(model)(images)

    more = tuple(
        ("model", f"returns {label}", Behind(NETWORK, behind), R)
        for label, behind in RETURNS.items()
    )
    junk = Other(junk=("None", "a word", "a long list", "an object", "a shape"))
    yield Subject(
        "probabilities(model)(images)",
        called,
        {"model": NETWORK, "images": IMAGES},
        {"images": junk},
        more=more,
    )
    eye, ones = np.eye(CLASSES, dtype=np.float32), np.ones(CLASSES, np.float32)
    knots = np.sort(RANDOM.random((5, CLASSES)), axis=0).astype(np.float32)
    made = {
        "Temperature": {"temperature": np.float32(2.0)},
        "VectorScaling": {"scale": ones, "bias": ones},
        "MatrixScaling": {"weight": eye, "bias": ones},
        "Dirichlet": {"weight": eye, "bias": ones},
        "Isotonic": {"thresholds": knots, "values": knots, "floor": np.float32(1e-6)},
        "Histogram": {"edges": knots[:4], "values": knots, "floor": np.float32(1e-6)},
        "Identity": {},
    }
    calls = Values(None, finite=False, tied=False, spoils=True, empty=True)
    for name, leaves in made.items():
        kind = getattr(calibrators, name)
        takes, more, other = {}, [], {}
        for leaf, value in leaves.items():
            takes[leaf] = Values(None, ("float", "integer"), tied=False)
            other |= {(leaf, label): V for label in ("a number",)}
            other[leaf, "no entry"] = other[leaf, "nothing in each"] = R
            stacked = value[None]
            more += [
                (leaf, "a word", "2", R),
                (leaf, "a list", [np.asarray(value).tolist()], R),
                (leaf, "truths", value > 0, R),
            ]
            if value.ndim == 2:
                more += [(leaf, "not square", value[:, :-1], R), (leaf, "one row", value[0], R)]
                more += [(leaf, "of more classes", np.concatenate([value, value], 1), R)]
            if leaf in ("temperature", "floor", "thresholds", "edges") or (leaf, name) == (
                "values",
                "Isotonic",
            ):
                other |= {
                    (leaf, "zeros"): R if value.ndim == 0 else V,
                    (leaf, "subnormal"): Expected.EITHER,
                }
            if leaf in ("temperature", "floor"):
                more += [
                    (leaf, repr(bad), bad, R) for bad in (0, -1.0, np.nan, np.inf, True, None, 1j)
                ]
            if leaf == "floor":
                other |= {(leaf, label): R for label in ("large", "huge", "float8_e5m2")}
            if leaf in ("thresholds", "edges") or (leaf, name) == ("values", "Isotonic"):
                more += [(leaf, "falling", value[::-1], R)]
            if name in ("Isotonic", "Histogram") and leaf != "floor":
                other |= {(leaf, "large"): R, (leaf, "huge"): R}
            if (leaf, name) == ("values", "Histogram"):
                more += [(leaf, "below 0", -value, R)]
            del stacked
        mates = {leaf: tuple(leaves) for leaf in leaves}
        yield Subject(
            f"calibrators.{name}",
            lambda kind=kind, **leaves: jax.tree.leaves(kind(**leaves)),
            leaves,
            takes,
            mates,
            tuple(more),
            other=other,
        )
        wrong = (
            ()
            if name in ("Temperature", "Identity")
            else (
                ("logits", "of other classes", LOGITS[:, :3], R),
                ("logits", "one class", LOGITS[:, :1], R),
            )
        )
        loud = {("logits", "minus infinity"): Expected.SHAPE}
        yield Subject(
            f"calibrators.{name}(...)(logits)",
            kind(**leaves),
            {"logits": LOGITS},
            {"logits": calls},
            more=wrong,
            other=loud,
        )

    def saved(calibrator):
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            calibrators.save(calibrator, f"{folder}/file.npz")

    class Temperature:
        temperature = 2.0

    yield Subject(
        "calibrators.save",
        saved,
        {"calibrator": calibrators.Temperature(2.0)},
        {"calibrator": Other(bad=(7, calibrators.Temperature, Temperature(), jnp.divide))},
    )


def over_devices():
    """What runs over devices and data sets."""
    devices = jax.devices()
    mesh = parallel.mesh(devices[:2])
    other = jax.make_mesh(
        (2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices[:2]
    )
    grid = jax.make_mesh(
        (2, 2), ("batch", "x"), axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=devices[:4]
    )
    meshes = Other(
        bad=(7, True, devices, other, grid, "cpu"),
        junk=("a word", "a long list", "a dict", "an object"),
    )
    kind = Other(
        bad=([], (), [0], ["cpu"], devices[0], [devices[0]] * 2, 2, True, "cpu", np.arange(2)),
        good=(devices[:1], tuple(devices[:3]), np.array(devices[:2])),
        junk=("a word", "a long list", "a dict", "an object"),
    )
    yield Subject(
        "parallel.mesh",
        lambda devices: parallel.mesh(devices).size and None,
        {"devices": devices[:2]},
        {"devices": kind},
    )
    arrays = Other(
        bad=(
            7,
            "a",
            IMAGES[:3],
            IMAGES[:0],
            np.float32(1),
            np.full(2, None),
            np.full(2, "a"),
            {"a": IMAGES, "b": 1},
            [IMAGES, IMAGES[:3]],
            np.full(2, 2**40),
            np.full(2, 1e300),
        ),
        junk=("a word", "an object", "a class", "bytes"),
    )
    yield Subject(
        "parallel.shard",
        parallel.shard,
        {"arrays": IMAGES, "mesh": mesh},
        {"arrays": arrays, "mesh": meshes},
        more=(("mesh", "None", None, R),),
    )
    yield Subject(
        "parallel.replicate",
        parallel.replicate,
        {"arrays": {"a": IMAGES}, "mesh": mesh},
        {"mesh": meshes},
        more=(
            ("mesh", "None", None, R),
            ("arrays", "words", {"a": IMAGES, "b": "word", "c": np.full(2, "a"), "d": None}, V),
            ("arrays", "half", {"a": jnp.asarray(IMAGES, jnp.bfloat16)}, V),
        ),
    )
    yield Subject(
        "parallel.on_each_device",
        parallel.on_each_device,
        {"function": lambda model, images: images},
        {"function": Function()},
    )

    class Indexed:
        def __init__(self, gives, length=5):
            self.gives, self.length = gives, length

        def __len__(self):
            return self.length

        def __getitem__(self, index):
            return self.gives(index)

    small = np.arange(5.0, dtype=np.float32)
    good = {
        "function": lambda x: 2 * x,
        "dataset": (small,),
        "batch_size": 2,
        "mesh": None,
        "progress": False,
        "watched": False,
        "resume": None,
        "tag": "",
    }
    keyed = {**good, "function": lambda x, keys: 2 * x, "key": KEY}
    dataset = Other(
        bad=(
            small.tolist(),
            (),
            (small, small[:3]),
            (small, [1.0]),
            small[:0],
            np.float32(1),
            (np.float32(1),),
            range(5),
            "abcde",
            {"a": small},
            7,
            [small],
            Indexed(lambda index: small[index]),
            Indexed(lambda index: (small,)),
            Indexed(lambda index: ()),
            Indexed(lambda index: None),
            Indexed(lambda index: ("a",)),
            Indexed(lambda index: small[index], 0),
        ),
        good=(
            small,
            (small.astype(np.float64),),
            Indexed(lambda index: (small[index],)),
            Indexed(lambda index: [small[index]]),
        ),
        junk=("None", "an object", "a set", "a class", "a shape"),
    )
    more = tuple(
        ("function", f"returns {label}", function, R)
        for label, function in {
            "a number": lambda x: 7.0,
            "fewer": lambda x: x[:-1],
            "more": lambda x: np.concatenate([x, x]),
            "the mean": lambda x: x.mean(),
            "words": lambda x: np.full(len(x), "a"),
            "objects": lambda x: np.full(len(x), None),
            "a list of them": lambda x: [x, x[:1]],
        }.items()
    )
    takes = {
        "function": Function(),
        "dataset": dataset,
        "batch_size": options.Whole(most=2**31 - 1),
        "mesh": meshes,
        "watched": options.Flag(),
        "progress": Other(bad=(None, 7, 1.0, [True]), junk=("a long list", "an object")),
        "resume": Other(bad=(7, True, ["a"], b"a"), junk=("a long list", "an object")),
        "tag": WORDS,
    }
    yield Subject("parallel.map_batches", parallel.map_batches, good, takes, more=more)
    yield Subject(
        "parallel.map_batches with a key",
        parallel.map_batches,
        keyed,
        {"key": Key(optional=True)},
        other={("key", "None"): None},
    )
    yield Subject(
        "parallel.digest",
        lambda value: parallel.digest(value) and None,
        {"value": IMAGES},
        {
            "value": Other(
                good=(None, 7, "a", {"a": IMAGES}, np.full(2, None), IMAGES.astype(complex)),
                junk=(),
            )
        },
    )


def drawn():
    """The figures, which are drawn: what matplotlib would say comes then."""

    def rendered(function, **given):
        figure = function(**given)
        figure.draw_without_rendering()
        return None

    pictures = Values(4, ("float", "integer"), images=False, tied=True, range=(0, 1))
    large = {("images", label): None for label in ("int32 values", "int64 values")}
    maps = Other(
        bad=(
            [SALIENCY],
            SALIENCY,
            {7: SALIENCY},
            {"a": SALIENCY[:3]},
            {"a": None},
            {"a": "word"},
            {"a": SALIENCY[0]},
            {"a": SALIENCY.astype(complex)},
            {"a": SALIENCY[:, :0]},
            {"a": np.full(SALIENCY.shape, None)},
            {"a": SALIENCY.tolist()},
        ),
        good=(
            {},
            {"a": SALIENCY > 0},
            {"a": np.full_like(SALIENCY, np.nan)},
            {"a": SALIENCY[:, :2, :2]},
            {"a": np.full_like(SALIENCY, np.inf)},
        ),
    )
    titles = Other(
        bad=("abcdefgh", ["a"], [7] * BATCH, [None] * BATCH, 7),
        junk=("a long list", "a dict", "an object"),
    )
    yield Subject(
        "plots.saliency_grid",
        functools.partial(rendered, plots.saliency_grid),
        {"images": IMAGES, "maps": {"a": SALIENCY}, "titles": None},
        {"images": pictures, "maps": maps, "titles": titles},
        {"images": ("maps",)},
        other=large,
    )
    overlay = {"image": IMAGES[0], "saliency_map": SALIENCY[0], "alpha": 0.5, "title": ""}
    takes = {
        "image": Values(3, ("float", "integer"), tied=False, range=(0, 1)),
        "saliency_map": Values(2, MAPS.of, finite=False, tied=False),
        "alpha": options.Number(least=0, most=1),
        "title": WORDS,
    }
    yield Subject(
        "plots.saliency_overlay",
        functools.partial(rendered, plots.saliency_overlay),
        overlay,
        takes,
        other={
            **{("image", label): None for label in ("int32 values", "int64 values")},
            ("saliency_map", "beyond float32"): V,
        },
    )
    line = np.linspace(0, 1, 5)

    def curves(wrap):
        return Other(
            bad=tuple(
                wrap(curve)
                for curve in (
                    None,
                    7,
                    "abc",
                    line,
                    [line],
                    [line] * 2,
                    [line, line, line[:3]],
                    [line, line, "a"],
                    [line, line, None],
                    [[], [], []],
                    [line[:, None]] * 3,
                    [line.astype(complex)] * 3,
                    [np.full(5, None)] * 3,
                    [np.full(5, "a")] * 3,
                )
            )
            + (None, 7, [line], line, "ab", {7: wrap([line] * 3)}),
            good=(
                wrap([line.tolist()] * 3),
                wrap([np.full(5, np.nan)] * 3),
                wrap([line.astype(np.float16)] * 3),
            ),
        )

    yield Subject(
        "plots.reliability_diagram",
        functools.partial(rendered, plots.reliability_diagram),
        {"curves": {"a": [line] * 3}, "expected_calibration_errors": None},
        {
            "curves": curves(lambda c: {"a": c}),
            "expected_calibration_errors": Other(
                bad=(7, "a", [0.1], {"a": "b"}, {"a": None}, {7: 0.1}),
                good=({"a": 0.1}, {"b": 0.1}, {}),
                junk=("a word", "an object"),
            ),
        },
        more=(
            ("curves", "negative counts", {"a": [line, line, -line]}, R),
            ("curves", "four parts", {"a": [line] * 4}, R),
        ),
        other={("curves", "{'a': [array([nan, nan, nan, nan, nan]), a"[:40]): R},
    )
    lines = {"curves": {"a": {"b": [line] * 3}}, "removed": None, "ylabel": "y"}
    yield Subject(
        "plots.deletion_curves",
        functools.partial(rendered, plots.deletion_curves),
        lines,
        {
            "curves": curves(lambda c: {"a": {"b": c}}),
            "removed": Other(
                bad=(7, "a", line[:3], line[:, None], [None] * 5),
                good=(line * 100,),
                junk=("a word", "a dict", "an object"),
            ),
            "ylabel": WORDS,
        },
    )
    samples = {
        "values": {"a": {"b": line, "c": line}, "d": {"b": line, "c": line}},
        "ylabel": "y",
        "kind": "box",
        "logarithmic": False,
    }
    wrong = (
        None,
        7,
        [],
        {},
        {"a": {}},
        {"a": None},
        {"a": line},
        {"a": {"b": None}},
        {"a": {"b": "c"}},
        {"a": {"b": line[:, None]}},
        {"a": {"b": line.astype(complex)}},
        {"a": {"b": line}, "d": {"c": line}},
        {7: {"b": line}},
        {"a": {7: line}},
        {"a": {"b": np.full(5, None)}},
    )
    yield Subject(
        "plots.distributions",
        functools.partial(rendered, plots.distributions),
        samples,
        {
            "values": Other(
                bad=wrong,
                good=(
                    {"a": {"b": line.tolist()}},
                    {"a": {"b": np.full(5, np.nan)}},
                    {"a": {"b": line[:0]}},
                ),
            ),
            "ylabel": WORDS,
            "kind": options.OneOf("box", "violin"),
            "logarithmic": options.Flag(),
        },
    )
    yield Subject(
        "plots.distributions, logarithmic",
        functools.partial(rendered, plots.distributions),
        {**samples, "logarithmic": True},
        {
            "values": Other(
                junk=(),
                good=(
                    {"a": {"b": line * np.nan}},
                    {"a": {"b": -line}},
                    {"a": {"b": np.append(line, np.inf)}},
                ),
            )
        },
    )
    yield Subject(
        "plots.bars",
        functools.partial(rendered, plots.bars),
        {"values": {"a": {"b": (1.0, 0.5, 2.0)}}, "ylabel": "y"},
        {
            "values": Other(
                bad=(
                    None,
                    7,
                    [],
                    {},
                    {"a": {}},
                    {"a": {"b": 7}},
                    {"a": {"b": (1.0,)}},
                    {"a": {"b": ("a", "b", "c")}},
                    {"a": {"b": (1.0, None, 2.0)}},
                    {"a": {"b": "abc"}},
                    {7: {"b": (1, 1, 1)}},
                ),
                good=(
                    {"a": {"b": (1.0, np.nan, np.nan)}},
                    {"a": {"b": (1, 2, 3, 4)}},
                    {"a": {"b": np.ones(3)}},
                ),
            ),
            "ylabel": WORDS,
        },
    )
    sweep = {
        "x": line + 1,
        "curves": {"a": [line] * 3},
        "xlabel": "x",
        "ylabel": "y",
        "marked": None,
        "logarithmic": False,
    }
    yield Subject(
        "plots.sweep",
        functools.partial(rendered, plots.sweep),
        sweep,
        {
            "x": Other(
                bad=(7, "a", [], line[:3], line[:, None], [np.nan] * 5, [None] * 5, [np.inf] * 5),
                good=(line.tolist(),),
            ),
            "curves": curves(lambda c: {"a": c}),
            "xlabel": WORDS,
            "ylabel": WORDS,
            "marked": Other(
                bad=(7, "ab", (1,), (1, 2), ("a", "b"), (np.nan, "a"), (1, "a", 2)),
                good=((1.5, "here"),),
                junk=("a word", "a long list", "a dict", "an object"),
            ),
            "logarithmic": options.Flag(),
        },
        {"x": ("curves",)},
        more=(("x", "longer", np.arange(7.0), R),),
    )
    yield Subject(
        "plots.sweep, logarithmic",
        functools.partial(rendered, plots.sweep),
        {**sweep, "logarithmic": True},
        {"x": Other(junk=(), bad=(line, -line))},
    )


def counted():
    """Intervals."""
    values = Other(
        bad=(
            "a",
            7,
            None,
            [[1.0]],
            ["a"],
            [None],
            [1j],
            ONE[:, None],
            ONE.astype(complex),
            [[1.0], [1.0, 2.0]],
            np.ma.masked_array(ONE, ONE > 0.5),
        ),
        good=(ONE.tolist(), ONE.astype(np.float16), ONE > 0.5, jnp.asarray(ONE)),
    )
    common = {
        "level": options.Number(above=0, most=0.999, takes="a number in (0, 1)"),
        "resamples": options.Whole(most=10**6),
        "seed": options.Whole(0, most=2**128),
    }
    good = {"level": 0.9, "resamples": 20, "seed": 0}
    spared = {("level", label): None for label in ("a small number", "a number that underflows")}
    spared[("seed", "below")] = None
    once = {**spared, ("values", "a long list"): None}
    yield Subject(
        "statistics.mean_interval",
        statistics.mean_interval,
        {"values": ONE, **good},
        {"values": values, **common},
        other=once,
        more=(
            ("values", "NaN among them", np.append(ONE, np.nan), Expected.SHAPE),
            ("values", "none", ONE[:0], Expected.SHAPE),
        ),
    )
    kept = tuple(label for label in JUNK if label != "a long list")
    values = Other(values.bad, values.good, kept)
    yield Subject(
        "statistics.paired_difference",
        statistics.paired_difference,
        {"before": ONE, "after": ONE[::-1], **good},
        {"before": values, "after": values, **common},
        {"before": ("after",)},
        (
            ("after", "[8, 1]", ONE[:, None], R),
            ("after", "one", ONE[:1], R),
            ("after", "fewer", ONE[1:], R),
        ),
        other=spared,
    )
    flags = Other(
        bad=("a", 7, None, [[1.0]], ["a"], [0.5], ONE, [2], ONE[:, None] > 0.5),
        good=((ONE > 0.5).tolist(), [0, 1, 1.0]),
    )
    yield Subject(
        "statistics.ratio_interval",
        statistics.ratio_interval,
        {"outcomes": ONE > 0.5, "level": 0.9},
        {"outcomes": flags, "level": common["level"]},
        other=spared,
        more=(
            ("outcomes", "NaN", np.append(ONE > 0.5, np.nan), V),
            ("outcomes", "infinity", np.append(ONE > 0.5, np.inf), R),
        ),
    )
    arrays = Other(
        bad=(ONE, [], (ONE, ONE[:3]), (ONE, 7), (ONE, "a"), (np.float32(1),), (ONE[:0],), "ab", 7),
        good=((ONE,), [ONE]),
    )
    more = tuple(
        ("function", f"returns {label}", function, R)
        for label, function in {
            "an array": lambda a: a,
            "a word": lambda a: "a",
            "nothing": lambda a: None,
        }.items()
    )
    yield Subject(
        "statistics.statistic_interval",
        statistics.statistic_interval,
        {"function": np.mean, "arrays": (ONE,), "method": "percentile", **good},
        {
            "function": Function(),
            "arrays": arrays,
            "method": options.OneOf("percentile", "basic", "BCa"),
            **common,
        },
        more=more,
        other=spared,
    )


def kept():
    """What makes methods, and statistics of layers."""

    def plain(model, images, targets):
        return images[..., 0]

    for name in ("explainer", "metric"):
        decorator = getattr(query, name)

        def made(decorator=decorator, **given):
            def own(model, images, targets, *, grey=0.5):
                return images[..., 0]

            return decorator(**given)(own) and None

        def cost(shape, options):
            return query.Cost(forward=1)

        good = {"cost": cost, "stochastic": False, "depends_on_scores": True}
        more = (
            ("grey", "a number", 0.5, R),
            ("grey", "a kind, not one of it", options.Number, R),
            ("gray", "an option there is not", options.Number(), R),
        )
        yield Subject(
            f"query.{name}",
            made,
            good,
            {"cost": Function(), "stochastic": options.Flag(), "depends_on_scores": options.Flag()},
            more=more,
        )
    yield Subject(
        "query.method_of",
        query.method_of,
        {"function": explainers.rise},
        {"function": Other(bad=(plain, 7, functools.partial(plain)))},
    )
    yield Subject(
        "query.methods",
        query.methods,
        {"namespace": explainers},
        {"namespace": Other(bad=(7, explainers.rise, "explainers"))},
    )
    yield Subject(
        "query.image_keys",
        lambda **given: jax.random.key_data(query.image_keys(**given)),
        {"key": KEY, "batch": 3},
        {"key": Key(), "batch": options.Whole()},
        {"batch": ("key",)},
        other={
            ("key", "a key of another generator"): None,
            ("batch", "NumPy's"): V,
            ("batch", "0"): None,
        },
    )
    images = Values(4, images=True, tied=False)
    good = {
        "model": NETWORK,
        "images": IMAGES,
        "layer": "layer2",
        "channel_axis": None,
        "prefix_tokens": None,
        "batch_size": 4,
    }
    takes = {
        "model": Model(),
        "images": images,
        "layer": options.Maybe(options.Text()),
        "channel_axis": options.OneOf(1, -1, None),
        "prefix_tokens": options.Maybe(options.Whole(0)),
        "batch_size": options.Whole(),
    }
    # What the model returns is not computed.
    returns = {("model", f"returns {label}"): None for label in RETURNS}
    yield Subject(
        "explainers.activation_statistics",
        explainers.activation_statistics,
        good,
        takes,
        {
            "model": ("images",),
            "images": ("model",),
            "layer": ("model",),
            "prefix_tokens": ("layer",),
        },
        (
            ("images", "one image", IMAGES[:1], R),
            ("images", "sizes", [IMAGES, IMAGES[:, :4]], R),
            ("images", "numbers", [1, 2], R),
            ("images", "nothing", [], R),
        ),
        other=returns,
    )


GROUPS = (
    fits,
    metrics_of_probabilities,
    metrics_of_maps,
    across_folds,
    architectures,
    pixels,
    looking_inside,
    randomised,
    composed,
    over_devices,
    drawn,
    counted,
    kept,
)

ELSEWHERE = {
    "data": "files and archives have a suite of their own (tests/data)",
    "models": "files of weights have a suite of their own (tests/models)",
}


def subjects():
    """Every subject by name."""
    found = {}
    for group in GROUPS:
        for subject in group():
            assert subject.name not in found, subject.name
            found[subject.name] = subject
    return found

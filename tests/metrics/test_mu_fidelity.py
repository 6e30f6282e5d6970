"""Mu-fidelity against closed forms of linear models, a plain loop and Quantus."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jc2i import metrics
from jc2i.metrics.fidelity.subsets import _cells, _drawn

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics_mu_fidelity_quantus.npz"
KEY = jax.random.key(0)
LIBRARY = {"correlation": "spearman", "draw": "bernoulli", "grid": 9, "share": 0.2}


@pytest.fixture(scope="module")
def example(linear):
    model = linear((10, 12, 2))
    images = np.random.default_rng(1).random((3, 10, 12, 2)).astype("f4")
    targets = np.array([0, 2, 1])
    products = images * np.moveaxis(np.asarray(model.weights), -1, 0)[targets]
    return model, images, targets, products.sum(axis=3)


@pytest.mark.parametrize("options", [{}, LIBRARY, {"grid": 5}, {"draw": "bernoulli"}], ids=str)
def test_coefficients_times_the_image_score_one_on_a_linear_model(example, options):
    *arguments, products = example
    got = metrics.mu_fidelity(*arguments, products, key=KEY, **options)
    np.testing.assert_allclose(got, 1, atol=2e-5)
    got = metrics.mu_fidelity(*arguments, -3 * products, key=KEY, **options)
    np.testing.assert_allclose(got, -1, atol=2e-5)


def test_another_baseline_asks_for_another_product(example):
    model, images, targets, _ = example
    weights = np.moveaxis(np.asarray(model.weights), -1, 0)[targets]
    maps = ((images - 0.7) * weights).sum(axis=3)
    got = metrics.mu_fidelity(model, images, targets, maps, key=KEY, baseline=0.7)
    np.testing.assert_allclose(got, 1, atol=2e-5)


def test_of_a_linear_model_it_is_pearsons_of_map_and_products(example):
    """The covariance of sums over random subsets of one size is a multiple of the pixels'."""
    *arguments, products = example
    noise = np.random.default_rng(2).normal(size=products.shape).astype("f4")
    for scale in (1, 1e-30, 1e30):
        maps = (products + noise / 2) * np.float32(scale)
        got = metrics.mu_fidelity(*arguments, maps, key=KEY, subsets=4000, batch_size=300)
        np.testing.assert_allclose(got, metrics.pearson(maps, products), atol=0.06)
    assert 0.3 < np.min(got) and np.max(got) < 0.95


def test_subsets_are_of_exactly_that_share():
    keys = jax.random.split(KEY, 300)
    for count, share, size in ((784, 0.15, 118), (120, 0.15, 18), (5, 0.01, 1), (7, 1.0, 7)):
        drawn = jax.vmap(lambda key, n=count, s=share: _drawn(key, n, jnp.float32(s), True))(keys)
        assert drawn.shape == (300, count) and (drawn.sum(axis=1) == size).all()
        if 0 < size < count:
            each = drawn.mean(axis=0)
            spread = np.sqrt(size / count * (1 - size / count) / 300)
            assert np.abs(each - size / count).max() < 5 * spread
            assert len(np.unique(drawn, axis=0)) > min(count, 250) - 1
    cells = np.asarray(jax.vmap(lambda key: _drawn(key, 81, jnp.float32(0.2), False))(keys))
    assert abs(cells.mean() - 0.2) < 0.01
    # The numbers of cells vary as those of Bernoulli draws do.
    assert abs(cells.sum(axis=1).var() / (81 * 0.16) - 1) < 0.3


def test_cells_are_those_of_a_nearest_neighbour_resize():
    for side, cells in ((28, 9), (32, 9), (10, 5), (9, 9), (5, 1)):
        field = np.arange(cells, dtype="f4")
        expected = jax.image.resize(field, (side,), "nearest")
        np.testing.assert_array_equal(field[_cells(side, cells)], expected)


def test_equals_a_loop_over_the_same_subsets(convnet):
    """A network that is not linear, a coarse grid, ranks; subsets drawn by each image's own key."""
    random = np.random.default_rng(3)
    images = random.random((2, 8, 9, 3)).astype("f4")
    maps, targets, model = random.random((2, 8, 9)).astype("f4"), np.array([1, 3]), convnet()
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(2))
    options = {"subsets": 40, "grid": 4, "draw": "bernoulli", "share": 0.3}
    got = {
        name: metrics.mu_fidelity(
            model, images, targets, maps, key=KEY, correlation=name, baseline=0.5, **options
        )
        for name in ("pearson", "spearman")
    }
    cells = np.minimum(np.arange(9) * 4 // 8, 3), np.arange(9) * 4 // 9
    row, column = (np.arange(8) * 2 + 1) * 4 // 16, (np.arange(9) * 2 + 1) * 4 // 18
    assert cells[0].max() == row.max() == 3
    for i in range(2):
        sums, lost = [], []
        clean = model(images[i : i + 1])[0, targets[i]]
        for k in range(40):
            drawn = _drawn(jax.random.fold_in(keys[i], k), 16, jnp.float32(0.3), False)
            removed = np.asarray(drawn).reshape(4, 4)[row[:, None], column[None]]
            sums.append(maps[i][removed].sum())
            variant = np.where(removed[..., None], np.float32(0.5), images[i])
            lost.append(float(clean - model(variant[None])[0, targets[i]]))
        np.testing.assert_allclose(got["pearson"][i], stats.pearsonr(sums, lost)[0], atol=1e-3)
        np.testing.assert_allclose(got["spearman"][i], stats.spearmanr(sums, lost)[0], atol=1e-2)


def test_agrees_with_quantus_faithfulness_correlation():
    """On grey images, as Quantus counts channels as features; both on 20,000 random subsets."""
    golden = dict(np.load(GOLDEN))

    def model(images):
        hidden = jnp.tanh(images.reshape(len(images), -1) @ golden["first"])
        return hidden @ golden["second"]

    got = metrics.mu_fidelity(
        model,
        golden["images"],
        golden["targets"],
        golden["maps"],
        key=KEY,
        subsets=20_000,
        share=float(golden["subset_size"]) / golden["maps"][0].size,
        batch_size=8000,
    )
    assert np.ptp(golden["correlation"]) > 0.3
    np.testing.assert_allclose(got, golden["correlation"], atol=0.03)


def test_constant_maps_score_zero_and_broken_ones_nan(example):
    model, images, targets, products = example
    maps = products.copy()
    maps[0], maps[1, 2, 3] = 0.3, np.inf
    got = metrics.mu_fidelity(model, images, targets, maps, key=KEY)
    assert got[0] == 0 and np.isnan(got[1]) and got[2] == pytest.approx(1, abs=1e-5)

    def blind(images):
        return jnp.stack([images[:, 0, 0, 0] * 0 + 2, images[:, 0, 0, 0]], axis=1)

    got = metrics.mu_fidelity(blind, images, np.zeros(3, int), products, key=KEY)
    np.testing.assert_array_equal(got, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, r"share: got 0.0, takes a part of the pixels in \(0, 1\]"),
        ({"share": 1.5}, "share: got 1.5"),
        ({"grid": 11}, "grid: got 11, takes at most the image's shorter side, 10 pixels"),
        ({"grid": 0}, "grid: got 0, takes a whole number above 0, or None"),
        ({"correlation": "kendall"}, "correlation: got 'kendall', takes 'pearson' or 'spearman'"),
        ({"draw": "some"}, "draw: got 'some', takes 'exact' or 'bernoulli'"),
        ({"subsets": 0}, "subsets: got 0, takes a whole number above 0"),
        ({"key": None}, "key: got None"),
    ],
)
def test_refuses_bad_input(untyped, example, options, message):
    with pytest.raises(ValueError, match=message):
        metrics.mu_fidelity(*example, **{"key": KEY, **options})

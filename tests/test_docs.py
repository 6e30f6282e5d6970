"""The pages of docs/: their code runs and gives right values, their tables are the registry's."""

from __future__ import annotations

import itertools
import re
import runpy
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jc2i
from jc2i import query

DOCS = Path(__file__).resolve().parent.parent / "docs"


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def adding(tmp_path_factory):
    """The names that the page on adding a method leaves behind, its file imported as it says."""
    folder, names = tmp_path_factory.mktemp("outside"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for code in blocks("adding_a_method.md"):
            file = re.match(r"# (\w+\.py)\n", code)
            if file:
                (folder / file[1]).write_text(code)
            else:
                exec(code, names)
        yield names
    del sys.modules["my_module"]


def scores(adding, image, target):
    return np.asarray(adding["score"](jnp.asarray(image[None])))[0, target]


@pytest.mark.parametrize("direction", ["rows", "columns"])
def test_the_explainer_of_the_page_is_what_it_says(adding, direction):
    images, targets = np.asarray(adding["images"]), adding["labels"]
    expected = np.zeros(images.shape[:3])
    side = images.shape[1]
    for i, strip in itertools.product(range(len(images)), range(3)):
        painted = images[i].copy()
        where = np.flatnonzero(np.arange(side) * 3 // side == strip)
        (painted if direction == "rows" else painted.transpose(1, 0, 2))[where] = 0.25
        fall = scores(adding, images[i], targets[i]) - scores(adding, painted, targets[i])
        (expected[i] if direction == "rows" else expected[i].T)[where] = fall
    assert np.abs(expected).max() > 0.01
    explain, options = adding["strip_occlusion"], {"strips": 3, "direction": direction}
    for batch_size in (1, 3, 32):
        maps = explain(
            adding["score"], images, targets, grey=0.25, batch_size=batch_size, **options
        )
        np.testing.assert_allclose(maps, expected, atol=1e-6)


def test_the_metric_of_the_page_is_what_it_says(adding):
    images, targets, areas = np.asarray(adding["images"]), adding["labels"], [0.1, 0.2, 0.3, 0.4]
    pixels = images.shape[1] * images.shape[2]
    maps = np.asarray(adding["maps"])
    expected = []
    for image, target, saliency, area in zip(images, targets, maps, areas, strict=True):
        kept = np.argsort(-saliency.ravel(), kind="stable")[: round(area * pixels)]
        left = np.full_like(image, 0.5).reshape(pixels, -1)
        left[kept] = image.reshape(pixels, -1)[kept]
        left = left.reshape(image.shape)
        expected.append(scores(adding, left, target) / scores(adding, image, target))
    np.testing.assert_allclose(adding["kept"], expected, rtol=1e-4)
    parts = adding["kept_score"](
        adding["score"], images, targets, maps, areas=np.float32(areas), batch_size=1
    )
    np.testing.assert_allclose(parts, expected, rtol=1e-4)


def test_what_the_page_says_the_decorator_gives(adding):
    explain, score = adding["strip_occlusion"], adding["score"]
    images, targets = adding["images"], adding["labels"]
    refusals = {
        "grey: got 2, takes a grey in [0, 1]": {"grey": 2},
        "direction: got 'up', takes 'rows' or 'columns'": {"direction": "up"},
        "strips: got 2.5, takes a whole number above 0": {"strips": 2.5},
        "strips: got 99, takes at most the": {"strips": 99},
    }
    for message, options in refusals.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            explain(score, images, targets, **options)
    compiled = query._compiled._cache_size()
    for grey in (0.1, 0.2, 0.3):
        explain(score, images, targets, grey=grey, strips=5)
    assert query._compiled._cache_size() == compiled + 1
    slopes = jc2i.metrics.lipschitz(
        explain, score, images, targets, key=jax.random.key(1), neighbours=2, strips=4
    )
    assert slopes.shape == (4,) and np.isfinite(slopes).all()
    method = query.method_of(explain)
    assert method.cost(images.shape, strips=14).forward == 15 and not method.stochastic


def test_the_page_on_models_runs():
    names = {}
    for code in blocks("models.md"):
        exec(code, names)
    network = jax.vmap(lambda image: image.mean((1, 2)))  # of one image, channels first
    np.testing.assert_allclose(
        names["batched"](lambda image: image.mean((1, 2)), names["images"]),
        network(jnp.moveaxis(names["images"], -1, 1)),
    )


def test_tables_are_those_of_the_registry():
    for name, text in runpy.run_path(str(DOCS / "make_tables.py"))["pages"]().items():
        assert (DOCS / name).read_text() == text, f"run `python docs/make_tables.py` ({name})"


def test_links_between_pages_lead_somewhere():
    root = DOCS.parent
    for page in (root / "README.md", root / "results/README.md", *DOCS.glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page}: {link}"

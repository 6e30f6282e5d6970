from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jc2i import data
from jc2i.data.splits import half, stored_splits

sizes_within_n = st.lists(st.integers(1, 40), min_size=1, max_size=5).flatmap(
    lambda sizes: st.tuples(st.just(sizes), st.integers(sum(sizes), sum(sizes) + 50))
)


@given(sizes_within_n, st.integers(0, 2**32 - 1))
def test_pieces_are_disjoint_and_of_the_sizes_asked_for(sizes_and_n, seed):
    sizes, n = sizes_and_n
    pieces = data.disjoint_splits(n, sizes, seed=seed)
    assert [len(piece) for piece in pieces] == sizes
    together = np.concatenate(pieces)
    assert len(set(together.tolist())) == len(together)
    assert set(together.tolist()) <= set(range(n))
    again = data.disjoint_splits(n, sizes, seed=seed)
    assert all(np.array_equal(a, b) for a, b in zip(pieces, again, strict=True))


def test_seed_chooses_the_permutation():
    # NumPy's frozen stream: the literal must never change, or published splits would.
    assert np.array_equal(
        np.concatenate(data.disjoint_splits(6, (4, 2), seed=0)), [5, 2, 1, 3, 0, 4]
    )
    one, other = (data.disjoint_splits(50, (50,), seed=seed)[0] for seed in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("sizes", [(), (0, 3), (-1,), (6, 5)])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(ValueError, match=r"sizes: got .*, takes .*positive sizes of at most 10"):
        data.disjoint_splits(10, sizes, seed=0)


@pytest.mark.parametrize(
    ("split", "available", "stored"),
    [
        ("all", ["test", "train", "validation"], ["train", "validation", "test"]),
        ("all", [None], [None]),
        ("calibration", ["train", "validation", "test"], ["test"]),
        ("evaluation", ["train", "validation"], ["validation"]),
        ("evaluation", [None], [None]),
        ("validation", ["train", "validation"], ["validation"]),
    ],
)
def test_stored_splits(split, available, stored):
    assert stored_splits(split, available, "it") == stored


@pytest.mark.parametrize(
    ("split", "available", "options"),
    [
        ("test", ["train"], "'train', 'all'"),
        ("calibration", ["train"], "'train', 'all'"),
        ("train", [None], "'all', 'calibration', 'evaluation'"),
    ],
)
def test_split_that_is_not_stored_is_refused(split, available, options):
    with pytest.raises(ValueError) as refusal:
        stored_splits(split, available, "it")
    assert str(refusal.value) == f"split: got '{split}', takes {options} (what it has)"


@given(st.integers(2, 200))
def test_halves_divide_the_held_out_images(n):
    calibration, evaluation = half(n, "calibration"), half(n, "evaluation")
    assert sorted([*calibration, *evaluation]) == list(range(n))
    assert 0 <= len(evaluation) - len(calibration) <= 1


def test_one_held_out_image_cannot_be_divided():
    with pytest.raises(ValueError, match="split: got 'calibration' of 1 image, takes at least 2"):
        half(1, "calibration")

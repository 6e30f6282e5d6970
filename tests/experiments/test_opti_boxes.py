from __future__ import annotations

import numpy as np

from experiments.opti.boxes import box_maps, restricted

# The left half, and the top quarter of the right half, of 4 x 4 pixels; the whole; none.
BOXES = [
    np.float32([[0, 0, 1, 0.5], [0, 0.5, 0.25, 1]]),
    np.float32([[0, 0, 1, 1]]),
    np.zeros((0, 4), "f4"),
]
INSIDE = np.float32([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]])


def test_maps_of_boxes_are_the_boxes_and_the_rest():
    maps = box_maps(BOXES, 4, 4)
    for name, expected in (("box", INSIDE), ("complement", 1 - INSIDE)):
        np.testing.assert_array_equal(maps[name][0], expected)
        np.testing.assert_array_equal(maps[name][1], np.full((4, 4), name == "box"))
        assert np.isnan(maps[name][2]).all()


def test_a_maps_parts_are_its_own_values_and_add_up():
    values = np.arange(48, dtype="f4").reshape(3, 4, 4) - 8
    parts = restricted(values, BOXES)
    whole = np.arange(16).reshape(4, 4) / 15
    np.testing.assert_allclose(parts["map"][0], whole, rtol=1e-6)
    np.testing.assert_allclose(parts["inside"][0], whole * INSIDE, rtol=1e-6)
    # The largest value outside stays what it was.
    np.testing.assert_allclose(parts["outside"][0], whole * (1 - INSIDE), rtol=1e-6)
    np.testing.assert_allclose(parts["inside"][1], parts["map"][1])
    assert all(np.isnan(part[2]).all() for part in parts.values())

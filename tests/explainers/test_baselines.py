from __future__ import annotations

import numpy as np

from jc2i import explainers


def test_fake_cam_leaves_out_the_top_left_pixel(linear):
    images = np.random.default_rng(0).random((3, 8, 8, 2)).astype(np.float32)
    expected = np.ones((3, 8, 8))
    expected[:, 0, 0] = 0
    maps = explainers.fake_cam(linear(), images, np.array([0, 2, 1]))
    np.testing.assert_array_equal(maps, expected)

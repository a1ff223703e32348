"""Sizes and pixels of the network's input: equal to detectron2's ResizeShortestEdge."""

import numpy as np
import pytest
from detectron2.data.transforms import ResizeShortestEdge

from panoptic_fusion.errors import UserError
from panoptic_fusion.runtime.resize_image import ResizeRule


def test_equals_detectron2():
    rng = np.random.default_rng(0)
    for _ in range(60):
        image = rng.integers(0, 256, (*rng.integers(8, 150, 2), 3), dtype=np.uint8)
        min_size, max_size = int(rng.choice([0, 20, 64, 100])), int(rng.integers(64, 200))
        expected = ResizeShortestEdge([min_size, min_size], max_size).get_transform(image).apply_image(image)
        assert np.array_equal(ResizeRule(min_size, max_size).resize(image), expected)


def test_sizes_equal_detectron2():
    rng = np.random.default_rng(1)
    for height, width, min_size, max_size in rng.integers(1, 3000, (2000, 4)).tolist():
        expected = ResizeShortestEdge.get_output_shape(height, width, min_size, max_size)
        assert ResizeRule(min_size, max_size).output_size((height, width)) == expected


def test_by_hand():
    assert ResizeRule(800, 1333).output_size((480, 640)) == (800, 1067)
    assert ResizeRule(800, 1333).output_size((200, 1000)) == (267, 1333)


def test_a_model_for_one_size_refuses_others():
    rule = ResizeRule(0, 0, (48, 64))
    assert rule.output_size((48, 64)) == (48, 64)
    with pytest.raises(UserError, match="64x50 .*exported for 64x48 only"):
        rule.output_size((50, 64))

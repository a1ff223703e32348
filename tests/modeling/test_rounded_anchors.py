"""Anchors of rounded sizes against the published models' (facts, section 1.3)."""

import pytest
import torch
from detectron2.modeling.anchor_generator import ANCHOR_GENERATOR_REGISTRY

from panoptic_fusion.errors import ConfigError

PUBLISHED = {  # stride: (width, height) of ratios 0.5, 1, 2
    4: [(48, 24), (32, 32), (24, 48)],
    8: [(88, 48), (64, 64), (48, 96)],
    16: [(184, 96), (128, 128), (88, 176)],
    32: [(360, 176), (256, 256), (184, 368)],
    64: [(728, 368), (512, 512), (360, 720)],
}


@pytest.mark.parametrize("stride", PUBLISHED)
def test_published_sizes_around_the_middle_of_the_stride(stride):
    generator = ANCHOR_GENERATOR_REGISTRY.get("RoundedAnchorGenerator")(
        sizes=[[8 * stride]], aspect_ratios=[[0.5, 1.0, 2.0]], strides=[stride], offset=0.5
    )
    anchors = generator([torch.zeros(1, 1, 2, 3)])[0].tensor.view(2, 3, 3, 4)
    sizes = (anchors[1, 2, :, 2:] - anchors[1, 2, :, :2]).tolist()
    assert [tuple(x) for x in sizes] == PUBLISHED[stride]
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    assert centres[1, 2, 0].tolist() == [2.5 * stride, 1.5 * stride] and (centres == centres[:, :, :1]).all()


@pytest.mark.parametrize(
    ("size", "text"),
    [(36, "SIZES has 36.*multiples of 8"), (0, "SIZES has 0"), (8.5, "SIZES has 8.5"), (8, "a side is 0")],
)
def test_sizes_that_cannot_be_rounded(size, text):
    """8 at ratio 0.5: 11.3 x 5.7 pixels, of which 8 x 0 would be left."""
    with pytest.raises(ConfigError, match=text):
        ANCHOR_GENERATOR_REGISTRY.get("RoundedAnchorGenerator")(
            sizes=[[32, size]], aspect_ratios=[[0.5, 1.0]], strides=[4], offset=0.5
        )

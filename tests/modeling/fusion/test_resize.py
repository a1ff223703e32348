"""Labels at another size, and what fusions do with them: at which size the area limit of stuff counts."""

import math
import random

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.modeling.fusion import PANOPTIC_FUSION_REGISTRY, SemSegLogits
from panoptic_fusion.modeling.fusion.resize import resize_labels, resize_panoptic
from panoptic_fusion.resampling import shortest_edge_scale
from tests.helpers.fusions import upsnet_fusion


def test_equals_the_rule_pixel_by_pixel():
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        h, w, height, width = torch.randint(1, 12, (4,), generator=generator).tolist()
        labels = torch.randint(0, 1000, (h, w), generator=generator, dtype=torch.int16)
        resized = resize_labels(labels, (height, width))
        expected = [[int(labels[y * h // height, x * w // width]) for x in range(width)] for y in range(height)]
        assert resized.tolist() == expected and resized.dtype == torch.int16
        assert resize_labels(labels, None) is labels and resize_labels(labels, (h, w)) is labels


def published_scale(height, width, short, longest):
    """UPSNet's facts, section 1.1, in the float32 of section 4."""
    scale = short / min(height, width)
    if round(scale * max(height, width)) > longest:
        scale = longest / max(height, width)
    return np.float32(scale)


def test_the_scale_factor_never_reads_past_the_end():
    """11 pixels at 0.4 are 4.4, so 4 labels; the last of the 11 would be read from 4.0, the fifth."""
    labels = torch.arange(4).view(4, 1).expand(4, 4)
    resized = resize_labels(labels, (11, 11), 0.4)
    assert resized[:, 0].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3]
    assert torch.equal(resize_labels(labels.T, (11, 11), 0.4), resized.T)


def test_the_source_pixel_by_the_scale_factor():
    """src = floor(dst * float32(scale)); it is another pixel than by the ratio of the sizes."""
    rng, different, capped = random.Random(0), 0, 0
    for _ in range(60):
        height, width = rng.randint(30, 90), rng.randint(30, 180)
        scale = published_scale(height, width, 80, 133)
        capped += float(scale) * min(height, width) < 79
        h, w = (math.floor(side * float(scale) + 0.5) for side in (height, width))
        labels = torch.arange(h * w).view(h, w)
        assert shortest_edge_scale((height, width), 80, 133) == float(scale)
        resized = resize_labels(labels, (height, width), float(scale))
        rows = [min(math.floor(y * float(scale)), h - 1) for y in range(height)]
        cols = [min(math.floor(x * float(scale)), w - 1) for x in range(width)]
        assert torch.equal(resized, labels[rows][:, cols])
        different += not torch.equal(resized, resize_labels(labels, (height, width)))
    assert capped > 10 and different > 30


def test_the_cap_counts_after_rounding():
    """60 x 100 to 80: 133.33 is not more than 133; by the long side the factor would be 1.33."""
    assert shortest_edge_scale((60, 100), 80, 133) == float(np.float32(80 / 60))
    assert shortest_edge_scale((60, 101), 80, 133) == float(np.float32(133 / 101))


def test_another_input_than_the_sizes_give_is_resized_by_the_ratio():
    labels = torch.arange(50 * 70).view(50, 70)
    assert torch.equal(resize_labels(labels, (30, 90), 1.5), resize_labels(labels, (30, 90)))


def test_upsnet_resizes_by_the_factor_if_boxes_are_inclusive():
    """One stuff class in a single column of the input: which columns of the output it fills."""
    height, width, sizes = 43, 64, (80, 133)
    scale = published_scale(height, width, *sizes)
    h, w = round(height * scale), round(width * scale)
    differ = 0
    for column in range(w):
        logits = torch.zeros(4, h, w)
        logits[0] = 1
        logits[1, :, column] = 2
        fused = {}
        for test_sizes in (None, sizes):
            fusion = upsnet_fusion(test_sizes=test_sizes)
            nothing = Instances((h, w), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
            nothing.pred_classes, nothing.pred_mask_logits = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 28, 28)
            panoptic_seg, info = fusion(SemSegLogits(logits, (h, w), (h, w), (h, w)), nothing, (height, width))
            classes = {x["id"]: x["category_id"] for x in info}
            fused[test_sizes] = [x for x in range(width) if classes[int(panoptic_seg[0, x])] == 1]
        assert fused[sizes] == [x for x in range(width) if math.floor(x * float(scale)) == column]
        assert fused[None] == [x for x in range(width) if x * w // width == column]
        differ += fused[None] != fused[sizes]
    assert differ > 0


def test_resize_panoptic_drops_what_vanishes():
    panoptic_seg = torch.ones(4, 4, dtype=torch.int32)
    panoptic_seg[1, 1] = 2  # nearest resampling to 2 x 2 reads rows and columns 0 and 2
    info = [{"id": 1, "area": 15}, {"id": 2, "area": 1}]
    resized, kept = resize_panoptic(panoptic_seg, info, (2, 2))
    assert resized.tolist() == [[1, 1], [1, 1]] and kept == [{"id": 1, "area": 4}]
    assert info == [{"id": 1, "area": 15}, {"id": 2, "area": 1}]


@pytest.mark.parametrize("name", sorted(name for name, _ in PANOPTIC_FUSION_REGISTRY))
@pytest.mark.parametrize(("size", "limit", "kept", "kept_at_input"), [(10, 9, 1, 1), (10, 20, 0, 1), (40, 100, 1, 0)])
def test_the_area_limit_counts_at_the_size_of_the_output(name, size, limit, kept, kept_at_input):
    """Stuff 1 has 6 x 6 = 36 of the 20 x 20 pixels at which is fused, and 9 of 10 x 10 or 144 of 40 x 40."""
    logits = torch.zeros(4, 20, 20)
    logits[0] = 1
    logits[1, 4:10, 4:10] = 2
    space = LabelSpace.from_categories(
        [{"id": i + 1, "name": f"c{i}", "isthing": int(i < 2), "color": [i, i, i]} for i in range(4)]
    )
    fusion = PANOPTIC_FUSION_REGISTRY.get(name)(
        label_space=space, ontology="full", instances_confidence_thresh=0.5, overlap_thresh=0.5, stuff_area_limit=limit
    )
    nobody = Instances((20, 20), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    nobody.pred_classes, nobody.pred_mask_logits = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 28, 28)
    with torch.no_grad():
        panoptic, segments = fusion(SemSegLogits(logits, *[(20, 20)] * 3), nobody, (size, size))
    assert panoptic.shape == (size, size)
    area = 36 * size * size // 400
    found = {x["category_id"]: x["area"] for x in segments}
    if kept_at_input if name == "SeamlessFusion" else kept:
        assert found == {0: size * size - area, 1: area}
    else:
        assert found == {0: size * size - area} and (panoptic == 0).sum() == area
    counts = panoptic.flatten().bincount(minlength=3).tolist()
    assert all(x["area"] == counts[x["id"]] for x in segments)

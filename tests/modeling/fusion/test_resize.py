"""Labels at another size, and what fusions do with them: at which size the area limit of stuff counts."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.modeling.fusion import PANOPTIC_FUSION_REGISTRY, SemSegLogits
from panoptic_fusion.modeling.fusion.resize import resize_labels, resize_panoptic


def test_equals_the_rule_pixel_by_pixel():
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        h, w, height, width = torch.randint(1, 12, (4,), generator=generator).tolist()
        labels = torch.randint(0, 1000, (h, w), generator=generator, dtype=torch.int16)
        resized = resize_labels(labels, (height, width))
        expected = [[int(labels[y * h // height, x * w // width]) for x in range(width)] for y in range(height)]
        assert resized.tolist() == expected and resized.dtype == torch.int16
        assert resize_labels(labels, None) is labels and resize_labels(labels, (h, w)) is labels


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

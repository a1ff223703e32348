"""The painting routine: against loops over pixels, for several accept decisions and orders."""

import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from panoptic_fusion.modeling.fusion import flat_paint
from panoptic_fusion.modeling.fusion.mask_crops import BitmaskCrops
from panoptic_fusion.modeling.fusion.paint import Painted, assemble, paint


def crops_of(masks):
    """Crops with tight boxes of (R, H, W) bool masks; an empty mask gets an arbitrary box."""
    boxes = []
    for mask in masks:
        ys, xs = mask.nonzero(as_tuple=True)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(ys) else [1, 1, 3, 3])
    return BitmaskCrops(masks, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))


def random_masks(rng, size, num):
    """Rectangles with holes, of any size, some empty, some over the whole image."""
    masks = torch.zeros(num, *size, dtype=torch.bool)
    for mask in masks:
        y0, x0 = rng.randrange(size[0]), rng.randrange(size[1])
        mask[y0 : y0 + rng.randint(0, size[0]), x0 : x0 + rng.randint(0, size[1])] = True
        if rng.random() < 0.5:
            mask &= torch.tensor([[rng.random() < 0.7 for _ in range(size[1])] for _ in range(size[0])])
    return masks


def slow_paint(masks, order, accept):
    """`accept(index, area, overlap)` on Python numbers. Canvas of instance rows, -1 where free."""
    height, width = masks.shape[1:]
    canvas = [[-1] * width for _ in range(height)]
    pixels = masks.tolist()
    for index in order:
        inside = [(y, x) for y in range(height) for x in range(width) if pixels[index][y][x]]
        free = [(y, x) for y, x in inside if canvas[y][x] < 0]
        if inside and accept(index, len(inside), len(inside) - len(free)):
            for y, x in free:
                canvas[y][x] = index
    return canvas


def slow_assemble(canvas, labels, order, num_stuff, limit):
    """Map and (isthing, category or row, area) of the segments, by loops."""
    height, width = len(canvas), len(canvas[0])
    pixels = [(y, x) for y in range(height) for x in range(width)]
    segments = []
    for index in order:
        segments.append((True, index, [(y, x) for y, x in pixels if canvas[y][x] == index]))
    for label in range(num_stuff):
        inside = [(y, x) for y, x in pixels if canvas[y][x] < 0 and labels[y][x] == label]
        if len(inside) >= limit:
            segments.append((False, label, inside))
    segments = [segment for segment in segments if segment[2]]
    result = torch.zeros(height, width, dtype=torch.int32)
    for number, (_, _, inside) in enumerate(segments, start=1):
        for y, x in inside:
            result[y, x] = number
    return result, [(isthing, name, len(inside)) for isthing, name, inside in segments]


RULES = {
    "all": (lambda c: torch.tensor(True), lambda i, area, overlap: True),
    "none": (lambda c: torch.tensor(False), lambda i, area, overlap: False),
    "half": (lambda c: c.overlap * 2 <= c.area, lambda i, area, overlap: overlap * 2 <= area),
    "even rows": (lambda c: c.overlap + (c.index % 2) == 0, lambda i, area, overlap: overlap + i % 2 == 0),
}


@pytest.mark.parametrize("flat", [False, True], ids=["loop", "flat"])
@pytest.mark.parametrize("rule", RULES)
def test_equals_loops_over_pixels(rule, flat, monkeypatch):
    monkeypatch.setattr(flat_paint, "FEW", 0)
    fast, slow = RULES[rule]
    rng = random.Random(rule)
    for _ in range(80):
        size, num = (rng.randint(1, 14), rng.randint(1, 14)), rng.choice([0, 1, 2, 8])
        masks = random_masks(rng, size, num)
        order = rng.sample(range(num), rng.randint(0, num))
        num_stuff, limit = rng.randint(0, 4), rng.choice([0, 1, 5, 30])
        labels = torch.tensor([[rng.choice([0, 1, 2, 3, 5, 255]) for _ in range(size[1])] for _ in range(size[0])])
        scores, classes = [rng.random() for _ in range(num)], [rng.randrange(7) for _ in range(num)]

        painted = paint(crops_of(masks), order, fast, flat=flat)
        panoptic_map, segments_info = assemble(
            painted, labels, scores=scores, classes=classes, num_stuff=num_stuff, stuff_area_limit=limit
        )

        canvas = slow_paint(masks, order, slow)
        rows = [[painted.order[p - 1] if p else -1 for p in line] for line in painted.canvas.tolist()]
        assert rows == canvas
        expected_map, expected = slow_assemble(canvas, labels.tolist(), order, num_stuff, limit)
        assert panoptic_map.dtype == torch.int32
        assert torch.equal(panoptic_map, expected_map)
        assert [s["id"] for s in segments_info] == list(range(1, len(expected) + 1))
        assert [(s["isthing"], s.get("instance_id", s["category_id"]), s["area"]) for s in segments_info] == expected
        for s in segments_info:
            if s["isthing"]:
                row = s["instance_id"]
                assert (s["score"], s["category_id"]) == (scores[row], classes[row])
            else:
                assert set(s) == {"id", "isthing", "category_id", "area"}


def test_by_hand():
    masks = torch.zeros(2, 3, 4, dtype=torch.bool)
    masks[0, :2, :2] = True
    masks[1, 1, 1:] = True
    labels = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [2, 2, 1, 1]])
    painted = paint(crops_of(masks), [1, 0], lambda c: torch.tensor(True))
    assert painted.canvas.tolist() == [[2, 2, 0, 0], [2, 1, 1, 1], [0, 0, 0, 0]]
    kwargs = {"scores": [0.25, 0.5], "classes": [3, 4], "num_stuff": 2}
    panoptic_map, segments_info = assemble(painted, labels, stuff_area_limit=2, **kwargs)
    assert panoptic_map.tolist() == [[2, 2, 3, 3], [2, 1, 1, 1], [0, 0, 3, 3]]
    assert segments_info == [
        {"id": 1, "isthing": True, "category_id": 4, "score": 0.5, "instance_id": 1, "area": 3},
        {"id": 2, "isthing": True, "category_id": 3, "score": 0.25, "instance_id": 0, "area": 3},
        {"id": 3, "isthing": False, "category_id": 1, "area": 4},
    ]
    panoptic_map, segments_info = assemble(painted, labels, stuff_area_limit=5, **kwargs)
    assert panoptic_map.tolist() == [[2, 2, 0, 0], [2, 1, 1, 1], [0, 0, 0, 0]] and len(segments_info) == 2


def test_a_rule_sees_its_candidate():
    torch.manual_seed(0)
    masks = torch.rand(5, 9, 11) < 0.3
    seen = []

    def accept(candidate):
        rows, cols = candidate.window
        assert torch.equal(candidate.mask, masks[candidate.index][rows, cols])
        assert candidate.area == masks[candidate.index].sum()
        assert candidate.overlap == (candidate.mask & (candidate.painted > 0)).sum()
        assert set(candidate.painted.unique().tolist()) <= set(range(len(seen) + 1))
        seen.append(candidate.index)
        return torch.tensor(True)

    painted = paint(crops_of(masks), [3, 0, 4], accept)
    assert seen == [3, 0, 4] == painted.order


def test_covered_instance_is_no_segment():
    masks = torch.ones(2, 4, 4, dtype=torch.bool)
    painted = paint(crops_of(masks), [0, 1], lambda c: torch.tensor(True))
    _, segments_info = assemble(
        painted, torch.zeros(4, 4, dtype=torch.int64), scores=[1, 1], classes=[0, 0], num_stuff=1, stuff_area_limit=0
    )
    assert [s["instance_id"] for s in segments_info] == [0]


def test_nothing_at_all_is_void():
    painted = Painted(torch.zeros(3, 5, dtype=torch.int32), [])
    labels = torch.full((3, 5), 255)
    panoptic_map, segments_info = assemble(painted, labels, scores=[], classes=[], num_stuff=4, stuff_area_limit=0)
    assert segments_info == [] and not panoptic_map.any()


def test_no_read_on_the_host_while_painting():
    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func is not torch.ops.aten._local_scalar_dense.default
            assert func is not torch.ops.aten.nonzero.default
            return func(*args, **(kwargs or {}))

    crops = crops_of(torch.rand(30, 20, 20) < 0.4)
    with Reads():
        paint(crops, list(range(30)), lambda c: c.overlap.double() / c.area <= 0.5)

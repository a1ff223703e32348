"""The rules of overlaps against a slow painter, pixel by pixel, and cases by hand."""

from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as mask_api

from panoptic_fusion.data.importers.masks import Crop
from panoptic_fusion.data.importers.painting import PaintRules, components, paint
from panoptic_fusion.data.importers.pixels import mask_shape
from panoptic_fusion.data.importers.shapes import ImageAnnotation, Polygon

SIZE = (9, 12)
LABELS = ("road", "sky", "car", "dog", "__ignore__", "_background_")
THINGS = frozenset({"car", "dog"})


def random_annotation(rng):
    annotation = ImageAnnotation("a.json", ["a.jpg"], SIZE)
    for k in range(int(rng.integers(1, 9))):
        mask = np.zeros(SIZE, bool)
        y, x = int(rng.integers(0, 7)), int(rng.integers(0, 10))
        mask[y : y + int(rng.integers(1, 6)), x : x + int(rng.integers(1, 8))] = True
        label = LABELS[int(rng.integers(len(LABELS)))]
        group = [None, None, 1, 2][int(rng.integers(4))]
        crowd = label in THINGS and rng.random() < 0.2
        z = float(rng.integers(0, 3))
        annotation.shapes.append(mask_shape(mask, label, f"shape {k}", z=z, group=group, crowd=bool(crowd)))
    return annotation


def object_of(index, shape):
    """What a shape is a part of."""
    if shape.label not in THINGS:
        return shape.label
    return index if shape.group is None else (shape.label, shape.group, shape.crowd)


def slow(annotation, order, unlabeled):
    """(H, W) of objects, None for void: for each pixel the front-most of the shapes on it."""
    masks = [shape.geometry.crop(*SIZE) for shape in annotation.shapes]
    areas = Counter()
    for index, (shape, crop) in enumerate(zip(annotation.shapes, masks, strict=True)):
        areas[object_of(index, shape)] += int(crop.mask.sum())

    def in_front(i, j):
        """Whether shape i lies in front of shape j."""
        a, b = annotation.shapes[i], annotation.shapes[j]
        stuff_a, stuff_b = (s.label in ("road", "sky") for s in (a, b))
        if order == "z" and a.z != b.z:
            return a.z > b.z
        if stuff_a != stuff_b:
            return stuff_b
        if order == "smaller-in-front":
            if a.crowd != b.crowd:
                return b.crowd
            if areas[object_of(i, a)] != areas[object_of(j, b)]:
                return areas[object_of(i, a)] < areas[object_of(j, b)]
        return i > j

    result = np.full(SIZE, None, object)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            front = None
            for index, crop in enumerate(masks):
                rows, columns = crop.mask.shape
                if 0 <= y - crop.top < rows and 0 <= x - crop.left < columns and crop.mask[y - crop.top, x - crop.left]:
                    if front is None or in_front(index, front):
                        front = index
            label = annotation.shapes[front].label if front is not None else "_background_"
            if label == "_background_":
                result[y, x] = unlabeled
            elif label != "__ignore__":
                result[y, x] = object_of(front, annotation.shapes[front])
    return result


@pytest.mark.parametrize("order", ["z", "annotation", "smaller-in-front"])
@pytest.mark.parametrize("unlabeled", [None, "road"])
def test_orders_against_a_slow_painter(order, unlabeled):
    for seed in range(40):
        annotation = random_annotation(np.random.default_rng([seed, 3]))
        painted = paint(annotation, SIZE, PaintRules(THINGS, order, True, unlabeled))
        expected = slow(annotation, order, unlabeled)
        pairs = set(zip(painted.id_map.ravel().tolist(), expected.ravel().tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), seed
        assert all((a == 0) == (b is None) for a, b in pairs)
        for a, b in pairs - {(0, None)}:
            label, crowd = painted.segments[a]
            if isinstance(b, int):
                assert (label, bool(crowd)) == (annotation.shapes[b].label, annotation.shapes[b].crowd)
            else:
                assert label == (b if isinstance(b, str) else b[0])
                assert bool(crowd) == (not isinstance(b, str) and b[2])


def test_instances_keep_what_is_hidden():
    annotation = ImageAnnotation("a.json", [], SIZE)
    lower, upper = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    lower[2:5, 2:6] = upper[1:6, 1:7] = True
    annotation.shapes = [mask_shape(lower, "car", "0"), mask_shape(upper, "dog", "1")]
    painted = paint(annotation, SIZE, PaintRules(THINGS, "annotation", True))
    assert set(np.unique(painted.id_map)) == {0, 2}  # the car is hidden
    assert [(i["label"], i["area"], i["bbox"]) for i in painted.instances] == [
        ("car", 12, [2, 2, 4, 3]), ("dog", 30, [1, 1, 6, 5]),
    ]  # fmt: skip
    assert (mask_api.decode(painted.instances[0]["segmentation"]).astype(bool) == lower).all()


def test_what_is_left_out_is_said():
    annotation = ImageAnnotation("a.json", [], SIZE)
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], float)
    from panoptic_fusion.data.importers.shapes import Shape

    annotation.shapes = [
        Shape("car", Polygon([[square]]), "in"),
        Shape("car", Polygon([[square + 8]]), "partly"),
        Shape("car", Polygon([[square + 80]]), "outside"),
        Shape("car", Polygon([[square]]), "box", isbox=True),
    ]
    painted = paint(annotation, SIZE, PaintRules(THINGS, "annotation", False))
    assert painted.empty == ["outside"] and len(painted.instances) == 2
    assert sorted(painted.notes.values()) == [1, 1]
    assert (painted.id_map > 0).sum() == 16 + 4


def test_components_touch_at_corners():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((7, 8)) < 0.4
        parts = components(Crop(mask, 2, 3))
        total = np.zeros((12, 14), int)
        for part in parts:
            total[part.top : part.top + part.mask.shape[0], part.left : part.left + part.mask.shape[1]] += part.mask
        assert (total[2:9, 3:11] == mask).all()
        assert len(parts) == count_components(mask)


def count_components(mask):
    left, count = {tuple(p) for p in np.argwhere(mask).tolist()}, 0
    while left:
        count += 1
        border = [left.pop()]
        while border:
            y, x = border.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            border += near
    return count


def test_thing_classes_of_semantic_maps_are_split():
    mask = np.zeros(SIZE, bool)
    mask[1:3, 1:3] = mask[5:7, 6:9] = True
    for things, segments, instances in ((THINGS, 2, 2), (frozenset(), 1, 0)):
        annotation = ImageAnnotation("a.png", [], SIZE, [mask_shape(mask, "car", "class car", semantic=True)])
        painted = paint(annotation, SIZE, PaintRules(things, "annotation", True))
        assert len(painted.segments) == segments and len(painted.instances) == instances

"""Polygons, ellipses and run-length encodings against slow, obvious rules."""

from fractions import Fraction

import numpy as np
import pytest
from annotation_writers import brush_rle, column_counts, row_counts
from pycocotools import mask as mask_api

from panoptic_fusion.data.importers.encodings import (
    decode_brush,
    decode_coco_rle,
    decode_row_runs,
    decode_value_runs,
)
from panoptic_fusion.data.importers.masks import (
    Crop,
    box_ring,
    check_points,
    check_size,
    clip_crop,
    draw_polygon,
    draw_rounded_polygon,
    ellipse_ring,
    fill_polygon,
    merge_crops,
    tight_crop,
)

HEIGHT, WIDTH = 11, 14


def whole(crop, height=HEIGHT, width=WIDTH):
    mask = np.zeros((height, width), bool)
    mask[crop.top : crop.top + crop.mask.shape[0], crop.left : crop.left + crop.mask.shape[1]] = crop.mask
    return mask


def inside(rings, x, y):
    """Even-odd: whether an odd number of edges lies to the left of a point, exactly."""
    odd = False
    for ring in rings:
        points = [(Fraction(a), Fraction(b)) for a, b in ring.tolist()]
        for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
            if (y0 <= y) != (y1 <= y) and x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x:
                odd = not odd
    return odd


@pytest.mark.parametrize("seed", range(60))
def test_fill_polygon_is_the_even_odd_rule_at_the_centers(seed):
    rng = np.random.default_rng(seed)
    scale = (1, 2, 64)[seed % 3]  # vertices at corners, at centers too, and between; all exact in binary
    rings = [
        rng.integers(-4 * scale, 19 * scale, (int(rng.integers(1, 8)), 2)) / scale
        for _ in range(int(rng.integers(1, 4)))
    ]
    expected = [
        [inside(rings, Fraction(2 * x + 1, 2), Fraction(2 * y + 1, 2)) for x in range(WIDTH)] for y in range(HEIGHT)
    ]
    assert (whole(fill_polygon(rings, HEIGHT, WIDTH)) == np.array(expected)).all()


def test_fill_polygon_by_hand():
    square = np.array([[1, 1], [4, 1], [4, 3], [1, 3]], float)
    assert np.argwhere(whole(fill_polygon([square], HEIGHT, WIDTH))).tolist() == [
        [1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3],
    ]  # fmt: skip
    hole = np.array([[2, 1], [3, 1], [3, 2], [2, 2]], float)
    assert fill_polygon([square, hole], HEIGHT, WIDTH).mask.sum() == 5
    assert not fill_polygon([square + 100], HEIGHT, WIDTH).mask.any()
    assert fill_polygon([square - 2], HEIGHT, WIDTH).mask.sum() == 2  # 2 x 1 pixels are left in the image
    assert not fill_polygon([np.array([[1.0, 1.0]])], HEIGHT, WIDTH).mask.any()


def test_polygons_that_share_an_edge_share_no_pixel():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b, c, d = rng.uniform(-3, 17, (4, 2))
        one, other = (whole(fill_polygon([np.array(p)], HEIGHT, WIDTH)) for p in ([a, b, c], [a, b, d]))
        side = [float((b - a)[0] * (p - a)[1] - (b - a)[1] * (p - a)[0]) for p in (c, d)]
        if side[0] * side[1] < 0:  # on both sides of the edge
            assert not (one & other).any()


@pytest.mark.parametrize("draw", [draw_polygon, draw_rounded_polygon])
def test_drawn_polygons_hold_their_vertices(draw):
    ring = np.array([[2, 3], [9, 3], [9, 8], [2, 8]], float)
    mask = whole(draw([ring], HEIGHT, WIDTH))
    assert mask.sum() == 8 * 6 and mask[3, 2] and mask[8, 9]
    assert whole(draw([ring + (8, 5)], HEIGHT, WIDTH)).sum() == 4 * 3  # cut off at the image
    assert not draw([ring + 50], HEIGHT, WIDTH).mask.any()


def test_ellipses_and_turned_boxes():
    height = width = 200
    y, x = np.mgrid[:height, :width] + 0.5
    for degrees in (0, 30, 120):
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        u, v = (x - 90) * cos + (y - 110) * sin, -(x - 90) * sin + (y - 110) * cos
        ellipse = whole(fill_polygon([ellipse_ring(90, 110, 60, 25, degrees)], height, width), height, width)
        assert (ellipse != ((u / 60) ** 2 + (v / 25) ** 2 < 1)).mean() < 5e-4
        box = whole(fill_polygon([box_ring(30, 85, 150, 135, degrees)], height, width), height, width)
        assert (box != ((abs(u) < 60) & (abs(v) < 25))).mean() < 5e-4
    # around a corner, a quarter turn clockwise: from right-down of (50, 60) to left-down of it
    assert np.allclose(
        sorted(box_ring(50, 60, 60, 65, 90, (50, 60)).tolist()), [[45, 60], [45, 70], [50, 60], [50, 70]]
    )


@pytest.mark.parametrize("seed", range(20))
def test_run_length_encodings(seed):
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(1, 9)), int(rng.integers(1, 9))
    mask = rng.random((height, width)) < rng.choice([0.0, 0.3, 0.8, 1.0])
    counts = column_counts(mask)
    assert (
        whole(decode_coco_rle({"size": [height, width], "counts": counts}, height, width), height, width) == mask
    ).all()
    text = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert (
        whole(decode_coco_rle({"size": [height, width], "counts": text}, height, width), height, width) == mask
    ).all()
    assert (decode_row_runs(row_counts(mask), height, width) == mask).all()
    assert (decode_brush(brush_rle(mask), height, width) == mask).all()
    values = rng.integers(0, 3, (height, width))
    pairs = [v for value in values.ravel().tolist() for v in (value, 1)]
    assert (decode_value_runs(pairs, height, width) == values).all()


@pytest.mark.parametrize("seed", range(20))
def test_crops_of_run_lengths_are_tight(seed):
    """Crops of encodings with empty runs, which other programs write."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        height, width = (int(side) for side in rng.integers(1, 9, 2))
        cuts = np.sort(rng.integers(0, height * width + 1, int(rng.integers(0, 9))))
        counts = np.diff(cuts, prepend=0, append=height * width).tolist()
        mask = (np.repeat(np.arange(len(counts)) % 2, counts) > 0).reshape(width, height).T
        found, expected = decode_coco_rle({"size": [height, width], "counts": counts}, height, width), tight_crop(mask)
        assert (found.top, found.left) == (expected.top, expected.left)
        assert np.array_equal(found.mask, expected.mask)


def test_brush_by_hand():
    """2 x 1 pixels, 8 bits per value, lengths of 1, 2, 3 and 4 bits: 4 times 0, then a literal 1, 2, 3, 200."""
    bits = f"{8:032b}" + f"{7:05b}" + "0000" + "0001" + "0010" + "0011"
    bits += "1" + "01" + "11" + f"{0:08b}"  # the same value, length of 2 bits, 3 + 1 times, 0
    bits += "0" + "10" + "011" + "".join(f"{v:08b}" for v in (1, 2, 3, 200))
    bits += "0" * (-len(bits) % 8)
    data = [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]
    assert decode_brush(data, 1, 2).tolist() == [[False, True]]


@pytest.mark.parametrize(
    "decode",
    [
        lambda: decode_coco_rle({"size": [3, 4], "counts": [5, 5]}, 3, 4),
        lambda: decode_coco_rle({"size": [4, 3], "counts": [6, 6]}, 3, 4),
        lambda: decode_coco_rle({"size": [3, 4], "counts": "0"}, 3, 4),
        lambda: decode_coco_rle({"size": [3, 4], "counts": [-6, 18]}, 3, 4),
        lambda: decode_row_runs([1, 2], 2, 2),
        lambda: decode_value_runs([1, 2, 3], 1, 2),
        lambda: decode_brush([1, 2, 3], 2, 2),
        lambda: decode_brush(brush_rle(np.ones((3, 3), bool))[:-3], 3, 3),
        lambda: decode_brush([300], 2, 2),
        lambda: check_points([[1, 2], [3]]),
        lambda: check_points([1, 2, float("nan"), 4]),
        lambda: check_points([[1, 2], [3, 4]], 3),
        lambda: check_points("abc"),
        lambda: check_size(0, 5),
        lambda: check_size(2**20, 2**20),
        lambda: check_size(None, 5),
    ],
)
def test_wrong_values_are_value_errors(decode):
    with pytest.raises(ValueError):
        decode()


def test_crops():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3, 4] = mask[6, 9] = True
    assert tight_crop(mask)[1:] == (3, 4) and tight_crop(mask).mask.shape == (4, 6)
    assert (whole(tight_crop(mask)) == mask).all()
    assert not tight_crop(np.zeros((3, 3), bool)).mask.size
    crop = clip_crop(Crop(np.ones((5, 6), bool), -2, 10), HEIGHT, WIDTH)
    assert crop.mask.shape == (3, 4) and crop[1:] == (0, 10)
    assert not clip_crop(Crop(np.ones((5, 6), bool), -7, 10), HEIGHT, WIDTH).mask.size
    rng = np.random.default_rng(1)
    for _ in range(20):
        crops = [
            Crop(rng.random((3, 4)) < 0.5, int(rng.integers(0, HEIGHT - 3)), int(rng.integers(0, WIDTH - 4)))
            for _ in range(int(rng.integers(1, 4)))
        ]
        assert (whole(merge_crops(crops)) == np.any([whole(c) for c in crops], axis=0)).all()

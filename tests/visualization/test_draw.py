"""Pictures: what is checked here is where colors go, not how they look."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from panoptic_fusion.visualization import draw, draw_comparison, draw_panoptic

METADATA = SimpleNamespace(
    thing_classes=["car"], thing_colors=[(200, 0, 0)], stuff_classes=["sky"], stuff_colors=[(0, 0, 200)]
)


def two_cars_and_sky(size=(20, 30)):
    ids = np.zeros(size, np.int32)
    ids[:8] = 5
    ids[10:, :10] = 1
    ids[10:, 12:22] = 2
    return ids, [
        {"id": 5, "isthing": False, "category_id": 0},
        {"id": 1, "isthing": True, "category_id": 0},
        {"id": 2, "isthing": True, "category_id": 0},
    ]


def test_colours_borders_and_void():
    ids, info = two_cars_and_sky()
    image = np.full((20, 30, 3), 100, np.uint8)
    drawn = draw_panoptic(image, torch.from_numpy(ids), info, METADATA, alpha=0.5)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert drawn[2, 3].tolist() == [50, 50, 150]  # sky: the mean of 100 and its color
    assert drawn[15, 3].tolist() == [150, 50, 50]  # the first car: the class color
    first, second = drawn[15, 3].astype(int), drawn[15, 15].astype(int)
    assert abs(first - second).max() > 10 and second[0] > second[1:].max()  # the second: another shade of red
    assert drawn[9, 25].tolist() == [50, 50, 50]  # void: dark between the lines of the hatch
    assert drawn[9, 23].tolist() == [130, 130, 130]  # and gray on them, where x + y is a multiple of 8
    assert drawn[7, 3].tolist() == [255, 255, 255]  # the lower border of the sky
    assert image.min() == image.max() == 100


def test_an_all_void_map_and_an_empty_list():
    """Diagonal lines, 1 of 8 pixels of each row and of each column, over the darkened image."""
    image = np.full((16, 24, 3), 80, np.uint8)
    drawn = draw_panoptic(image, np.zeros((16, 24), np.int32), [], METADATA, alpha=0.5)
    lines = (drawn == 120).all(axis=-1)
    assert ((drawn == 40).all(axis=-1) ^ lines).all()
    assert (lines.sum(axis=0) == 2).all() and (lines.sum(axis=1) == 3).all()
    assert (draw_panoptic(image, np.zeros((16, 24), np.int32), [], METADATA, alpha=0) == 80).all()


def test_names_are_written_only_where_they_fit():
    ids, info = two_cars_and_sky((200, 300))
    large = draw_panoptic(np.zeros((200, 300, 3), np.uint8), ids, info, METADATA)
    small_ids, info = two_cars_and_sky()
    small = draw_panoptic(np.zeros((20, 30, 3), np.uint8), small_ids, info, METADATA)

    def white(x, rows):
        return (x[rows] == 255).all(axis=-1).any()

    assert white(large, slice(0, 190)) and not white(small, slice(0, 5))


def test_comparison_places_panels_side_by_side():
    ids, info = two_cars_and_sky()
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    panel = draw_comparison(image, (ids, info), (torch.from_numpy(ids), info), METADATA, scale=2)
    assert panel.shape == (40, 3 * 60 + 2 * 4, 3)
    assert np.array_equal(panel[:, 64:124], panel[:, 128:])  # equal maps give equal pictures
    assert draw_comparison(image, None, (ids, info), METADATA, scale=1).shape == (20, 2 * 30 + 4, 3)
    assert draw_comparison(image, None, (ids, info), METADATA).shape[0] >= 300


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_strips_against_the_whole_image_at_once(monkeypatch, width: int):
    """Colors, blending, hatch and borders of random maps with any ids, drawn in strips of a few rows."""
    monkeypatch.setattr(draw, "STRIP_PIXELS", 300)
    nameless = SimpleNamespace(**{**vars(METADATA), "thing_classes": [""], "stuff_classes": [""]})
    rng = np.random.default_rng(4)
    for _ in range(20):
        height, width_of_image = rng.integers(1, 60, 2)
        monkeypatch.setattr(draw, "PLAIN_SIDE", max(height, width_of_image) / width)
        ids = np.zeros((height, width_of_image), np.int32)
        for _ in range(int(rng.integers(0, 6))):
            y, x, number = int(rng.integers(height)), int(rng.integers(width_of_image)), int(rng.integers(1, 2**24))
            ids[y : y + rng.integers(1, 30), x : x + rng.integers(1, 30)] = number
        known = [i for i in np.unique(ids).tolist() if i and rng.random() < 0.9]
        info = [{"id": i, "isthing": False, "category_id": 0} for i in known]
        image = rng.integers(0, 256, (height, width_of_image, 3), dtype=np.uint8)
        expected = image * 0.7 + 0.3 * np.isin(ids, known)[..., None] * np.array([0, 0, 200])
        edge = np.zeros(ids.shape, bool)
        for y in range(height):
            for x in range(width_of_image):
                if ids[y, x] not in known and (x + y) % (8 * width) < width:
                    expected[y, x] += 0.3 * 160
                for dy, dx in ((0, 1), (1, 0)):
                    if y + dy < height and x + dx < width_of_image and ids[y, x] != ids[y + dy, x + dx]:
                        edge[y, x] = True
        for y, x in np.argwhere(edge):  # a square of width x width pixels around each pixel of the border
            low, high = width - 1 - width // 2, width // 2 + 1
            expected[max(y - low, 0) : y + high, max(x - low, 0) : x + high] = 255
        assert np.abs(draw_panoptic(image, ids, info, nameless, alpha=0.3) - expected).max() <= 0.51


def text_height(picture: np.ndarray) -> int:
    """Rows with a white pixel."""
    return int((picture > 200).all(axis=-1).any(axis=1).sum())


def test_text_and_lines_grow_with_the_picture():
    """A part of the height that changes little between 960 and 4096 pixels, and equal pixels up to 960."""
    nameless = SimpleNamespace(**{**vars(METADATA), "stuff_classes": [""]})
    info = [{"id": i, "isthing": False, "category_id": 0} for i in (1, 2)]
    text, lines = {}, {}
    for side in (300, 600, 960, 2048, 4096, 6000):
        ids = np.ones((side // 2, side), np.int32)
        image = np.zeros((*ids.shape, 3), np.uint8)
        text[side] = text_height(draw_panoptic(image, ids, info, METADATA))
        ids[:, side // 2 :] = 2
        lines[side] = int((draw_panoptic(image, ids, info, nameless)[0] == 255).all(axis=-1).sum())
    assert text[300] == text[600] == text[960] >= 8 and lines[300] == lines[960] == 1
    for side in (2048, 4096):
        assert text[side] / text[960] == pytest.approx(side / 960, rel=0.25)
    assert lines[2048] == 2 and lines[4096] == 4
    assert (text[6000], lines[6000]) == (text[4096], lines[4096])


@pytest.mark.parametrize("side", [400, 4000])
def test_the_outline_fits_the_text(side: int):
    """No dark pixel lies farther from the text than the outline is wide."""
    ids, info = np.ones((side // 2, side), np.int32), [{"id": 1, "isthing": False, "category_id": 0}]
    metadata = SimpleNamespace(**{**vars(METADATA), "stuff_classes": ["traffic light gypsum"]})
    drawn = draw_panoptic(np.full((*ids.shape, 3), 255, np.uint8), ids, info, metadata, alpha=0.5)
    plain = np.array([127.5, 127.5, 227.5]).round()
    y, x = np.nonzero((drawn > plain + 20).any(axis=-1) & (drawn[..., 0] > 150))
    v, u = np.nonzero((drawn < plain - 20).all(axis=-1))
    most = 2 * max(1, round(side / draw.PLAIN_SIDE))
    assert len(x) and len(u)
    for text, outline in ((x, u), (y, v)):
        assert 0 <= text.min() - outline.min() <= most and 0 <= outline.max() - text.max() <= most


def test_text_at_the_edge_of_the_picture_is_cut():
    """Segments whose middle is in a corner, a picture that is smaller than the text, and a strip."""
    info = [{"id": 1, "isthing": True, "category_id": 0, "score": 0.5}]
    for shape, part in (
        ((60, 200), np.s_[:40, :80]),
        ((60, 200), np.s_[30:, 150:]),
        ((9, 12), np.s_[:]),
        ((40, 9), np.s_[:]),
    ):
        ids = np.zeros(shape, np.int32)
        ids[part] = 1
        for name in ("gypsum", "g", "a name that is much longer than this picture is wide"):
            metadata = SimpleNamespace(**{**vars(METADATA), "thing_classes": [name]})
            assert draw_panoptic(np.zeros((*shape, 3), np.uint8), ids, info, metadata, scores=True).shape == (*shape, 3)


def test_scores_on_request(monkeypatch):
    written = []
    monkeypatch.setattr(draw, "_write_name", lambda *args: written.append(args[4]))
    ids, info = two_cars_and_sky()
    info[1]["score"], info[2]["score"] = 0.876, 1.0
    draw_panoptic(np.zeros((20, 30, 3), np.uint8), ids, info, METADATA)
    assert sorted(written) == ["car", "car", "sky"]
    written.clear()
    draw_panoptic(np.zeros((20, 30, 3), np.uint8), ids, info, METADATA, scores=True)
    assert sorted(written) == ["car 100%", "car 88%", "sky"]


def written_names(monkeypatch) -> list[tuple]:
    """Arguments of each call of `_write_name`, with a copy of the boxes before and after it."""
    calls, whole = [], draw._write_name

    def write(*args):
        before = list(args[6])
        whole(*args)
        calls.append((*args[1:6], before, args[6][len(before) :]))

    monkeypatch.setattr(draw, "_write_name", write)
    return calls


def overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_no_name_covers_another_one(monkeypatch):
    """Random segments, also at the edges; each name is centered at the pixel of its mask farthest from other segments
    where it covers no name, and left out only if there is none."""
    calls, rng, moved = written_names(monkeypatch), np.random.default_rng(3), 0
    metadata = SimpleNamespace(**{**vars(METADATA), "thing_classes": ["traffic light"]})
    for _ in range(12):
        height, width = (int(n) for n in rng.integers(80, 200, 2))
        ids = np.zeros((height, width), np.int32)
        for segment_id in range(1, 30):
            y, x = int(rng.integers(height)), int(rng.integers(width))
            ids[y : y + rng.integers(15, 60), x : x + rng.integers(30, 120)] = segment_id
        info = [{"id": int(i), "isthing": True, "category_id": 0} for i in np.unique(ids) if i]
        calls.clear()
        draw_panoptic(np.zeros((height, width, 3), np.uint8), ids, info, metadata)
        assert [call[2] for call in calls] == sorted(call[2] for call in calls)  # small segments first
        for mask, (x0, y0), area, name, _, before, own in calls:
            (text_width, text_height), below = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)
            if area < 1.5 * text_width * text_height:
                assert own == []
                continue
            free = {}
            for y, x in np.argwhere(mask):
                left = min(max(x + x0 - text_width // 2, 0), max(width - text_width, 0))
                bottom = min(max(y + y0 + text_height // 2, text_height), height - 1)
                box = (left, bottom - text_height, left + text_width, bottom + below)
                wide = (box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2)
                if not any(overlap(wide, other) for other in before):
                    free[y, x] = box
            padded = np.pad(mask, 1).astype(np.uint8)
            distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
            if free:
                assert own == [free[max(free, key=lambda place: (distance[place], -place[0], -place[1]))]]
                moved += distance[max(free, key=lambda place: distance[place])] < distance.max()
            else:
                assert own == []
    assert moved >= 3


def test_a_name_without_a_free_place_is_left_out(monkeypatch):
    """Two strips, 10 rows high and 1.8 texts wide: both names overlap in any place."""
    calls = written_names(monkeypatch)
    metadata = SimpleNamespace(**{**vars(METADATA), "thing_classes": ["traffic light"]})
    width = int(1.8 * cv2.getTextSize("traffic light", cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0])
    ids = np.repeat([1, 2], 10)[:, None].repeat(width, axis=1)
    for segments, written in (((1, 2), [1, 0]), ((2,), [1])):
        calls.clear()
        info = [{"id": i, "isthing": True, "category_id": 0} for i in segments]
        draw_panoptic(np.zeros((20, width, 3), np.uint8), ids, info, metadata)
        assert [len(call[6]) for call in calls] == written


@pytest.mark.parametrize(("size", "expected"), [
    ((3000, 6000), (2048, 4096)), ((5000, 100), (4096, 82)), ((4096, 4096), (4096, 4096)), ((1, 9000), (1, 4096)),
])  # fmt: skip
def test_large_pictures_are_reduced(size, expected):
    """The four quarters of the map stay quarters, with ids that no 16-bit map could hold."""
    ids = np.full(size, 2**23 + 1, np.int64)
    ids[size[0] // 2 :] += 2
    ids[:, size[1] // 2 :] += 1
    image = np.repeat((ids % 4 * 50)[..., None], 3, axis=2).astype(np.uint8)
    assert draw_panoptic(image, ids, [], METADATA).shape == (*expected, 3)
    small, small_ids = draw.reduce_to(image, ids, (4096, 4096))
    assert small_ids.shape == expected and set(np.unique(small_ids)) == set(np.unique(ids))
    assert (np.abs(small[..., 0] - small_ids % 4 * 50.0) > 1).mean() < 0.03


def test_a_large_comparison_is_reduced():
    ids, info = two_cars_and_sky((1000, 3000))
    image = np.zeros((1000, 3000, 3), np.uint8)
    assert draw_comparison(image, (ids, info), (ids, info), METADATA).shape == (454, 3 * 1362 + 8, 3)
    assert draw_comparison(image, None, (ids, info), METADATA).shape == (682, 2 * 2046 + 4, 3)

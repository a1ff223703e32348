"""Pictures: what is checked here is where colours go, not how they look."""

from types import SimpleNamespace

import numpy as np
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
    assert drawn[2, 3].tolist() == [50, 50, 150]  # sky: the mean of 100 and its colour
    assert drawn[15, 3].tolist() == [150, 50, 50]  # the first car: the class colour
    first, second = drawn[15, 3].astype(int), drawn[15, 15].astype(int)
    assert abs(first - second).max() > 10 and second[0] > second[1:].max()  # the second: another shade of red
    assert drawn[9, 25].tolist() == [50, 50, 50]  # void: dark
    assert drawn[7, 3].tolist() == [255, 255, 255]  # the lower border of the sky
    assert image.min() == image.max() == 100


def test_an_all_void_map_and_an_empty_list():
    image = np.full((6, 7, 3), 80, np.uint8)
    assert (draw_panoptic(image, np.zeros((6, 7), np.int32), [], METADATA, alpha=0.5) == 40).all()


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


def test_strips_against_the_whole_image_at_once(monkeypatch):
    """Colors, blending and borders of random maps with any ids, drawn in strips of a few rows."""
    monkeypatch.setattr(draw, "STRIP_PIXELS", 300)
    nameless = SimpleNamespace(**{**vars(METADATA), "thing_classes": [""], "stuff_classes": [""]})
    rng = np.random.default_rng(4)
    for _ in range(50):
        height, width = rng.integers(1, 60, 2)
        ids = np.zeros((height, width), np.int32)
        for _ in range(int(rng.integers(0, 6))):
            y, x, number = int(rng.integers(height)), int(rng.integers(width)), int(rng.integers(1, 2**24))
            ids[y : y + rng.integers(1, 30), x : x + rng.integers(1, 30)] = number
        known = [i for i in np.unique(ids).tolist() if i and rng.random() < 0.9]
        info = [{"id": i, "isthing": False, "category_id": 0} for i in known]
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = image * 0.7 + 0.3 * np.isin(ids, known)[..., None] * np.array([0, 0, 200])
        for y in range(height):
            for x in range(width):
                if (x + 1 < width and ids[y, x] != ids[y, x + 1]) or (y + 1 < height and ids[y, x] != ids[y + 1, x]):
                    expected[y, x] = 255
        assert np.abs(draw_panoptic(image, ids, info, nameless, alpha=0.3) - expected).max() <= 0.51

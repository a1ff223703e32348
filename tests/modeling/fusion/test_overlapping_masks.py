"""Masks that overlap, made of a panoptic PNG's: what is filled, how far they move, and that the seed decides."""

import random

import pytest
import torch
from detectron2.structures import BitMasks

from panoptic_fusion.layers import chunks
from panoptic_fusion.modeling.fusion.oanet import overlapping_masks as module
from panoptic_fusion.modeling.fusion.oanet.overlapping_masks import one_in_front, overlapping_masks

SIZE = (60, 80)
ROWS, COLS = torch.arange(SIZE[0]), torch.arange(SIZE[1])


def boxes_of(masks):
    return BitMasks(masks).get_bounding_boxes().tensor


@pytest.fixture
def still(monkeypatch):
    """Boxes stay where they are."""
    monkeypatch.setattr(module, "MOVE", 0.0)


def disc_masks(rng, num):
    """Discs, later ones in front of earlier ones."""
    y, x = torch.arange(SIZE[0])[:, None], torch.arange(SIZE[1])
    owner = torch.full(SIZE, -1)
    for i in range(num):
        radius = rng.randint(4, 20)
        owner[(y - rng.randrange(SIZE[0])) ** 2 + (x - rng.randrange(SIZE[1])) ** 2 < radius**2] = i
    masks = torch.stack([owner == i for i in range(num)])
    return masks[masks.flatten(1).any(1)]


def test_the_hole_that_a_tie_leaves_is_filled(still):
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 2:58, 10:50] = True
    masks[1, 10:40, 26:34] = True  # 8 of 40 columns: 6 of 28 texels
    masks[0] &= ~masks[1]
    made = overlapping_masks(masks, boxes_of(masks), ROWS, COLS)
    assert torch.equal(made[0], masks.any(0)) and torch.equal(made[1], masks[1])


def test_a_wide_hole_stays_open(still):
    masks = torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[0, 2:58, 10:66] = True
    masks[0, 16:44, 24:52] = False  # 14 of 28 texels
    made = overlapping_masks(masks, boxes_of(masks), ROWS, COLS)
    assert not made[0, 20:40, 28:48].any() and (made[0] != masks[0]).float().mean() < 0.02


def slow_closing(texels, reach):
    """Loops: what is set within `reach` of a texel, of which then all within `reach` must be set; outside is empty."""
    side, far = texels.shape[-1], reach
    wide = {}
    for y in range(-far, side + far):
        for x in range(-far, side + far):
            near = texels[max(y - far, 0) : max(y + far + 1, 0), max(x - far, 0) : max(x + far + 1, 0)]
            wide[y, x] = bool(near.any())
    closed = torch.zeros_like(texels)
    for y in range(side):
        for x in range(side):
            closed[y, x] = all(wide[v, u] for v in range(y - far, y + far + 1) for u in range(x - far, x + far + 1))
    return closed


def test_closing_equals_loops(still, monkeypatch):
    """On masks whose boxes are 28 x 28 pixels, so that texels are pixels."""
    torch.manual_seed(0)
    masks = torch.zeros(6, *SIZE, dtype=torch.bool)
    for i, density in enumerate((0.02, 0.03, 0.05, 0.1, 0.2, 0.5)):
        texels = torch.rand(28, 28) < density
        texels[0, 0] = texels[27, 27] = True
        masks[i, 10:38, 20:48] = texels
    for reach in (1, 4):
        monkeypatch.setattr(module, "REACH", reach)
        made = overlapping_masks(masks, boxes_of(masks), ROWS, COLS)
        for before, after in zip(masks, made, strict=True):
            assert torch.equal(after[10:38, 20:48], slow_closing(before[10:38, 20:48], reach))
            assert after.sum() == after[10:38, 20:48].sum()


def test_boxes_move_by_a_tenth_at_most():
    torch.manual_seed(0)
    masks = torch.zeros(1, 200, 300, dtype=torch.bool)
    masks[0, 50:150, 60:260] = True
    found = []
    for _ in range(200):
        made = overlapping_masks(masks, boxes_of(masks), torch.arange(200), torch.arange(300))
        found.append(boxes_of(made)[0])
    moved = (torch.stack(found) - boxes_of(masks)) / torch.tensor([200.0, 100, 200, 100])
    assert (moved.abs() <= 0.1 + 0.01).all()
    assert (moved.amin(0) < -0.08).all() and (moved.amax(0) > 0.08).all() and (moved.mean(0).abs() < 0.02).all()


def test_neighbours_overlap_and_look_like_before():
    rng, overlapping = random.Random(0), 0
    for seed in range(40):
        torch.manual_seed(seed)
        masks = disc_masks(rng, 8)
        made = overlapping_masks(masks, boxes_of(masks), ROWS, COLS)
        assert made.shape == masks.shape and made.dtype == torch.bool
        both, either = (masks & made).sum((1, 2)), (masks | made).sum((1, 2))
        large = masks.sum((1, 2)) > 150
        assert (both[large] / either[large] > 0.4).all()
        overlapping += int((made.sum(0) > 1).sum())
        torch.manual_seed(seed)
        assert torch.equal(overlapping_masks(masks, boxes_of(masks), ROWS, COLS), made)
        torch.manual_seed(seed)
        assert torch.equal(overlapping_masks(masks, boxes_of(masks), ROWS[2::4], COLS[2::4]), made[:, 2::4, 2::4])
    assert overlapping > 2000


def test_one_pixel_and_the_whole_image():
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[0, 59, 79] = True
    masks[1] = True
    made = overlapping_masks(masks, boxes_of(masks), ROWS, COLS)
    assert made[0].sum() <= 1 and made[1].float().mean() > 0.6


@pytest.mark.parametrize("limit", [1, 2 * SIZE[0] * SIZE[1], 2**30])
def test_masks_are_cut_out_a_few_at_a_time(monkeypatch, limit):
    """The same masks as all at once, and no float tensor of R x H x W on the way."""
    masks = disc_masks(random.Random(8), 12)
    boxes = boxes_of(masks)
    torch.manual_seed(3)
    monkeypatch.setitem(chunks.MAX_CHUNK_ELEMENTS, "cpu", 2**40)
    expected = overlapping_masks(masks, boxes, ROWS, COLS)
    seen, original = [], BitMasks.crop_and_resize

    def crop_and_resize(self, boxes, side):
        seen.append(len(self))
        return original(self, boxes, side)

    monkeypatch.setattr(BitMasks, "crop_and_resize", crop_and_resize)
    monkeypatch.setitem(chunks.MAX_CHUNK_ELEMENTS, "cpu", limit)
    torch.manual_seed(3)
    assert torch.equal(overlapping_masks(masks, boxes, ROWS, COLS), expected)
    assert sum(seen) == len(masks) > 8 and max(seen) == min(max(1, limit // (SIZE[0] * SIZE[1])), len(masks))


def test_the_front_one_gives_up_the_rim_by_hand():
    """One row of cells: the person shows in a, b and f, the tie in c and d; the tie's mask also claims b."""
    visible = torch.tensor([[1, 1, 0, 0, 0, 1], [0, 0, 1, 1, 0, 0]], dtype=torch.bool)[:, None]
    made = torch.tensor([[1, 1, 1, 1, 0, 1], [0, 1, 1, 1, 1, 0]], dtype=torch.bool)[:, None]
    expected = torch.tensor([[1, 1, 1, 1, 0, 1], [0, 0, 1, 1, 1, 0]], dtype=torch.bool)[:, None]
    assert torch.equal(one_in_front(made, visible), expected)
    even = torch.tensor([[1, 1, 1, 0, 0, 1], [0, 1, 1, 1, 1, 0]], dtype=torch.bool)[:, None]
    assert torch.equal(one_in_front(even, visible), even), "one common cell shows each of them"


def slow_one_in_front(made, visible):
    result = made.clone()
    cells = [(y, x) for y in range(made.shape[1]) for x in range(made.shape[2])]
    for i in range(len(made)):
        for j in range(len(made)):
            common = [c for c in cells if made[i][c] and made[j][c]]
            shows_i, shows_j = ([c for c in common if visible[k][c]] for k in (i, j))
            if len(shows_i) > len(shows_j):
                for c in shows_j:
                    result[i][c] = False
    return result


def test_one_in_front_equals_loops():
    rng, changed = random.Random(1), 0
    for seed in range(60):
        torch.manual_seed(seed)
        num = rng.randint(0, 5)
        made = torch.rand(num, 5, 6) < rng.random()
        owner = torch.randint(-1, num, (5, 6))
        visible = owner == torch.arange(num)[:, None, None]
        found = one_in_front(made, visible)
        assert torch.equal(found, slow_one_in_front(made, visible)) and found.dtype == torch.bool
        changed += not torch.equal(found, made)
    assert changed > 20

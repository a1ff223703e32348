"""All instances at once against the loop: 5,000 random scenes, the worst case, memory, and pixels of many windows."""

import random
from functools import partial

import pytest
import torch
from dispatch_counts import LargestTensor
from launches import RULES, build, scene_with_things
from test_mask_crops import random_boxes, smooth_maps

from panoptic_fusion.decisions import fits, is_confirmed, is_little_covered
from panoptic_fusion.modeling.fusion import SemSegLogits, flat_paint
from panoptic_fusion.modeling.fusion.loop_paint import paint_loop
from panoptic_fusion.modeling.fusion.mask_crops import BitmaskCrops, PastedCrops
from panoptic_fusion.modeling.fusion.paint import FLAT_DEVICES, elementwise, paint, paints_flat
from panoptic_fusion.modeling.fusion.upsnet import flat_argmax, mask_pruning
from panoptic_fusion.modeling.fusion.upsnet.mask_logit_crops import BitMaskLogitCrops, ResizedLogitCrops
from panoptic_fusion.modeling.fusion.window_pixels import WindowPixels, WindowTable, chunk_windows, count_pixels


def random_scene(rng, generator):
    """Masks in random boxes, many of which overlap, and a random order of some of them."""
    height, width, num = rng.randint(1, 12), rng.randint(1, 12), rng.choice([1, 2, 5, 9, 14])
    corner = torch.rand(num, 2, generator=generator) * torch.tensor([width + 2, height + 2]) - 1
    side = torch.rand(num, 2, generator=generator) * torch.tensor([width, height]) * rng.choice([0.4, 1.0])
    masks = torch.zeros(num, height, width, dtype=torch.bool)
    boxes = torch.cat([corner, corner + side], dim=1)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().clamp(min=0).int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    masks &= torch.rand(masks.shape, generator=generator) < rng.choice([0.6, 1.0])
    return masks, boxes, rng.sample(range(num), rng.randint(1, num))


def accept_random(candidate, *, thresh, where, overlap_iou, agreement_iou):
    """The rules' decisions: how much is covered, and how much lies in `where`, each as a fraction or an IoU."""
    painted = candidate.num_painted if overlap_iou else None
    things = where.count_nonzero() if agreement_iou else None
    is_free = is_little_covered(candidate.overlap, candidate.area, thresh, painted_area=painted)
    return is_free & candidate.once(
        lambda: is_confirmed(candidate.area, candidate.count(where), 0.3, things_area=things)
    )


def decision(rng, size, generator):
    thresh = rng.choice([0.0, 0.25, 0.5, 0.8, 1.0])
    if rng.random() < 0.5:
        return lambda candidate: fits(candidate.overlap, candidate.area, thresh)
    where = torch.rand(size, generator=generator) < 0.7
    return partial(
        accept_random, thresh=thresh, where=where, overlap_iou=rng.random() < 0.5, agreement_iou=rng.random() < 0.3
    )


def check_scenes(seeds, monkeypatch):
    """Canvas and decisions of the loop and of chunks of random size; returns how many instances were rejected."""
    rejected = total = 0
    for seed in seeds:
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        masks, boxes, order = random_scene(rng, generator)
        accept = decision(rng, masks.shape[1:], generator)
        monkeypatch.setattr(flat_paint, "FEW", rng.choice([0, 0, 3]))
        monkeypatch.setattr(flat_paint, "MAX_PIXELS", rng.choice([1, 60, 10**6, 10**6]))
        rounds = rng.choice([2, 4])
        monkeypatch.setattr(flat_paint, "rounds_per_read", lambda _, rounds=rounds: rounds)
        crops = BitmaskCrops(masks, boxes)
        canvas = torch.zeros(masks.shape[1:], dtype=torch.int32)
        decisions = paint_loop(canvas, crops, order, accept)
        assert torch.equal(paint(crops, order, accept, flat=True).canvas, canvas), seed
        (flat_canvas,), accepted = flat_paint.paint_flat(crops, order, accept)
        assert (accepted != flat_paint.FREE).tolist() == [bool(x) for x in decisions], seed
        assert torch.equal(flat_canvas.masked_fill(flat_canvas == flat_paint.FREE, 0), canvas)
        rejected += sum(not bool(x) for x in decisions)
        total += len(order)
    return rejected / total


def test_random_scenes(monkeypatch):
    assert 0.2 < check_scenes(range(2000), monkeypatch) < 0.8


@pytest.mark.slow
def test_more_random_scenes(monkeypatch):
    assert 0.2 < check_scenes(range(2000, 30000), monkeypatch) < 0.8


@pytest.mark.parametrize("num", [2, 5, 30])
def test_a_chain_takes_as_many_rounds_as_it_has_instances(num):
    """Each mask covers 60% of the next one, so every second one is accepted, and no decision is final early."""
    masks = torch.zeros(num, 1, 4 * num + 6, dtype=torch.bool)
    for i, mask in enumerate(masks):
        mask[0, 4 * i : 4 * i + 10] = True
    boxes = torch.tensor([[4.0 * i, 0, 4.0 * i + 10, 1] for i in range(num)])
    rounds = []

    def accept(candidate):
        rounds.append(candidate.overlap)
        return fits(candidate.overlap, candidate.area, 0.5)

    crops = BitmaskCrops(masks, boxes)
    (pixels,) = WindowPixels.each([WindowTable.of(crops.windows, range(num))], crops.device)
    pixels = flat_paint.ChunkPixels.of(crops, pixels, 1)
    table = torch.full((num + 1,), flat_paint.FREE, dtype=torch.int32)
    free = torch.full((masks[0].numel(),), flat_paint.FREE, dtype=torch.int32)
    canvas = flat_paint._settle(pixels, accept, free, table, table[1:])
    assert [x != flat_paint.FREE for x in table[1:].tolist()] == [i % 2 == 0 for i in range(num)]
    assert num - 1 <= len(rounds) <= num + flat_paint.rounds_per_read(num)
    # Mask 0 has the first ten pixels; then each second mask has the eight that the one before leaves.
    expected = 10 * [1] + [i + 1 for i in range(2, num, 2) for _ in range(8)]
    assert canvas[: len(expected)].tolist() == expected and (canvas[len(expected) :] == flat_paint.FREE).all()


def test_only_marked_decisions_run_at_once_and_only_on_a_gpu():
    accept = elementwise(lambda scene, candidate: candidate.overlap == 0)
    assert paints_flat(partial(partial(accept), None), torch.device("cuda:1"))
    assert not paints_flat(accept, torch.device("cpu"))
    assert not paints_flat(lambda candidate: candidate.mask.any(), torch.device("cuda"))


def test_memory_is_bounded_by_the_chunk(monkeypatch):
    monkeypatch.setattr(flat_paint, "FEW", 0)
    monkeypatch.setattr(flat_paint, "MAX_PIXELS", 2500)
    torch.manual_seed(0)
    crops = PastedCrops(smooth_maps(60, 3).sigmoid(), random_boxes(60, (30, 40), 0.0), (30, 40))
    with LargestTensor(views=False) as most:
        flat_paint.paint_flat(crops, range(60), lambda c: fits(c.overlap, c.area, 0.5))
    assert max(count_pixels([window]) for window in crops.windows) < 2500
    assert most.numel <= 2501 and count_pixels(crops.windows) > 3 * 2500


def test_chunks():
    windows = [(slice(0, h), slice(2, 2 + w)) for h, w in ((2, 3), (1, 1), (0, 9), (4, 4), (1, 5), (1, 1))]
    assert list(chunk_windows(windows, 7)) == [slice(0, 3), slice(3, 4), slice(4, 6)]
    assert list(chunk_windows(windows, 10**6)) == [slice(0, 6)] and list(chunk_windows([], 7)) == []
    assert list(chunk_windows(windows[3:], 7)) == [slice(0, 1), slice(1, 3)]  # the first alone is too large


@pytest.mark.parametrize("kind", ["pasted", "bitmask", "logits", "bit logits"])
def test_values_of_a_flat_list_are_those_of_the_crops(kind):
    """Bit by bit, for boxes in, on and over the border, empty and inverted ones."""
    torch.manual_seed(0)
    size = (23, 31)
    for _ in range(30):
        boxes = random_boxes(12, size, 9.0)
        boxes[:4] = torch.tensor([[9.0, 9, 4, 4], [-30, -30, -20, -20], [5, 5, 5, 5], [-100, -100, 153, 141]])
        masks = torch.rand(12, *size) < 0.5
        crops = {
            "pasted": lambda b=boxes: PastedCrops(smooth_maps(12, 9).sigmoid(), b, size),
            "bitmask": lambda b=boxes, m=masks: BitmaskCrops(m, b),
            "logits": lambda b=boxes: ResizedLogitCrops(torch.randn(12, 7, 7), b, size),
            "bit logits": lambda b=boxes, m=masks: BitMaskLogitCrops(m, torch.arange(12), b),
        }[kind]()
        index = torch.randperm(12)[:9]
        windows = [crops.windows[i] for i in index.tolist()]
        (pixels,) = WindowPixels.each([WindowTable.of(windows, index.tolist())], crops.device)
        expected = [crops[i].flatten() for i in index.tolist()]
        assert torch.equal(crops.at(pixels), torch.cat(expected))
        if kind.endswith("logits"):
            rows = [
                crops.rows(i, w[0].start, w[0].stop).flatten() for i, w in zip(index.tolist(), windows, strict=True)
            ]
            assert torch.equal(crops.logits_at(pixels), torch.cat(rows))
        addresses = torch.arange(size[0] * size[1]).view(size)
        assert torch.equal(pixels.addresses(size[1]), torch.cat([addresses[window].flatten() for window in windows]))
        counts = torch.tensor([x.sum() if kind in ("pasted", "bitmask") else (x > 0).sum() for x in expected])
        assert torch.equal(pixels.sums(torch.cat(expected) > 0), counts)


def check_panoptic_heads(seeds, monkeypatch):
    """UPSNet's pruning and argmax, with ties, in chunks and strips of random size."""
    from test_upsnet_fusion import random_case

    num_labels = 0
    for seed in seeds:
        fusion, sem_seg, instances = random_case(seed, (3, 4))
        rng = random.Random(seed)
        limit = rng.choice([1, 50, 10**6])
        monkeypatch.setattr(flat_paint, "FEW", rng.choice([0, 3]))
        monkeypatch.setattr(flat_paint, "MAX_PIXELS", limit)
        monkeypatch.setattr(flat_argmax, "MAX_PIXELS", limit)
        monkeypatch.setattr(mask_pruning, "MAX_CANVAS_PIXELS", rng.choice([1, 2000, 10**6]))
        results = []
        for flat in (False, True):
            (FLAT_DEVICES.add if flat else FLAT_DEVICES.discard)("cpu")
            results.append(fusion(sem_seg, instances))
        FLAT_DEVICES.discard("cpu")
        (map_of_loop, segments_of_loop), (flat_map, flat_segments) = results
        assert torch.equal(map_of_loop, flat_map) and segments_of_loop == flat_segments, seed
        num_labels += len(flat_map.unique())
    return num_labels


def test_random_panoptic_heads(monkeypatch):
    assert check_panoptic_heads(range(200), monkeypatch) > 400


@pytest.mark.slow
def test_more_random_panoptic_heads(monkeypatch):
    assert check_panoptic_heads(range(200, 2000), monkeypatch) > 3000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("num", [5, 100, 300])
@pytest.mark.parametrize("name", RULES)
def test_on_cuda_the_map_is_that_of_the_loop(name, num):
    size = (512, 1024)
    sem_seg, instances = scene_with_things(size, num)
    sem_seg, instances = SemSegLogits(sem_seg.logits.to("cuda"), size, size, size), instances.to("cuda")
    fusion = build(name).to("cuda")
    with torch.no_grad():
        flat_map, flat_segments = fusion(sem_seg, instances)
        FLAT_DEVICES.discard("cuda")
        try:
            loop_map, loop_segments = fusion(sem_seg, instances)
        finally:
            FLAT_DEVICES.add("cuda")
    assert torch.equal(flat_map, loop_map) and flat_segments == loop_segments
    assert any(s["isthing"] for s in flat_segments)

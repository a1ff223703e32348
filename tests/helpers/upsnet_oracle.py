"""UPSNet's panoptic head once more, in slow loops over dense arrays: what the tests of the fast one compare with.

It follows the description of the published implementation step by step and knows nothing of the package's code.
Boxes are XYXY with exclusive ends, as detectron2 has them; `legacy` makes the inclusive ones of the description.
"""

import math

import torch
from torch.nn import functional as F

VOID = 255


def legacy(box):
    x0, y0, x1, y1 = box
    return x0, y0, x1 - 1, y1 - 1


def round_half_even(value):
    return round(value)  # Python's rule


def resize_bilinear(mask, height, width):
    """(M, M) lists to height x width lists, half-pixel centres, edges continued."""
    side = len(mask)

    def taps(length):
        result = []
        for k in range(length):
            source = max((k + 0.5) * side / length - 0.5, 0.0)
            low = min(int(source), side - 1)
            result.append((low, min(low + 1, side - 1), source - low))
        return result

    columns, rows = taps(width), taps(height)
    resized = []
    for r0, r1, wr in rows:
        line = []
        for c0, c1, wc in columns:
            top = mask[r0][c0] + wc * (mask[r0][c1] - mask[r0][c0])
            bottom = mask[r1][c0] + wc * (mask[r1][c1] - mask[r1][c0])
            line.append(top + wr * (bottom - top))
        resized.append(line)
    return resized


def mask_map(mask, box, height, width):
    """Y_mask (height, width): the mask logits resized to the truncated box, zero elsewhere."""
    x0, y0, x1, y1 = (math.trunc(v) for v in box)
    w, h = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
    resized = resize_bilinear(mask, h, w)
    full = [[0.0] * width for _ in range(height)]
    for i in range(h):
        for j in range(w):
            if 0 <= y0 + i < height and 0 <= x0 + j < width:
                full[y0 + i][x0 + j] = resized[i][j]
    return full


def in_semantic_box(y, x, box):
    """Whether X_mask has the semantic logit at a pixel. The package's own addition: it has it wherever Y_mask has one,
    which matters for boxes narrower than a pixel only."""
    x0, y0, x1, y1 = box

    def inside(value, low, high):
        first = math.trunc(low)
        return first <= value < max(round_half_even(high) + 1, first + max(math.trunc(high) - first + 1, 1))

    return inside(y, y0, y1) and inside(x, x0, x1)


def suppress(boxes, scores, classes, score_thresh):
    """Score, class-agnostic NMS at 0.5, top 100: rows by descending score."""
    order = sorted((i for i in range(len(boxes))), key=lambda i: -scores[i])
    kept = []
    for i in order:
        if not scores[i] > score_thresh:
            continue
        a = legacy(boxes[i])
        area_a = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
        suppressed = False
        for j in kept:
            b = legacy(boxes[j])
            w = min(a[2], b[2]) - max(a[0], b[0]) + 1
            h = min(a[3], b[3]) - max(a[1], b[1]) + 1
            intersection = max(w, 0) * max(h, 0)
            area_b = (b[2] - b[0] + 1) * (b[3] - b[1] + 1)
            if intersection / (area_a + area_b - intersection) > 0.5:
                suppressed = True
        if not suppressed:
            kept.append(i)
    return kept[:100]


def prune(rows, maps, classes, thresh, height, width):
    """Mask removal with a canvas for each class."""
    canvases, kept = {}, []
    for i in rows:
        canvas = canvases.setdefault(classes[i], set())
        mask = {(y, x) for y in range(height) for x in range(width) if maps[i][y][x] > 0}
        if not mask or len(mask & canvas) / len(mask) > thresh:
            continue
        canvas |= mask
        kept.append(i)
    return kept


def infer(
    semantic, boxes, scores, classes, masks, *, num_stuff, score_thresh, overlap_thresh, stuff_area_limit, unknown=True
):
    """The panoptic map (height lists of width ints) and its segments_info.

    Args:
        semantic: (C, H, W) nested lists; boxes: R of four floats; masks: R of M x M lists, or of H x W bools.
    """
    height, width = len(semantic[0]), len(semantic[0][0])
    legacy_boxes = [legacy(b) for b in boxes]
    rows = suppress(boxes, scores, classes, score_thresh)
    maps = {i: mask_map(masks[i], legacy_boxes[i], height, width) for i in rows}
    kept = prune(rows, maps, classes, overlap_thresh, height, width)

    winner = [[0] * width for _ in range(height)]
    semantic_argmax = [[0] * width for _ in range(height)]
    for y in range(height):
        for x in range(width):
            pixel = [channel[y][x] for channel in semantic]
            semantic_argmax[y][x] = pixel.index(max(pixel))
            z = pixel[:num_stuff]
            x_masks = []
            for i in kept:
                value = pixel[num_stuff + classes[i]] if in_semantic_box(y, x, legacy_boxes[i]) else 0.0
                x_masks.append(value)
                z.append(value + maps[i][y][x])
            if unknown:
                z.append(max(pixel[num_stuff:]) - (max(x_masks) if x_masks else 0.0))
            best = z.index(max(z)) if z else VOID
            winner[y][x] = VOID if unknown and best == num_stuff + len(kept) else best

    # The class of each instance.
    pixels = {}
    for y in range(height):
        for x in range(width):
            pixels.setdefault(winner[y][x], []).append((y, x))
    things, stuff = [], {}
    for index in sorted(pixels):
        if index == VOID:
            continue
        region = pixels[index]
        if index < num_stuff:
            stuff.setdefault(index, []).extend(region)
            continue
        row = kept[index - num_stuff]
        counts = {}
        for y, x in region:
            counts[semantic_argmax[y][x]] = counts.get(semantic_argmax[y][x], 0) + 1
        mode = min(c for c in counts if counts[c] == max(counts.values()))
        if mode == num_stuff + classes[row]:
            things.append((row, region))
        elif counts[mode] / len(region) >= 0.5 and mode < num_stuff:
            stuff.setdefault(mode, []).extend(region)
        else:
            things.append((row, region))

    panoptic, segments = [[0] * width for _ in range(height)], []
    for row, region in things:
        segments.append(
            {
                "id": len(segments) + 1, "isthing": True, "category_id": classes[row], "score": scores[row],
                "instance_id": row, "area": len(region),
            }
        )  # fmt: skip
        for y, x in region:
            panoptic[y][x] = len(segments)
    for index in sorted(stuff):
        if len(stuff[index]) < stuff_area_limit:
            continue
        segments.append({"id": len(segments) + 1, "isthing": False, "category_id": index, "area": len(stuff[index])})
        for y, x in stuff[index]:
            panoptic[y][x] = len(segments)
    return panoptic, segments


def training_loss(semantic, boxes, classes, mask_logits, gt_sem_seg, gt_masks, *, num_stuff, unknown=True):
    """The panoptic loss of one image, as a differentiable scalar.

    Args:
        semantic: (C, h, w), at a quarter of the size; boxes: R of four floats, in pixels of the full size; classes: R;
        mask_logits: (R, M, M); gt_sem_seg: (H, W); gt_masks: R bool (H', W'). All R instances have a channel, in this
        order.
    """
    _, h, w = semantic.shape
    z = [semantic[s] for s in range(num_stuff)]
    x_masks = []
    for box, cls, logits in zip(boxes, classes, mask_logits, strict=True):
        box = [v / 4 for v in legacy(box)]
        x0, y0, x1, y1 = (math.trunc(v) for v in box)
        resized = F.interpolate(
            logits[None, None], size=(max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)), mode="bilinear", align_corners=False
        )[0, 0]
        y_mask = torch.zeros_like(semantic[0])
        x_mask = torch.zeros_like(semantic[0])
        for y in range(h):
            for x in range(w):
                if 0 <= y - y0 < len(resized) and 0 <= x - x0 < resized.shape[1]:
                    y_mask[y, x] = resized[y - y0, x - x0]
                if in_semantic_box(y, x, box):
                    x_mask[y, x] = semantic[num_stuff + cls, y, x]
        x_masks.append(x_mask)
        z.append(x_mask + y_mask)
    if unknown:
        highest_x = torch.stack(x_masks).max(0)[0] if x_masks else 0.0
        z.append(semantic[num_stuff:].max(0)[0] - highest_x)

    target = torch.full((h, w), VOID)
    for y in range(h):
        for x in range(w):
            label = int(gt_sem_seg[4 * y, 4 * x])
            if label < num_stuff:
                target[y, x] = label
            elif label != VOID:
                target[y, x] = num_stuff + len(boxes) if unknown else VOID
            for i, mask in enumerate(gt_masks):
                if 4 * y < mask.shape[0] and 4 * x < mask.shape[1] and mask[4 * y, 4 * x]:
                    target[y, x] = num_stuff + i
    if not z:
        return semantic.sum() * 0
    losses = F.cross_entropy(torch.stack(z)[None], target[None], ignore_index=VOID, reduction="none")
    return losses.sum() / (h * w)

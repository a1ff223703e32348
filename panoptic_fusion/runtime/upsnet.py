"""UPSNet's panoptic head at inference in numpy (section 3.1 and 3.2); twin of `modeling/fusion/upsnet`.

Shapes: S is the number of stuff classes, N the number of instances in the head, H x W the fusion resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from panoptic_fusion.decisions import MAX_INSTANCES, NMS_THRESH, exceeds_score, fits
from panoptic_fusion.resampling import shortest_edge_scale
from panoptic_fusion.segments import segments_of_head

from .instances import Instances
from .labels import resize_labels
from .mask_crops import Window
from .mask_logits import MaskLogitCrops
from .painting import Candidate, PanopticSeg, paint
from .sem_seg_logits import SemSegLogits, Size, max_over_channels
from .settings import FusionSettings


def fuse_panoptic_head(
    sem_seg: SemSegLogits, instances: Instances, size: Size, settings: FusionSettings, *, num_stuff: int
) -> PanopticSeg:
    """Prunes the instances, then gives every pixel to the highest panoptic logit.

    Args:
        sem_seg: semantic logits of S + T channels.
        instances: R instances at `sem_seg.output_size`.
        size: size of the output.
        settings: settings of UPSNetFusion.
        num_stuff: S.
    """
    rows = suppress_boxes(instances.boxes, instances.scores)
    rows = rows[exceeds_score(instances.scores[rows], settings.instances_confidence_thresh)]
    used = instances[rows]
    masks = MaskLogitCrops(used)
    kept = prune_masks(masks, used.classes.tolist(), settings.overlap_thresh)
    labels, stuff = panoptic_argmax(
        sem_seg, masks, kept, [num_stuff + int(used.classes[i]) for i in kept],
        num_stuff=num_stuff, unknown=settings.unknown,
    )  # fmt: skip
    scale = shortest_edge_scale(size, *settings.test_sizes) if settings.test_sizes else None
    return assign_segments(
        resize_labels(labels, size, scale),
        resize_labels(stuff, size, scale),
        used[np.array(kept, np.int64)],
        rows[kept].tolist(),
        settings,
        num_stuff=num_stuff,
    )


def suppress_boxes(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Applies class-agnostic non-maximum suppression: drops boxes with IoU above 0.5 with a higher-scoring box.

    Args:
        boxes: (R, 4) float32, XYXY with exclusive ends.
        scores: (R,) float32.

    Returns:
        (K,) int64, the remaining rows by descending score (in a tie the lower row first), at most 100.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    remains = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if remains[i]:
            later = slice(i + 1, None)
            sides = np.minimum(boxes[i, 2:], boxes[later, 2:]) - np.maximum(boxes[i, :2], boxes[later, :2])
            overlap = np.maximum(sides[:, 0], 0) * np.maximum(sides[:, 1], 0)
            with np.errstate(invalid="ignore"):
                remains[later] &= ~(overlap / (areas[i] + areas[later] - overlap) > NMS_THRESH)
    return order[remains][:MAX_INSTANCES]


def prune_masks(crops: MaskLogitCrops, classes: Sequence[int], thresh: float) -> list[int]:
    """Pastes the masks of each class onto its own canvas in the given order, and drops masks that do not fit.

    A mask is dropped if it is empty or if more than the fraction `thresh` of it is already covered on its canvas.

    Args:
        crops: masks by descending score.
        classes: their thing ids.
        thresh: overlap threshold in [0, 1].

    Returns:
        The indices of the masks that are kept, ascending.
    """
    kept: list[int] = []

    def accept(candidate: Candidate) -> bool:
        accepted = bool(fits(candidate.overlap, candidate.area, thresh))
        if accepted:
            kept.append(candidate.index)
        return accepted

    for thing in sorted(set(classes)):
        paint(crops, [index for index, other in enumerate(classes) if other == thing], accept)
    return sorted(kept)


def panoptic_argmax(
    sem_seg: SemSegLogits,
    masks: MaskLogitCrops,
    order: Sequence[int],
    channels: Sequence[int],
    *,
    num_stuff: int,
    unknown: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the argmax over [stuff, instances, unknown], the lowest index in a tie, and the semantic argmax.

    Args:
        sem_seg: logits of S + T channels, stuff first.
        masks: mask logits of at least the instances in `order`.
        order: N instances of the head in channel order, as rows of `masks`.
        channels: semantic channel of the class of each instance in `order`.
        num_stuff: S.
        unknown: whether there is an unknown channel.

    Returns:
        labels (H, W) int16: s < S for stuff, S + i for the i-th instance in `order`, and S + N where nothing won.
        stuff (H, W) int16: the semantic argmax, s < S for stuff, and S for any thing.
    """
    labels = np.empty(sem_seg.output_size, np.int16)
    stuff = np.empty_like(labels)
    first_outside = _first_outside([masks.windows[i] for i in order], sem_seg.output_size)
    for y0, y1, logits in sem_seg.strips():
        highest_thing = logits[num_stuff:].max(axis=0)
        if num_stuff:
            highest, label = max_over_channels(logits[:num_stuff])
        else:
            highest, label = np.full_like(highest_thing, -np.inf), np.zeros_like(labels[y0:y1])
        stuff[y0:y1] = np.where(highest >= highest_thing, label, num_stuff)

        outside = first_outside[y0:y1]
        highest_x = np.where((outside < len(order)) | (len(order) == 0), 0, -np.inf).astype(np.float32)
        for code, (index, channel) in enumerate(zip(order, channels, strict=True), start=num_stuff):
            rows, columns = masks.windows[index]
            top, bottom = max(y0, rows.start), min(y1, rows.stop)
            if top < bottom:
                window = (slice(top - y0, bottom - y0), columns)
                x = logits[channel][window]
                z = x + masks.rows(index, top, bottom)
                label[window][z > highest[window]] = code
                np.maximum(highest[window], z, out=highest[window])
                np.maximum(highest_x[window], x, out=highest_x[window])

        # Instances have the logit 0 outside their boxes. The first such instance at a pixel has the lowest index.
        zero_label = outside + np.int16(num_stuff)
        zero_wins = (highest < 0) | ((highest == 0) & (label > zero_label))
        zero_wins &= outside < len(order)
        label = np.where(zero_wins, zero_label, label)
        if unknown:
            highest[zero_wins] = 0
            label = np.where(highest_thing - highest_x > highest, num_stuff + len(order), label)
        labels[y0:y1] = label
    return labels, stuff


def _first_outside(windows: Sequence[Window], size: Size) -> np.ndarray:
    """Returns for each pixel the first of N windows that does not contain it, N if all do, (H, W) int16."""
    first = np.zeros(size, np.int16)
    top, bottom, left, right = 0, size[0], 0, size[1]
    for rows, columns in windows:
        top, bottom = max(top, rows.start), min(bottom, rows.stop)
        left, right = max(left, columns.start), min(right, columns.stop)
        if top >= bottom or left >= right:
            break
        first[top:bottom, left:right] += 1
    return first


def assign_segments(
    labels: np.ndarray,
    stuff: np.ndarray,
    instances: Instances,
    rows: Sequence[int],
    settings: FusionSettings,
    *,
    num_stuff: int,
) -> PanopticSeg:
    """Converts the argmax of the panoptic head to a panoptic segmentation, with the class heuristic and area limit.

    Args:
        labels, stuff: (H, W) int16, result of `panoptic_argmax`.
        instances: the N instances of the head.
        rows: their rows in the fusion's instances.
        settings: settings of UPSNetFusion.
        num_stuff: S.
    """
    shape = (num_stuff + len(rows) + 1, num_stuff + 1)
    pairs = labels.astype(np.int32) * shape[1] + stuff
    counts = np.bincount(pairs.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
    ids, segments_info = segments_of_head(
        counts, rows=rows, classes=instances.classes.tolist(), scores=instances.scores.tolist(), num_stuff=num_stuff,
        stuff_area_limit=settings.stuff_area_limit, keep_instance_classes=settings.keep_instance_classes,
    )  # fmt: skip
    return ids[labels], segments_info

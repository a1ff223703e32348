"""UPSNet's panoptic head at inference (section 3.1): the argmax over stuff, instance and unknown logits.

The S + N + 1 logit maps never exist at once. The semantic logits are processed in strips of rows. In a strip, the
highest stuff logit and its channel are running results, which each instance updates within its window.

As in the published code, an instance has the logit 0 outside its box, not -inf. If all stuff logits and the logits of
all boxes at a pixel are negative, an instance elsewhere wins the pixel (the first of several).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from panoptic_fusion.modeling.fusion.mask_crops import Window
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits, max_over_channels
from panoptic_fusion.modeling.fusion.upsnet.mask_logit_crops import MaskLogitCrops
from panoptic_fusion.modeling.fusion.upsnet.unknown_channel import unknown_logits, x_mask_fill_value


def panoptic_argmax(
    sem_seg: SemSegLogits,
    masks: MaskLogitCrops,
    order: Sequence[int],
    channels: Sequence[int],
    *,
    num_stuff: int,
    unknown: bool = True,
) -> tuple[Tensor, Tensor]:
    """Returns the argmax over [stuff, instances, unknown], the lowest index in a tie, and the semantic argmax.

    Without instances there is no instance channel.

    Args:
        sem_seg: logits of S + T channels, stuff first.
        masks: Y_mask of at least the instances in `order`.
        order: N instances of the head in channel order, as rows of `masks`.
        channels: N semantic channels, one for the class of each instance in `order`.
        num_stuff: S, the number of stuff classes.
        unknown: whether there is an unknown channel.

    Returns:
        labels (H, W) int16: s < S for stuff, S + i for the i-th instance in `order`, and S + N where nothing won
        (unknown, or neither a stuff class nor an instance exists).
        stuff (H, W) int16: the semantic argmax, s < S for stuff, and S for any thing.
    """
    num_instances, device = len(order), sem_seg.logits.device
    labels = torch.empty(sem_seg.output_size, dtype=torch.int16, device=device)
    stuff = torch.empty_like(labels)
    codes = torch.arange(num_stuff, num_stuff + num_instances, dtype=torch.int16, device=device).unbind()
    first_outside = _first_outside([masks.windows[i] for i in order], sem_seg.output_size, device)
    for y0, y1, logits in sem_seg.strips():
        highest_thing = logits[num_stuff:].amax(0)
        if num_stuff:
            highest, label = max_over_channels(logits[:num_stuff])
        else:
            highest, label = torch.full_like(highest_thing, -torch.inf), torch.zeros_like(labels[y0:y1])
        stuff[y0:y1] = torch.where(highest >= highest_thing, label, num_stuff)

        outside = first_outside[y0:y1]
        highest_x = x_mask_fill_value((outside < num_instances) | (num_instances == 0))
        for code, index, channel in zip(codes, order, channels, strict=True):
            rows, cols = masks.windows[index]
            top, bottom = max(y0, rows.start), min(y1, rows.stop)
            if top < bottom:
                window = (slice(top - y0, bottom - y0), cols)
                x = logits[channel][window]
                _update(highest[window], label[window], x + masks.rows(index, top, bottom), code)
                torch.maximum(highest_x[window], x, out=highest_x[window])

        # Instances have the logit 0 outside their boxes. The first such instance at a pixel has the lowest index.
        zero_label = outside + num_stuff
        zero_wins = (highest < 0) | ((highest == 0) & (label > zero_label))
        zero_wins &= outside < num_instances
        label = torch.where(zero_wins, zero_label, label)
        if unknown:
            highest.masked_fill_(zero_wins, 0.0)
            label = torch.where(unknown_logits(highest_thing, highest_x) > highest, num_stuff + num_instances, label)
        labels[y0:y1] = label
    return labels, stuff


def _update(highest: Tensor, label: Tensor, z: Tensor, code: Tensor) -> None:
    """Updates `highest` and `label` in place where the logits `z` exceed the highest logit so far.

    Codes increase from instance to instance, so the newer of two codes at a pixel is the higher one. On a CPU the
    maximum of codes is ten times faster than a masked assignment.
    """
    torch.maximum(label, (z > highest) * code, out=label)
    torch.maximum(highest, z, out=highest)


def _first_outside(windows: Sequence[Window], size: tuple[int, int], device: torch.device) -> Tensor:
    """Returns for each pixel the first of N windows that does not contain it, N if all do, as (H, W) int16.

    The pixels inside all of the first k windows form a rectangle, which shrinks with k.
    """
    first = torch.zeros(size, dtype=torch.int16, device=device)
    top, bottom, left, right = 0, size[0], 0, size[1]
    for rows, cols in windows:
        top, bottom = max(top, rows.start), min(bottom, rows.stop)
        left, right = max(left, cols.start), min(right, cols.stop)
        if top >= bottom or left >= right:
            break
        first[top:bottom, left:right] += 1
    return first

"""UPSNet's panoptic head at inference (section 3.1): the argmax over stuff, instance and unknown logits.

The S + N + 1 logit maps never exist at once. The semantic logits are processed in strips of rows. In a strip, the
highest stuff logit and its channel are running results, which each instance updates within its window.

As in the published code, an instance has the logit 0 outside its box, not -inf. If all stuff logits and the logits of
all boxes at a pixel are negative, an instance elsewhere wins the pixel (the first of several).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from panoptic_fusion.modeling.fusion.paint import FLAT_DEVICES
from panoptic_fusion.modeling.fusion.sem_seg_logits import SemSegLogits, max_over_channels
from panoptic_fusion.modeling.fusion.upsnet.flat_argmax import FlatInstances
from panoptic_fusion.modeling.fusion.upsnet.mask_logit_crops import MaskLogitCrops
from panoptic_fusion.modeling.fusion.upsnet.unknown_channel import unknown_logits, x_mask_fill_value
from panoptic_fusion.modeling.fusion.window_pixels import Window, upload


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
    kind = FlatInstances if device.type in FLAT_DEVICES and num_instances else LoopInstances
    instances = kind(masks, order, channels, num_stuff, sem_seg.strip_rows())
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
        label = instances.update(y0, logits, highest, label, highest_x)

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


class LoopInstances:
    """The instances of the head, which update the running argmax of a strip one after another.

    The arguments and methods are as for `FlatInstances`. The strips are not used.
    """

    def __init__(
        self,
        masks: MaskLogitCrops,
        order: Sequence[int],
        channels: Sequence[int],
        num_stuff: int,
        strips: Sequence[tuple[int, int]],
    ):
        self.masks, self.order, self.channels = masks, order, channels
        codes = torch.arange(num_stuff, num_stuff + len(order), dtype=torch.int16, device=masks.device)
        self.codes = codes.unbind()

    def update(self, y0: int, logits: Tensor, highest: Tensor, label: Tensor, highest_x: Tensor) -> Tensor:
        """Updates the running results of a strip in place; see `FlatInstances.update`.

        Codes increase from instance to instance, so the newer of two codes at a pixel is the higher one. On a CPU the
        maximum of codes is ten times faster than a masked assignment.
        """
        y1 = y0 + logits.shape[1]
        for code, index, channel in zip(self.codes, self.order, self.channels, strict=True):
            rows, cols = self.masks.windows[index]
            top, bottom = max(y0, rows.start), min(y1, rows.stop)
            if top < bottom:
                window = (slice(top - y0, bottom - y0), cols)
                x = logits[channel][window]
                z, best = x + self.masks.rows(index, top, bottom), highest[window]
                torch.maximum(label[window], (z > best) * code, out=label[window])
                torch.maximum(best, z, out=best)
                torch.maximum(highest_x[window], x, out=highest_x[window])
        return label


def _first_outside(windows: Sequence[Window], size: tuple[int, int], device: torch.device) -> Tensor:
    """Returns for each pixel the first of N windows that does not contain it, N if all do, as (H, W) int16."""
    per_axis = [np.zeros(side, np.int64) for side in size]
    for first, own in zip(per_axis, zip(*windows, strict=True), strict=False):
        start, stop = 0, len(first)
        for side in own:
            start, stop = max(start, side.start), min(stop, side.stop)
            if start >= stop:
                break
            first[start:stop] += 1
    rows, cols = upload(per_axis, device)
    return torch.minimum(rows[:, None], cols).short()

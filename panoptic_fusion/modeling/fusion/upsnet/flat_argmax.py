"""Instance part of UPSNet's panoptic argmax without a loop over instances, for GPUs.

All pixels of all windows take part in two reductions per pixel of the map: the highest logit, and then the lowest label
that reaches it. The result matches `panoptic_argmax.LoopInstances`.

Shapes: N is the number of instances of the head, K the number of instances in a chunk, P the number of pixels in the
windows of a chunk, h x W the size of a strip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from panoptic_fusion.modeling.fusion.flat_paint import FREE, MAX_PIXELS
from panoptic_fusion.modeling.fusion.upsnet.mask_logit_crops import MaskLogitCrops
from panoptic_fusion.modeling.fusion.window_pixels import WindowPixels, chunk_windows


class FlatInstances:
    """The instances of the head, which update the running argmax of a strip.

    Args:
        masks: Y_mask of at least the instances in `order`.
        order: N instances in channel order, as rows of `masks`.
        channels: N semantic channels, one for the class of each instance.
        num_stuff: S; the label of the i-th instance is S + i.
    """

    def __init__(self, masks: MaskLogitCrops, order: Sequence[int], channels: Sequence[int], num_stuff: int):
        table = torch.tensor([order, channels], dtype=torch.int64, device=masks.device)
        self.masks, self.num_stuff = masks, num_stuff
        self.rows, self.channels = table.unbind()
        self.corners = masks.corners.index_select(0, self.rows)
        self.windows = [masks.windows[i] for i in order]

    def update(self, y0: int, logits: Tensor, highest: Tensor, label: Tensor, highest_x: Tensor) -> Tensor:
        """Updates the running results of a strip in place, except for the label.

        Args:
            y0: first row of the strip.
            logits: (C, h, W) float32 semantic logits.
            highest: (h, W) float32, highest logit so far.
            label: (h, W) int16, its label.
            highest_x: (h, W) float32, highest X_mask so far.

        Returns:
            (h, W) integers, the label after all instances.
        """
        _, height, width = logits.shape
        corners = self.corners.clone()
        corners[:, 1::2].clamp_(y0, y0 + height)
        label = label.int()
        windows = [(_clipped(rows, y0, y0 + height), cols) for rows, cols in self.windows]
        for part in chunk_windows(windows, MAX_PIXELS):
            pixels = WindowPixels.of(corners[part], windows[part])
            first = pixels.line_addresses((height, width)) - y0 * width
            addresses = pixels.addresses(first)
            first += (self.channels[part] * (height * width)).index_select(0, pixels.window)
            x = logits.flatten().index_select(0, pixels.addresses(first))
            z = x + self.masks.logits_at(self.rows[part], pixels)
            codes = torch.arange(part.start, part.stop, dtype=torch.int32, device=x.device) + self.num_stuff

            before = highest.clone()
            highest.view(-1).scatter_reduce_(0, addresses, z, "amax")
            label.masked_fill_(highest > before, FREE)
            wins = z == highest.view(-1).index_select(0, addresses)
            codes = torch.where(wins, pixels.of_windows(codes), FREE)
            label.view(-1).scatter_reduce_(0, addresses, codes, "amin")
            highest_x.view(-1).scatter_reduce_(0, addresses, x, "amax")
        return label


def _clipped(rows: slice, y0: int, y1: int) -> slice:
    return slice(min(max(rows.start, y0), y1), min(max(rows.stop, y0), y1))

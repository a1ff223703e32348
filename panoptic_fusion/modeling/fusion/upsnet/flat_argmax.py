"""Instance part of UPSNet's panoptic argmax without a loop over instances, for GPUs.

All pixels of all windows take part in two reductions per pixel of the map: the highest logit, and then the lowest label
that reaches it. The result matches `panoptic_argmax.LoopInstances`.

Shapes: N is the number of instances of the head, K the number of instances in a chunk, P the number of pixels in the
windows of a chunk, h x W the size of a strip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from panoptic_fusion.modeling.fusion.flat_paint import FREE, MAX_PIXELS
from panoptic_fusion.modeling.fusion.upsnet.mask_logit_crops import MaskLogitCrops
from panoptic_fusion.modeling.fusion.window_pixels import WindowPixels, WindowTable, chunk_windows


class FlatInstances:
    """The instances of the head, which update the running argmax of one strip after another.

    Args:
        masks: Y_mask of at least the instances in `order`.
        order: N instances in channel order, as rows of `masks`.
        channels: N semantic channels, one for the class of each instance.
        num_stuff: S; the label of the i-th instance is S + i.
        strips: rows (y0, y1) of the strips, in order.
    """

    def __init__(
        self,
        masks: MaskLogitCrops,
        order: Sequence[int],
        channels: Sequence[int],
        num_stuff: int,
        strips: Sequence[tuple[int, int]],
    ):
        self.masks, self.num_stuff = masks, num_stuff
        cols, tables, self._parts = np.arange(masks.size[1]), [], {}
        for y0, y1 in strips:
            windows = [(_clipped(masks.windows[i][0], y0, y1), masks.windows[i][1]) for i in order]
            self._parts[y0] = list(chunk_windows(windows, MAX_PIXELS))
            tables += [
                WindowTable.of(windows[part], order[part], channels[part], (np.arange(y0, y1), cols))
                for part in self._parts[y0]
            ]
        self._lists = WindowPixels.each(tables, masks.device)

    def update(self, y0: int, logits: Tensor, highest: Tensor, label: Tensor, highest_x: Tensor) -> Tensor:
        """Updates the running results of the next strip in place, except for the label.

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
        label = label.int()
        for part in self._parts[y0]:
            pixels = next(self._lists)
            addresses = pixels.addresses(width)
            x = logits.flatten().index_select(0, pixels.layered_addresses((height, width)))
            z = x + self.masks.logits_at(pixels)
            first, last = part.start + self.num_stuff, part.stop + self.num_stuff
            codes = pixels.of_windows(torch.arange(first, last, dtype=torch.int32, device=x.device))

            before = highest.clone()
            highest.view(-1).scatter_reduce_(0, addresses, z, "amax")
            label.masked_fill_(highest > before, FREE)
            codes.masked_fill_(z != highest.view(-1).index_select(0, addresses), FREE)
            label.view(-1).scatter_reduce_(0, addresses, codes, "amin")
            highest_x.view(-1).scatter_reduce_(0, addresses, x, "amax")
        return label


def _clipped(rows: slice, y0: int, y1: int) -> slice:
    """Returns the rows in y0..y1, counted from y0."""
    return slice(min(max(rows.start, y0), y1) - y0, min(max(rows.stop, y0), y1) - y0)

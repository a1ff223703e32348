"""Masks of the instances of an image at the cells of the spatial ranking module, each only in its own window.

Shapes: K is the number of instances, T the number of channels (the thing classes, or some of them), h x w the number of
cells, P the number of cells in the windows of a part of the instances.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from panoptic_fusion.layers.chunks import max_chunk_elements
from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops
from panoptic_fusion.modeling.fusion.window_pixels import Window, WindowPixels, WindowTable, chunk_windows

SCALE = 2.0**40
"""Probabilities are summed as multiples of 1 / SCALE, so that sums are exact and do not depend on their order."""


@dataclass(frozen=True)
class CellPart:
    """Cells in the windows of consecutive instances.

    Attributes:
        cells: the list of cells.
        addresses: (P,) int64, index of each cell in a flattened map (T, h, w), in the channel of its instance.
        masks: (P,) bool, whether each cell is in the mask.
    """

    cells: WindowPixels
    addresses: Tensor
    masks: Tensor


class CellMasks:
    """Masks of K instances at the cells.

    The number of operations and the memory grow with the area of the windows, not with K x h x w.
    """

    def __init__(self, crops: MaskCrops, instances: Sequence[int], channels: Sequence[int], rows: Tensor, cols: Tensor):
        """Prepares the windows.

        Args:
            crops: masks of at least these instances.
            instances: the K instances.
            channels: channel of each of them, in [0, T).
            rows, cols: (h,) and (w,) int64 on the CPU, in ascending order: the image pixels that the cells sample.
        """
        self.crops, self.size = crops, (len(rows), len(cols))
        pixels = rows.tolist(), cols.tolist()
        windows = [_cell_window(crops.windows[index], *pixels) for index in instances]
        self._tables = [
            WindowTable.of(windows[part], instances[part], channels[part], (rows.numpy(), cols.numpy()))
            for part in chunk_windows(windows, max_chunk_elements(crops.device))
        ]
        self._single = list(self._parts()) if len(self._tables) == 1 else None

    def class_channels(self, num_channels: int) -> Tensor:
        """Maps the instances to their channels: 1 where any instance of the channel is present, else 0.

        Args:
            num_channels: T.

        Returns:
            (T, h, w) float32 of zeros and ones.
        """
        channels = torch.zeros(num_channels, *self.size, device=self.crops.device)
        for part in self.parts():
            channels.view(-1).scatter_reduce_(0, part.addresses, part.masks.float(), "amax")
        return channels

    def ranking_scores(self, probabilities: Tensor, where: Tensor | None = None) -> Tensor:
        """Returns the mean probability of each instance's class over its mask (equation 3).

        Equation 4 prints the mask indicator inverted (0 inside the instance, 1 outside). This function uses 1 inside.

        Args:
            probabilities: (T, h, w) float32 or float64, softmax of the ranking score map.
            where: (h, w) bool, the cells that count. None: all of them.

        Returns:
            (K,) float64 in [0, 1], exact to 2^-40, and 1 for masks without a cell. Instances smaller than a cell are
            painted first, because they cover little of other instances, while others could cover them completely.
        """
        scores = []
        for part in self.parts():
            masks = part.masks
            if where is not None:
                masks = masks & where.flatten().index_select(0, part.cells.addresses(self.size[1]))
            units = probabilities.flatten().index_select(0, part.addresses).mul_(SCALE).long().mul_(masks)
            total, count = part.cells.sums(torch.stack((units, masks))).double()
            scores.append((total / count).div_(SCALE).nan_to_num_(nan=1.0))
        return torch.cat(scores) if scores else probabilities.new_ones(0, dtype=torch.float64)

    def parts(self) -> Iterator[CellPart]:
        """Yields the cells of consecutive instances, of at most as many cells as fit a chunk."""
        yield from self._single or self._parts()

    def _parts(self) -> Iterator[CellPart]:
        for cells in WindowPixels.each(self._tables, self.crops.device):
            yield CellPart(cells, cells.layered_addresses(self.size), self.crops.at(cells))


def _cell_window(window: Window, rows: Sequence[int], cols: Sequence[int]) -> Window:
    """Returns the cells whose sampled pixels are in a window of the image."""
    (y0, y1), (x0, x1) = (
        (bisect_left(p, s.start), bisect_left(p, s.stop)) for p, s in zip((rows, cols), window, strict=True)
    )
    return slice(y0, y1), slice(x0, x1)

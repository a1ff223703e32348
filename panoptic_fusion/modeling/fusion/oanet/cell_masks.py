"""Masks of the instances of an image at the cells of the spatial ranking module, each only in its own window.

Shapes: K is the number of instances, T the number of thing classes, h x w the number of cells, P the number of cells in
the windows of a part of the instances.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from panoptic_fusion.layers.chunks import max_chunk_elements
from panoptic_fusion.modeling.fusion.mask_crops import MaskCrops
from panoptic_fusion.modeling.fusion.window_pixels import Window, WindowPixels, chunk_windows

SCALE = 2.0**40
"""Probabilities are summed as multiples of 1 / SCALE, so that sums are exact and do not depend on their order."""


@dataclass(frozen=True)
class CellPart:
    """Cells in the windows of consecutive instances.

    Attributes:
        part: the instances.
        cells: the list of cells.
        first: (L,) int64, index of the first cell of each line in the flattened map (h, w).
        masks: (P,) bool, whether each cell is in the mask.
    """

    part: slice
    cells: WindowPixels
    first: Tensor
    masks: Tensor

    def addresses(self, classes: Tensor, num_cells: int) -> Tensor:
        """Returns the index of each cell in a flattened map (T, h, w), in the channel of its instance: (P,) int64."""
        return self.cells.addresses(self.first + (classes[self.part] * num_cells).index_select(0, self.cells.window))


class CellMasks:
    """Masks of K instances at the cells.

    The number of operations and the memory grow with the area of the windows, not with K x h x w.
    """

    def __init__(self, crops: MaskCrops, instances: Sequence[int], rows: Tensor, cols: Tensor):
        """Prepares the windows.

        Args:
            crops: masks of at least these instances.
            instances: the K instances.
            rows, cols: (h,) and (w,) int64 on the CPU, in ascending order: the image pixels that the cells sample.
        """
        self.crops, self.size = crops, (len(rows), len(cols))
        pixels = rows.tolist(), cols.tolist()
        self.windows = [_cell_window(crops.windows[index], *pixels) for index in instances]
        table = [[i, x.start, y.start, x.stop, y.stop] for i, (y, x) in zip(instances, self.windows, strict=True)]
        sizes = [5 * len(table), len(cols), len(rows)]  # all values are copied to the device at once
        values = torch.cat([torch.tensor(table, dtype=torch.int64).flatten(), cols, rows]).to(crops.device)
        table, self.cols, self.rows = values.split(sizes)
        self.index, self.corners = table.view(-1, 5)[:, 0], table.view(-1, 5)[:, 1:]
        self._chunks = list(chunk_windows(self.windows, max_chunk_elements(crops.device)))
        self._single = [self._part(part) for part in self._chunks] if len(self._chunks) == 1 else None

    def class_channels(self, classes: Tensor, num_classes: int) -> Tensor:
        """Maps the instances to the channels of their classes: 1 where any instance of the class is present, else 0.

        Args:
            classes: (K,) int64 in [0, T).
            num_classes: T, the number of thing classes.

        Returns:
            (T, h, w) float32 of zeros and ones.
        """
        channels = torch.zeros(num_classes, *self.size, device=self.crops.device)
        for part in self.parts():
            addresses = part.addresses(classes, self.size[0] * self.size[1])
            channels.view(-1).scatter_reduce_(0, addresses, part.masks.float(), "amax")
        return channels

    def ranking_scores(self, probabilities: Tensor, classes: Tensor, where: Tensor | None = None) -> Tensor:
        """Returns the mean probability of each instance's class over its mask (equation 3).

        Equation 4 prints the mask indicator inverted (0 inside the instance, 1 outside). This function uses 1 inside.

        Args:
            probabilities: (T, h, w) float, softmax of the ranking score map.
            classes: (K,) int64 in [0, T).
            where: (h, w) bool, the cells that count. None: all of them.

        Returns:
            (K,) float64 in [0, 1], exact to 2^-40, and 1 for masks without a cell. Instances smaller than a cell are
            painted first, because they cover little of other instances, while others could cover them completely.
        """
        scores = []
        for part in self.parts():
            masks = part.masks
            if where is not None:
                masks = masks & where.flatten().index_select(0, part.cells.addresses(part.first))
            addresses = part.addresses(classes, self.size[0] * self.size[1])
            units = probabilities.flatten().index_select(0, addresses).double().mul_(SCALE).long().mul_(masks)
            total, count = part.cells.sums(units), part.cells.sums(masks)
            scores.append(torch.where(count > 0, total.double() / SCALE / count.clamp(min=1), 1.0))
        return torch.cat(scores) if scores else classes.new_ones(0, dtype=torch.float64)

    def parts(self) -> Iterator[CellPart]:
        """Yields the cells of consecutive instances, of at most as many cells as fit a chunk."""
        yield from self._single or map(self._part, self._chunks)

    def _part(self, part: slice) -> CellPart:
        cells = WindowPixels.of(self.corners[part], self.windows[part])
        cols, rows = cells.position.tensor_split([cells.num_cols])
        sampled = torch.cat([self.cols.index_select(0, cols), self.rows.index_select(0, rows)])
        pixels = replace(cells, position=sampled)
        return CellPart(part, cells, cells.line_addresses(self.size), self.crops.at(self.index[part], pixels))


def _cell_window(window: Window, rows: Sequence[int], cols: Sequence[int]) -> Window:
    """Returns the cells whose sampled pixels are in a window of the image."""
    (y0, y1), (x0, x1) = (
        (bisect_left(p, s.start), bisect_left(p, s.stop)) for p, s in zip((rows, cols), window, strict=True)
    )
    return slice(y0, y1), slice(x0, x1)

"""The ground-truth masks of many regions, without a copy of a whole mask for each of them."""

from __future__ import annotations

import torch
from detectron2.layers import ROIAlign
from torch import Tensor


class IndexedMasks:
    """R masks (H, W), each of them one of G: what training needs of detectron2's `BitMasks(masks[index])`.

    `BitMasks` would hold (R, H, W), and its crops would be taken from a float32 copy of that.

    Attributes:
        masks: (G, H, W) bool.
        index: (R,) int64, the row of each mask.
    """

    def __init__(self, masks: Tensor, index: Tensor | None = None):
        """Without `index` each mask once."""
        self.masks = masks
        self.index = torch.arange(len(masks), device=masks.device) if index is None else index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: slice | Tensor) -> IndexedMasks:
        """The masks that a slice or an int64 or bool tensor selects; `masks` is shared."""
        return IndexedMasks(self.masks, self.index[item])

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """See detectron2's BitMasks, bit for bit.

        Args:
            boxes: (R, 4) float, x0, y0, x1, y1 in pixels; one a mask.
            mask_size: side M of the crops.

        Returns:
            (R, M, M) bool.
        """
        used, row = self.index.unique(return_inverse=True)
        regions = torch.cat([row[:, None].to(boxes), boxes.to(row.device)], dim=1)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        return align(self.masks[used, None].float(), regions)[:, 0] >= 0.5

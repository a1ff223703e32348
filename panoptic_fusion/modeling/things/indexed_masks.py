"""Ground-truth masks of many regions, without a full copy of a mask per region."""

from __future__ import annotations

import torch
from detectron2.layers import ROIAlign
from torch import Tensor


class IndexedMasks:
    """R masks (H, W), each one of G stored masks: a replacement of detectron2's `BitMasks(masks[index])` in training.

    `BitMasks` would store (R, H, W), and would crop from a float32 copy of it.

    Attributes:
        masks: (G, H, W) bool.
        index: (R,) int64, the row in `masks` of each mask.
    """

    def __init__(self, masks: Tensor, index: Tensor | None = None):
        """Initializes the masks. Without `index`, each mask is used once."""
        self.masks = masks
        self.index = torch.arange(len(masks), device=masks.device) if index is None else index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: slice | Tensor) -> IndexedMasks:
        """Returns the masks selected by a slice or an int64 or bool tensor. `masks` is shared."""
        return IndexedMasks(self.masks, self.index[item])

    def crop_and_resize(self, boxes: Tensor, mask_size: int) -> Tensor:
        """Crops and resizes the masks. The result is identical to detectron2's BitMasks.

        Args:
            boxes: (R, 4) float, x0, y0, x1, y1 in pixels, one box per mask.
            mask_size: M, the side of the crops.

        Returns:
            (R, M, M) bool.
        """
        used, row = self.index.unique(return_inverse=True)
        regions = torch.cat([row[:, None].to(boxes), boxes.to(row.device)], dim=1)
        align = ROIAlign((mask_size, mask_size), 1.0, 0, aligned=True)
        return align(self.masks[used, None].float(), regions)[:, 0] >= 0.5

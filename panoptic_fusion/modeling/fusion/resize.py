"""Maps of labels at another size, by nearest neighbour: for fusions that work at the size of the network's input."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_labels(labels: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Labels (h, w), integers below 2^24, at the `size` (H, W); None: as they are. Pixel (y, x) reads
    (floor(y h / H), floor(x w / W))."""
    if size is None or tuple(labels.shape) == tuple(size):
        return labels
    return F.interpolate(labels[None, None].float(), size=tuple(size), mode="nearest")[0, 0].to(labels.dtype)


def resize_panoptic(
    panoptic_seg: Tensor, segments_info: list[dict], size: tuple[int, int] | None
) -> tuple[Tensor, list[dict]]:
    """A panoptic map at another size; areas are counted anew, vanished segments dropped, ids kept.

    Args:
        panoptic_seg: (h, w) int32.
        segments_info: its segments, with `id` and `area`.
        size: the new (height, width); None: as it is.
    """
    resized = resize_labels(panoptic_seg, size)
    if resized is panoptic_seg:
        return panoptic_seg, segments_info
    most = max((x["id"] for x in segments_info), default=0)
    areas = torch.bincount(resized.flatten(), minlength=most + 1).tolist()
    return resized, [{**x, "area": areas[x["id"]]} for x in segments_info if areas[x["id"]]]

"""Nearest-neighbor resizing of label maps, for fusions that work at input resolution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize_labels(labels: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Resizes a label map to `size` by nearest neighbor.

    Args:
        labels: (h, w) integers below 2^24.
        size: (H, W) of the result. None returns the labels unchanged.

    Returns:
        (H, W) labels. Pixel (y, x) is read from (floor(y h / H), floor(x w / W)).
    """
    if size is None or tuple(labels.shape) == tuple(size):
        return labels
    return F.interpolate(labels[None, None].float(), size=tuple(size), mode="nearest")[0, 0].to(labels.dtype)


def resize_panoptic(
    panoptic_seg: Tensor, segments_info: list[dict], size: tuple[int, int] | None
) -> tuple[Tensor, list[dict]]:
    """Resizes a panoptic map. Areas are recomputed, vanished segments are dropped, and ids are kept.

    Args:
        panoptic_seg: (h, w) int32.
        segments_info: its segments, with `id` and `area`.
        size: (height, width) of the result. None returns the map unchanged.
    """
    resized = resize_labels(panoptic_seg, size)
    if resized is panoptic_seg:
        return panoptic_seg, segments_info
    most = max((x["id"] for x in segments_info), default=0)
    areas = torch.bincount(resized.flatten(), minlength=most + 1).tolist()
    return resized, [{**x, "area": areas[x["id"]]} for x in segments_info if areas[x["id"]]]

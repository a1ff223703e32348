"""Nearest-neighbor resizing of label maps, for fusions that work at input resolution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from panoptic_fusion.segments import most_id, with_areas


def resize_labels(labels: Tensor, size: tuple[int, int] | None, scale: float | None = None) -> Tensor:
    """Resizes a label map to `size` by nearest neighbor.

    Args:
        labels: (h, w) integers below 2^24.
        size: (H, W) of the result. None returns the labels unchanged.
        scale: reads pixel (y, x) from (floor(y scale), floor(x scale)), as UPSNet's published code does. Ignored if it
            does not lead from H x W to h x w.

    Returns:
        (H, W) labels. Without `scale`, pixel (y, x) is read from (floor(y h / H), floor(x w / W)).
    """
    if size is None or tuple(labels.shape) == tuple(size):
        return labels
    if scale and all(abs(new * scale - old) < 0.51 for new, old in zip(size, labels.shape, strict=True)):
        for dim, (new, old) in enumerate(zip(size, labels.shape, strict=True)):
            source = torch.arange(new, dtype=torch.float64, device=labels.device) * scale
            labels = labels.index_select(dim, source.long().clamp(max=old - 1))
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
    return resized, recount(resized, segments_info)


def recount(panoptic_seg: Tensor, segments_info: list[dict]) -> list[dict]:
    """Returns segments with their areas in a map (H, W) int32; those without a pixel are dropped, and ids are kept."""
    areas = torch.bincount(panoptic_seg.flatten(), minlength=1 + most_id(segments_info)).tolist()
    return with_areas(segments_info, areas)

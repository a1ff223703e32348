"""Nearest-neighbor resizing of label maps, for fusions that work at input resolution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def shortest_edge_scale(size: tuple[int, int], min_size: int, max_size: int) -> float:
    """Returns the factor by which an image is resized to a short side of `min_size`, or else a long side of `max_size`.

    This is the factor of UPSNet's published code: the long side decides if it would exceed `max_size` after rounding,
    and the factor is stored as float32.

    Args:
        size: (height, width) of the image.
        min_size, max_size: target of the short side and limit of the long side, in pixels.
    """
    scale = min_size / min(size)
    if round(scale * max(size)) > max_size:
        scale = max_size / max(size)
    return float(torch.tensor(scale, dtype=torch.float32))


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
    most = max((x["id"] for x in segments_info), default=0)
    areas = torch.bincount(resized.flatten(), minlength=most + 1).tolist()
    return resized, [{**x, "area": areas[x["id"]]} for x in segments_info if areas[x["id"]]]

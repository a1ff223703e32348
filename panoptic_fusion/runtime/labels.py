"""Resizes label maps by nearest neighbor; numpy twin of `modeling/fusion/resize.py`."""

from __future__ import annotations

import numpy as np

from panoptic_fusion.segments import most_id, with_areas

from .sem_seg_logits import Size


def resize_labels(labels: np.ndarray, size: Size, scale: float | None = None) -> np.ndarray:
    """Resizes a label map (h, w) to `size`.

    Args:
        labels: (h, w) integers.
        size: (H, W) of the result.
        scale: reads pixel (y, x) from (floor(y scale), floor(x scale)). Ignored if it does not lead from H x W to
            h x w.

    Returns:
        (H, W) labels. Without `scale`, pixel (y, x) is read from (floor(y h / H), floor(x w / W)) in float32.
    """
    if labels.shape == size:
        return labels
    if scale and all(abs(new * scale - old) < 0.51 for new, old in zip(size, labels.shape, strict=True)):
        rows, columns = (
            np.minimum((np.arange(new) * scale).astype(np.int64), old - 1)
            for new, old in zip(size, labels.shape, strict=True)
        )
    else:
        rows, columns = (_nearest(old, new) for new, old in zip(size, labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]


def _nearest(old: int, new: int) -> np.ndarray:
    """Returns the elements of an axis that `torch.nn.functional.interpolate(mode="nearest")` reads, (new,) int64."""
    position = np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))
    return np.minimum(np.floor(position).astype(np.int64), old - 1)


def recount(panoptic_seg: np.ndarray, segments_info: list[dict]) -> list[dict]:
    """Returns segments with their areas in a map (H, W) int32; those without a pixel are dropped, and ids are kept."""
    areas = np.bincount(panoptic_seg.ravel(), minlength=1 + most_id(segments_info)).tolist()
    return with_areas(segments_info, areas)

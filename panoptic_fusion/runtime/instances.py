"""Instances of one image in numpy; the counterpart of detectron2's `Instances` in this runtime."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .sem_seg_logits import Size


@dataclass(frozen=True)
class Instances:
    """R instances of one image.

    Attributes:
        size: (height, width) of the image that the boxes refer to.
        boxes: (R, 4) float32, XYXY in its pixels.
        scores: (R,) float32.
        classes: (R,) int64 thing ids.
        mask_logits: (R, M, M) float32, raw mask logits of the predicted class on the box.
    """

    size: Size
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    mask_logits: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, rows: np.ndarray) -> Instances:
        """Returns the selected rows: (R,) bool or (K,) int64."""
        return Instances(self.size, self.boxes[rows], self.scores[rows], self.classes[rows], self.mask_logits[rows])

    def rescaled(self, size: Size) -> Instances:
        """Returns the instances in the coordinates of an image of `size`, with clipped boxes; all rows are kept."""
        scale = np.array([size[1] / self.size[1], size[0] / self.size[0]] * 2).astype(np.float32)
        limit = np.array([size[1], size[0]] * 2, np.float32)
        return replace(self, size=size, boxes=np.clip(self.boxes * scale, 0, limit))

    def visible(self, size: Size) -> Instances:
        """Returns the instances with a non-empty box in an image of `size`; their coordinates do not change."""
        boxes = self.rescaled(size).boxes
        return self[(boxes[:, 2:] - boxes[:, :2] > 0).all(axis=1)]

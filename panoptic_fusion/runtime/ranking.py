"""Ranking scores of OANet's spatial ranking module in numpy; twin of `modeling/fusion/oanet`.

Shapes: T is the number of thing classes, h x w the number of cells, K the number of ranked instances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .mask_crops import PastedCrops
from .sem_seg_logits import Size

RankingModule = Callable[[np.ndarray], np.ndarray]
"""Function from class channels (1, T, h, w) float32 to the ranking score map as logits (1, T, h, w) float32."""


def ranking_scores(
    crops: PastedCrops,
    kept: Sequence[int],
    classes: np.ndarray,
    module: RankingModule,
    *,
    num_things: int,
    stride: int,
    image_size: Size,
    contested_only: bool,
) -> np.ndarray:
    """Returns the ranking scores of K instances, (K,) float64 in [0, 1].

    The score is the mean probability of the instance's class over its cells, and 1 for a mask without a cell.

    Args:
        crops: masks of all R instances.
        kept: rows of the K instances.
        classes: (R,) int64 thing ids.
        module: ranking module.
        num_things: T.
        stride: side of a cell in pixels of the network's input.
        image_size: size of that input, without padding.
        contested_only: whether to average over the cells of a mask that masks of several classes claim.
    """
    rows, columns = (cell_pixels(n, stride, size) for n, size in zip(image_size, crops.size, strict=True))
    masks = [crops.sample(row, rows, columns) for row in kept]
    channels = np.zeros((num_things, len(rows), len(columns)), np.float32)
    for row, mask in zip(kept, masks, strict=True):
        channels[classes[row]][mask] = 1
    probabilities = _softmax(module(channels[None])[0])
    contested = channels.sum(axis=0) > 1
    scores = np.ones(len(kept))
    for place, (row, mask) in enumerate(zip(kept, masks, strict=True)):
        found = probabilities[classes[row]][mask & contested if contested_only else mask]
        if found.size:
            scores[place] = found.sum(dtype=np.float64) / found.size
    return scores


def cell_pixels(length: int, stride: int, image_length: int) -> np.ndarray:
    """Returns the image pixel that each cell samples along one axis: its middle, the second of two middle ones.

    Args:
        length: number of pixels of the network's input, without padding.
        stride: number of input pixels per cell.
        image_length: number of pixels of the sampled image.

    Returns:
        (ceil(length / stride),) int64.
    """
    middle = np.minimum(np.arange(0, length, stride) + stride // 2, length - 1)
    position = (middle.astype(np.float32) + np.float32(0.5)) * np.float32(image_length / length)
    return np.minimum(position.astype(np.int64), image_length - 1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax over the first axis, computed in float64 and rounded to float32."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=0))
    return (powers / powers.sum(axis=0)).astype(np.float32)

"""The part of a network that becomes an ONNX graph: normalization, padding, backbone and heads, without the fusion.

Shapes: N is the batch size, C the number of semantic channels, H x W the size of the images, Hp x Wp the same rounded
up to multiples of the network's size divisibility, R the number of instances in all images, M the side of a mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.networks.inference import BatchHeads, run_heads_on


class HeadsOutputs(NamedTuple):
    """Outputs of the graph, in its order.

    Attributes:
        sem_seg_logits: (N, C, Hp/4, Wp/4) float32.
        boxes: (R, 4) float32, XYXY in pixels of the H x W image.
        scores: (R,) float32 in [0, 1], descending within an image.
        classes: (R,) int64, thing ids.
        mask_logits: (R, M, M) float32, raw logits of the predicted class.
        batch_index: (R,) int64, the image of each instance, ascending.
    """

    sem_seg_logits: Tensor
    boxes: Tensor
    scores: Tensor
    classes: Tensor
    mask_logits: Tensor
    batch_index: Tensor


def heads_outputs(heads: BatchHeads) -> HeadsOutputs:
    """Returns the results of the heads for a batch, with the instances of all images together."""
    found = heads.instances
    return HeadsOutputs(
        heads.sem_seg_logits.float(),
        torch.cat([x.pred_boxes.tensor for x in found]),
        torch.cat([x.scores for x in found]).float(),
        torch.cat([x.pred_classes for x in found]),
        torch.cat([x.pred_mask_logits for x in found]).float(),
        torch.cat([torch.full_like(x.pred_classes, i) for i, x in enumerate(found)]),
    )


@contextmanager
def with_score_thresh(network: nn.Module, value: float | Tensor) -> Iterator[None]:
    """Sets the score threshold of the network's detections inside the context."""
    predictor = network.roi_heads.box_predictor
    before, predictor.test_score_thresh = predictor.test_score_thresh, value
    try:
        yield
    finally:
        predictor.test_score_thresh = before


class HeadsGraph(nn.Module):
    """Module that maps a batch of images of one size to `HeadsOutputs`, with the results of `run_heads`.

    Attributes:
        score_thresh: the network's score threshold as a 0-d float32 buffer, so that it stays an input of the graph's
            comparison that can be changed after the export.
    """

    def __init__(self, network: nn.Module):
        """Wraps a network in eval mode that has RoI heads and a stuff head."""
        super().__init__()
        self.network = network
        self.register_buffer("score_thresh", torch.tensor(float(network.roi_heads.box_predictor.test_score_thresh)))

    def forward(self, image: Tensor) -> HeadsOutputs:
        """Runs the network on `image` (N, 3, H, W) float32, values 0 to 255 in the channel order of INPUT.FORMAT."""
        network = self.network
        height, width = image.shape[-2:]
        divisor = network.backbone.size_divisibility
        padding = (0, -width % divisor, 0, -height % divisor) if divisor > 1 else (0, 0, 0, 0)
        padded = F.pad((image - network.pixel_mean) / network.pixel_std, padding)
        size = _as_size(height, width)
        with with_score_thresh(network, self.score_thresh):
            return heads_outputs(run_heads_on(network, ImageList(padded, [size] * image.shape[0])))


def _as_size(height: int | Tensor, width: int | Tensor) -> tuple[int, int] | Tensor:
    """Returns (height, width); while tracing, a (2,) int64 tensor as in detectron2's ImageList."""
    if isinstance(height, Tensor):
        return torch.stack([height, width])
    return height, width

"""Multi-scale and flip testing (TEST.AUG): the heads' results for several views of an image, merged before the fusion.

Semantic probabilities are averaged at output size, boxes of all views go through one more NMS, and the masks of the
boxes that remain are averaged over the views, as in detectron2's `GeneralizedRCNNWithTTA`. The fusion runs once.

Shape shorthand: C: semantic channels, H, W: size of the output, R: instances, M: side of a mask head's output.

Deviations: TASCNet and UPSNet report multi-scale results without saying how detections are merged; these are the rules
of detectron2. The merged results have output size, so MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION has no effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from panoptic_fusion.modeling.fusion import SemSegLogits
from panoptic_fusion.modeling.things.roi_heads import select_class

from .inference import ImageHeads, Size, output_size_of, rescale_instances, run_networks, visible_instances


def heads_of_images(
    batched_inputs: list[dict],
    instance_network: nn.Module | None,
    semantic_network: nn.Module | None,
    augmentation: TestTimeAugmentation | None,
) -> Iterator[tuple[ImageHeads, Size]]:
    """Yields for each image what the heads computed, in one view or in several, and the size of its outputs.

    Args:
        batched_inputs, instance_network, semantic_network: see `run_networks`.
        augmentation: the views; None: one pass over the batch as it is.
    """
    if augmentation is not None:
        yield from (augmentation.heads(x, instance_network, semantic_network) for x in batched_inputs)
        return
    heads = run_networks(batched_inputs, instance_network, semantic_network)
    yield from ((image, output_size_of(x, image.image_size)) for image, x in zip(heads, batched_inputs, strict=True))


@dataclass(frozen=True)
class View:
    """An image as one pass of the network sees it.

    Attributes:
        size: short side in pixels; 0 keeps the image's size.
        flip: mirrored left to right.
    """

    size: int
    flip: bool


@dataclass(frozen=True)
class TestTimeAugmentation:
    """The views of an image, and how their results are merged.

    Attributes:
        views: at least one.
        max_size: limit of a view's long side in pixels.
        nms_thresh, max_detections: IoU of the last NMS, and how many instances remain.
    """

    __test__ = False  # not a test class of pytest

    views: tuple[View, ...]
    max_size: int
    nms_thresh: float
    max_detections: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> TestTimeAugmentation | None:
        """Returns what TEST.AUG asks for: each of MIN_SIZES, and each mirrored with FLIP; None if it is off."""
        aug = cfg.TEST.AUG
        if not aug.ENABLED:
            return None
        flips = (False, True) if aug.FLIP else (False,)
        views = tuple(View(size, flip) for size in aug.MIN_SIZES for flip in flips)
        return cls(views, aug.MAX_SIZE, cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE)

    def image_of(self, view: View, image: Tensor) -> dict[str, Tensor]:
        """Returns the input dict of a view of an image (3, h, w) in [0, 255], resized as detectron2's mapper does."""
        pixels = image.cpu()
        if pixels.dtype != torch.uint8:
            pixels = pixels.nan_to_num().clamp(0, 255).round().to(torch.uint8)
        pixels = pixels.permute(1, 2, 0).numpy()
        pixels = T.ResizeShortestEdge(view.size, self.max_size).get_transform(pixels).apply_image(pixels)
        if view.flip:
            pixels = pixels[:, ::-1]
        return {"image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))}

    def heads(
        self, x: dict, instance_network: nn.Module | None, semantic_network: nn.Module | None
    ) -> tuple[ImageHeads, Size]:
        """Runs the networks on all views of an image and merges what their heads compute.

        Args:
            x: input dict with `image` (3, h, w), and optionally `height` and `width` of the output.
            instance_network, semantic_network: see `run_networks`.

        Returns:
            The merged results, and the output's size. Semantic logits are the logarithm of the mean probability (plus
            the mean log-partition, so that their scale stays that of single-view logits), at output size.
        """
        output_size = output_size_of(x, tuple(x["image"].shape[-2:]))
        mean, detections = None, []
        for view in self.views:
            heads = next(run_networks([self.image_of(view, x["image"])], instance_network, semantic_network))
            if len(self.views) == 1 and not view.flip:
                return heads, output_size
            if heads.sem_seg_logits is not None:
                mean = mean or _MeanProbabilities(heads.sem_seg_logits, output_size)
                mean.add(heads, view.flip)
            if heads.instances is not None:
                visible = visible_instances(heads.instances, output_size)
                detections.append(_unflipped(rescale_instances(visible, output_size), view.flip))
            del heads
        instances = None
        if instance_network is not None:
            instances = merge_detections(detections, self.nms_thresh, self.max_detections)
            instances.pred_mask_logits = self._mask_logits(instance_network, x["image"], instances)
        return ImageHeads(mean and mean.logits(), instances, output_size, output_size), output_size

    def _mask_logits(self, network: nn.Module, image: Tensor, instances: Instances) -> Tensor:
        """Masks of merged boxes: (R, M, M) logits of the mean probability over the views."""
        total = None
        for view in self.views:
            images = network.preprocess_image([self.image_of(view, image)])
            boxes = rescale_instances(_unflipped(instances, view.flip), tuple(images.image_sizes[0])).pred_boxes
            logits = network.roi_heads.mask_logits(network.backbone(images.tensor), [boxes])
            masks = select_class(logits, [instances.pred_classes])[0].float().sigmoid()
            masks = masks.flip(-1) if view.flip else masks
            total = masks if total is None else total.add_(masks)
        return torch.logit(total / len(self.views), eps=torch.finfo(torch.float32).eps)


class _MeanProbabilities:
    """Sums of softmax and log-partition at output size, (C, H, W) and (H, W), added up strip by strip."""

    def __init__(self, logits: Tensor, size: Size):
        self.count = 0
        self.size = size
        self.probabilities = torch.zeros(len(logits), *size, device=logits.device)
        self.partition = torch.zeros(size, device=logits.device)

    def add(self, heads: ImageHeads, flip: bool) -> None:
        """Adds the semantic logits of a view."""
        self.count += 1
        logits = SemSegLogits(heads.sem_seg_logits, heads.padded_size, heads.image_size, self.size)
        for y0, y1, strip in logits.strips():
            strip = strip.flip(-1) if flip else strip
            self.probabilities[:, y0:y1] += strip.softmax(dim=0)
            self.partition[y0:y1] += strip.logsumexp(dim=0)

    def logits(self) -> Tensor:
        """Returns the merged logits; the sums are used up."""
        smallest = torch.finfo(torch.float32).tiny
        logits = self.probabilities.div_(self.count).clamp_(min=smallest).log_()
        return logits.add_(self.partition.div_(self.count))


def merge_detections(detections: Sequence[Instances], nms_thresh: float, max_detections: int) -> Instances:
    """Returns the detections of several views as one set: NMS within each class, then the highest scores.

    Args:
        detections: of each view, in the coordinates of the same image, with pred_boxes, scores and pred_classes.
        nms_thresh: a box that overlaps one of a higher score by more than this IoU is dropped.
        max_detections: how many remain at most.

    Returns:
        Instances in descending order of scores, with these three fields.
    """
    boxes = torch.cat([d.pred_boxes.tensor for d in detections])
    scores = torch.cat([d.scores for d in detections])
    classes = torch.cat([d.pred_classes for d in detections])
    keep = batched_nms(boxes.float(), scores, classes, nms_thresh)[:max_detections]
    merged = Instances(detections[0].image_size)
    merged.pred_boxes, merged.scores, merged.pred_classes = Boxes(boxes[keep]), scores[keep], classes[keep]
    return merged


def _unflipped(instances: Instances, flip: bool) -> Instances:
    """Instances with boxes mirrored back if `flip`; their pred_mask_logits are not looked at."""
    if not flip:
        return instances
    x0, y0, x1, y1 = instances.pred_boxes.tensor.unbind(-1)
    width = instances.image_size[1]
    mirrored = Instances(instances.image_size, **instances.get_fields())
    mirrored.pred_boxes = Boxes(torch.stack([width - x1, y0, width - x0, y1], dim=-1))
    return mirrored

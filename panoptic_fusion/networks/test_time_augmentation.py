"""Multi-scale and flip testing (TEST.AUG): merges the heads' results for several views of an image before the fusion.

Semantic probabilities are averaged at output resolution. The boxes of all views go through one more NMS, and the masks
of the remaining boxes are averaged over the views, as in detectron2's `GeneralizedRCNNWithTTA`. The fusion runs once.

Shapes: C is the number of semantic channels, (H, W) the size of the output, R the number of instances, M the side of a
mask head's output.

The heads may have different views: TASCNet (section 4.2) uses larger images for the instances, UPSNet (section 4) a
single view. Both papers average semantic logits (TEST.AUG.AVERAGE "logits"). The default averages probabilities.

Deviations: TASCNet (section 4.3) runs a single NMS over the boxes of all views. This project runs it after the NMS of
each view, with the same threshold. Averaging masks over the views follows detectron2. The merged results have output
resolution, so MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION has no effect.
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

from .inference import (
    ImageHeads,
    Size,
    image_outputs,
    output_size_of,
    rescale_instances,
    run_networks,
    visible_instances,
)

AVERAGES = ("probabilities", "logits")


def heads_of_images(
    batched_inputs: list[dict],
    instance_network: nn.Module | None,
    semantic_network: nn.Module | None,
    augmentation: TestTimeAugmentation | None,
) -> Iterator[tuple[ImageHeads, Size]]:
    """Yields the results of the heads, from one view or several, and the output size of each image.

    Args:
        batched_inputs, instance_network, semantic_network: see `run_networks`.
        augmentation: views of an image. None: one pass over the unchanged batch.
    """
    if augmentation is not None:
        yield from (augmentation.heads(x, instance_network, semantic_network) for x in batched_inputs)
        return
    heads = run_networks(batched_inputs, instance_network, semantic_network)
    yield from ((image, output_size_of(x, image.image_size)) for image, x in zip(heads, batched_inputs, strict=True))


def fused_outputs(
    network: nn.Module, batched_inputs: list[dict], instance_network: nn.Module | None, semantic_network: nn.Module
) -> list[dict]:
    """Runs the heads on a batch and returns the outputs of each image.

    Args:
        network: `PanopticRCNN` or `IndependentPanoptic`, which has the fusion and says what to return and how.
        batched_inputs, instance_network, semantic_network: see `run_networks`.
    """
    return [
        image_outputs(
            image,
            size,
            fusion=network.fusion,
            outputs=network.outputs,
            paste_masks=network.paste_masks,
            fuse_at_input_resolution=network.fuse_at_input_resolution,
        )
        for image, size in heads_of_images(batched_inputs, instance_network, semantic_network, network.augmentation)
    ]


@dataclass(frozen=True)
class View:
    """Transform of an image for one pass of the network.

    Attributes:
        size: short side in pixels; 0 keeps the image's size.
        flip: whether the image is mirrored left to right.
    """

    size: int
    flip: bool


def views_of(sizes: Sequence[int], flip: bool) -> tuple[View, ...]:
    """Returns one view per size, and with `flip` also its mirrored version."""
    return tuple(View(size, flipped) for size in sizes for flipped in ((False, True) if flip else (False,)))


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Views of an image, and settings to merge their results.

    Attributes:
        views: views for the semantic network, at least one.
        instance_views: views for the instance network, at least one.
        max_size: limit of the long side of a view in pixels.
        nms_thresh, max_detections: IoU threshold of the last NMS, and maximum number of instances.
        average: values that are averaged over the semantic views, one of `AVERAGES`.
    """

    __test__ = False  # not a test class of pytest

    views: tuple[View, ...]
    instance_views: tuple[View, ...]
    max_size: int
    nms_thresh: float
    max_detections: int
    average: str = "probabilities"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> TestTimeAugmentation | None:
        """Builds the views of TEST.AUG, one per size in MIN_SIZES, with FLIP also mirrored; None if it is off.

        Without INSTANCE_MIN_SIZES, the instances use the same views.
        """
        aug = cfg.TEST.AUG
        if not aug.ENABLED:
            return None
        views = views_of(aug.MIN_SIZES, aug.FLIP)
        instance_views = views_of(aug.INSTANCE_MIN_SIZES, aug.INSTANCE_FLIP) or views
        nms_thresh, max_detections = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE
        return cls(views, instance_views, aug.MAX_SIZE, nms_thresh, max_detections, aug.AVERAGE)

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
        """Runs the networks on all views of an image and merges the results of their heads.

        Args:
            x: input dict with `image` (3, h, w), and optionally the output's `height` and `width`.
            instance_network, semantic_network: see `run_networks`.

        Returns:
            The merged results, and the output size. The semantic logits, at output resolution, are the mean logits or
            the logarithm of the mean probability (plus the mean log-partition, which keeps the scale of single-view
            logits).
        """
        output_size = output_size_of(x, tuple(x["image"].shape[-2:]))
        of_instances = self.instance_views if instance_network is not None else ()
        of_semantics = self.views if semantic_network is not None else ()
        views = tuple(dict.fromkeys(of_semantics + of_instances))
        mean, detections = None, []
        for view in views:
            heads = next(
                run_networks(
                    [self.image_of(view, x["image"])],
                    instance_network if view in of_instances else None,
                    semantic_network if view in of_semantics else None,
                )
            )
            if len(views) == 1 and not view.flip:
                return heads, output_size
            if heads.sem_seg_logits is not None:
                mean = mean or _MeanLogits(heads.sem_seg_logits, output_size, self.average)
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
        """Returns the masks of merged boxes: (R, M, M) logits of the mean probability over the views."""
        total = None
        for view in self.instance_views:
            images = network.preprocess_image([self.image_of(view, image)])
            boxes = rescale_instances(_unflipped(instances, view.flip), tuple(images.image_sizes[0])).pred_boxes
            logits = network.roi_heads.mask_logits(network.backbone(images.tensor), [boxes])
            masks = select_class(logits, [instances.pred_classes])[0].float().sigmoid()
            masks = masks.flip(-1) if view.flip else masks
            total = masks if total is None else total.add_(masks)
        return torch.logit(total / len(self.instance_views), eps=torch.finfo(torch.float32).eps)


class _MeanLogits:
    """Running mean of the semantic logits of several views at output resolution, computed strip by strip.

    It sums the softmax (C, H, W) and the log-partition (H, W), or the logits if `average` is "logits".
    """

    def __init__(self, logits: Tensor, size: Size, average: str):
        self.count = 0
        self.size = size
        self.total = torch.zeros(len(logits), *size, device=logits.device)
        self.partition = torch.zeros(size, device=logits.device) if average == "probabilities" else None

    def add(self, heads: ImageHeads, flip: bool) -> None:
        """Adds the semantic logits of a view."""
        self.count += 1
        logits = SemSegLogits(heads.sem_seg_logits, heads.padded_size, heads.image_size, self.size)
        for y0, y1, strip in logits.strips():
            strip = strip.flip(-1) if flip else strip
            if self.partition is None:
                self.total[:, y0:y1] += strip
            else:
                self.total[:, y0:y1] += strip.softmax(dim=0)
                self.partition[y0:y1] += strip.logsumexp(dim=0)

    def logits(self) -> Tensor:
        """Returns the merged logits; overwrites the sums."""
        mean = self.total.div_(self.count)
        if self.partition is None:
            return mean
        return mean.clamp_(min=torch.finfo(torch.float32).tiny).log_().add_(self.partition.div_(self.count))


def merge_detections(detections: Sequence[Instances], nms_thresh: float, max_detections: int) -> Instances:
    """Merges the detections of several views: NMS within each class, then the highest scores.

    Args:
        detections: instances of each view with pred_boxes, scores and pred_classes, in the coordinates of one image.
        nms_thresh: IoU above which a box is dropped in favor of a box with a higher score.
        max_detections: maximum number of remaining instances.

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
    """Returns the instances, with boxes mirrored back if `flip`; pred_mask_logits are not changed."""
    if not flip:
        return instances
    x0, y0, x1, y1 = instances.pred_boxes.tensor.unbind(-1)
    width = instances.image_size[1]
    mirrored = Instances(instances.image_size, **instances.get_fields())
    mirrored.pred_boxes = Boxes(torch.stack([width - x1, y0, width - x0, y1], dim=-1))
    return mirrored

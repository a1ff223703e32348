"""Runs a network's heads on a batch and converts their results to the outputs of each image.

All networks of this project use these functions, whether they are trained for one task or for both.

Shapes: N is the batch size, R the number of instances in an image, C the number of semantic channels, (H, W) the size
of the padded network input, (h, w) the output size of an image, and M the side of a mask head's output.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from panoptic_fusion.modeling.fusion import OUTPUT_REGISTRY, PanopticFusion, SemSegLogits

Size = tuple[int, int]  # (height, width) in pixels


@dataclass(frozen=True)
class ImageHeads:
    """Results of the heads for one image.

    Attributes:
        sem_seg_logits: (C, H/4, W/4) float, or None if the stuff head did not run.
        instances: R instances in pixels of the network input, or None if the RoI heads did not run.
        padded_size, image_size: size of the network input with and without padding.
    """

    sem_seg_logits: Tensor | None
    instances: Instances | None
    padded_size: Size
    image_size: Size


@dataclass(frozen=True)
class BatchHeads:
    """Results of a network for a batch of N images at inference.

    Attributes:
        images: preprocessed images.
        features: feature maps of the backbone.
        sem_seg_logits: (N, C, H/4, W/4) float, or None if the stuff head did not run.
        proposals, instances: N Instances each, or None if the RoI heads did not run.
    """

    images: ImageList
    features: Mapping[str, Tensor]
    sem_seg_logits: Tensor | None
    proposals: list[Instances] | None
    instances: list[Instances] | None

    def __iter__(self) -> Iterator[ImageHeads]:
        padded_size = tuple(self.images.tensor.shape[-2:])
        for i, image_size in enumerate(self.images.image_sizes):
            logits = None if self.sem_seg_logits is None else self.sem_seg_logits[i]
            instances = None if self.instances is None else self.instances[i]
            yield ImageHeads(logits, instances, padded_size, tuple(image_size))


def run_heads(
    network: nn.Module, batched_inputs: list[dict], *, instances: bool = True, sem_seg: bool = True
) -> BatchHeads:
    """Runs the backbone once and then the requested heads.

    Args:
        network: network in eval mode with `preprocess_image`, `backbone` and the requested heads.
        batched_inputs: one dict per image with `image` (3, height, width).
        instances: whether to run the proposal generator and the RoI heads.
        sem_seg: whether to run the stuff head.
    """
    images = network.preprocess_image(batched_inputs)
    return run_heads_on(network, images, instances=instances, sem_seg=sem_seg)


def run_heads_on(network: nn.Module, images: ImageList, *, instances: bool = True, sem_seg: bool = True) -> BatchHeads:
    """Runs the backbone and the requested heads on preprocessed images; other arguments as for `run_heads`."""
    features = network.backbone(images.tensor)
    logits = network.sem_seg_head(features) if sem_seg else None
    proposals = detections = None
    if instances:
        proposals, _ = network.proposal_generator(images, features, None)
        detections, _ = network.roi_heads(images, features, proposals, None)
    return BatchHeads(images, features, logits, proposals, detections)


def run_networks(
    batched_inputs: list[dict], instance_network: nn.Module | None, semantic_network: nn.Module | None
) -> Iterator[ImageHeads]:
    """Runs one network for both tasks, two networks, or one for a single task; returns the results of the heads.

    Args:
        batched_inputs: see `run_heads`.
        instance_network: network that computes instances. None: no instances.
        semantic_network: network that computes semantic logits. None: no logits. If both are the same network, it runs
            once.
    """
    if instance_network is semantic_network:
        return iter(run_heads(instance_network, batched_inputs))
    if instance_network is None:
        return iter(run_heads(semantic_network, batched_inputs, instances=False))
    detected = iter(run_heads(instance_network, batched_inputs, sem_seg=False))
    if semantic_network is None:
        return detected
    segmented = run_heads(semantic_network, batched_inputs, instances=False)
    return (replace(heads, instances=own.instances) for heads, own in zip(segmented, detected, strict=True))


def image_outputs(
    heads: ImageHeads,
    output_size: Size,
    *,
    fusion: PanopticFusion,
    outputs: Iterable[str],
    paste_masks: bool = True,
    fuse_at_input_resolution: bool = False,
) -> dict:
    """Fuses the results of the heads for one image and returns the requested outputs.

    Args:
        heads: results of the heads for one image. Without instances, only "sem_seg" is returned.
        output_size: (h, w) of the outputs.
        fusion: module that computes the panoptic segmentation.
        outputs: names, as in MODEL.PANOPTIC_FUSION.OUTPUTS.
        paste_masks: whether `instances` get pred_masks (R, h, w); otherwise they keep pred_mask_logits (R, M, M).
        fuse_at_input_resolution: whether to fuse at `heads.image_size` and then resize the labels (nearest).
    """
    logits, padded_size, image_size = heads.sem_seg_logits, heads.padded_size, heads.image_size
    result = {}
    if "sem_seg" in outputs:
        result["sem_seg"] = SemSegLogits(logits, padded_size, image_size, output_size).full()
    if heads.instances is None:
        return result
    instances = visible_instances(heads.instances, output_size)
    if "panoptic_seg" in outputs:
        fused_size = image_size if fuse_at_input_resolution else output_size
        sem_seg = SemSegLogits(logits, padded_size, image_size, fused_size)
        result["panoptic_seg"] = fusion(sem_seg, rescale_instances(instances, fused_size), output_size)
    if "instances" in outputs:
        result["instances"] = output_instances(instances, output_size, paste_masks=paste_masks)
    for name, compute in OUTPUT_REGISTRY:
        if name in outputs:
            result[name] = compute(fusion, logits, instances, padded_size, image_size)
    return result


def visible_instances(instances: Instances, size: Size) -> Instances:
    """Returns the instances with a non-empty box in an image of `size`; their coordinates do not change."""
    return instances[rescale_instances(instances, size).pred_boxes.nonempty()]


def output_instances(instances: Instances, size: Size, *, paste_masks: bool) -> Instances:
    """Returns instances in the coordinates of an image of `size`, with pred_masks (R, h, w) bool if `paste_masks`."""
    scaled = rescale_instances(instances, size)
    return with_pasted_masks(scaled) if paste_masks else scaled


def rescale_instances(instances: Instances, size: Size) -> Instances:
    """Returns instances in the coordinates of an image of `size`, with clipped boxes.

    All rows are kept. The given instances are not modified (detectron2's detector_postprocess scales their boxes in
    place).
    """
    height, width = instances.image_size
    boxes = instances.pred_boxes.clone()
    boxes.scale(size[1] / width, size[0] / height)
    boxes.clip(size)
    scaled = Instances(size, **instances.get_fields())
    scaled.pred_boxes = boxes
    return scaled


def with_pasted_masks(instances: Instances) -> Instances:
    """Returns instances with `pred_masks` (R, h, w) bool in place of `pred_mask_logits` (R, M, M)."""
    pasted = Instances(instances.image_size, **instances.get_fields())
    if pasted.has("pred_mask_logits"):
        pasted.pred_masks = pasted.pred_mask_logits.sigmoid()[:, None]
        pasted.remove("pred_mask_logits")
    return detector_postprocess(pasted, *instances.image_size)


def output_size_of(x: dict, size: Size) -> Size:
    """Returns `height` and `width` of an input dict, or `size` if it has none."""
    return x.get("height", size[0]), x.get("width", size[1])


@contextlib.contextmanager
def only_outputs(model: nn.Module, needed: Iterable[str]) -> Iterator[None]:
    """Restricts a model to some of its outputs inside the context, and restores it afterwards.

    `instances` keep pred_mask_logits instead of pred_masks. Therefore no tensor grows with both the output size and the
    number of classes or instances, unless "sem_seg" is needed.

    Args:
        model: model of this project, possibly wrapped in DistributedDataParallel; other models are not changed.
        needed: names, as in MODEL.PANOPTIC_FUSION.OUTPUTS.
    """
    network = getattr(model, "module", model)
    before = {key: getattr(network, key) for key in ("outputs", "paste_masks") if hasattr(network, key)}
    changed = {"outputs": before.get("outputs", frozenset()) & set(needed), "paste_masks": False}
    try:
        for key in before:
            setattr(network, key, changed[key])
        yield
    finally:
        for key, value in before.items():
            setattr(network, key, value)

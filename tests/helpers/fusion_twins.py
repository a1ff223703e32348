"""Random raw outputs of a network, fused by the torch modules and by the runtime without torch."""

from dataclasses import dataclass

import numpy as np
import torch
from detectron2.structures import Boxes
from detectron2.structures import Instances as TorchInstances

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.modeling.fusion import PANOPTIC_FUSION_REGISTRY
from panoptic_fusion.networks.inference import ImageHeads, image_outputs
from panoptic_fusion.runtime.fusion import fuse
from panoptic_fusion.runtime.instances import Instances
from panoptic_fusion.runtime.sem_seg_logits import SemSegLogits
from panoptic_fusion.runtime.settings import NEEDED, FusionSettings


@dataclass
class RawOutputs:
    """Raw outputs of one image, as `model.onnx` returns them, and the sizes."""

    logits: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    mask_logits: np.ndarray
    padded_size: tuple[int, int]
    image_size: tuple[int, int]
    output_size: tuple[int, int]


def random_outputs(rng, num_stuff, num_things, channels, largest=96, most=12):
    """Outputs of any size: blobs and noise, ties of scores and logits, boxes over the border, rarely NaN."""
    image_size = tuple(int(n) for n in rng.integers(5, largest, 2))
    divisor = int(rng.choice([4, 16, 32]))
    padded_size = tuple(-(-n // divisor) * divisor for n in image_size)
    output_size = image_size
    if rng.random() < 0.6:
        output_size = tuple(max(1, int(n * rng.uniform(0.4, 2.2))) for n in image_size)
    elif rng.random() < 0.3:
        output_size = (image_size[0], max(1, int(image_size[1] * rng.uniform(0.5, 2))))
    size = (padded_size[0] // 4, padded_size[1] // 4)
    logits = _smooth(rng, channels, size)
    num, side = int(rng.integers(0, most)), int(rng.choice([7, 14, 28]))
    corner = rng.uniform(-8, 1, (num, 2)) + rng.random((num, 2)) * [image_size[1], image_size[0]]
    boxes = np.concatenate([corner, corner + rng.random((num, 2)) ** 2 * [image_size[1], image_size[0]]], axis=1)
    if rng.random() < 0.3:
        boxes = boxes.round()
    boxes = np.clip(boxes, 0, [image_size[1], image_size[0]] * 2)
    scores = np.sort(rng.choice([rng.random(num), rng.integers(0, 9, num) / 8])[::-1])[::-1]
    if rng.random() < 0.2:
        scores = scores[rng.permutation(num)]
    masks = _smooth(rng, num, (side, side))
    arrays = [logits, boxes, scores, masks]
    arrays = [np.array(x, np.float32) for x in arrays]
    if rng.random() < 0.15:
        for array in (arrays[0], *arrays[2:]):  # detectron2 leaves out boxes with such numbers
            if array.size and rng.random() < 0.6:
                array.flat[rng.integers(0, array.size, 2)] = rng.choice([np.nan, np.inf, -np.inf, 1e30])
    logits, boxes, scores, masks = arrays
    classes = rng.integers(0, num_things, num)
    return RawOutputs(logits, boxes, scores, classes, masks, padded_size, image_size, output_size)


def _smooth(rng, num, size):
    """Smooth maps, sometimes quantized or constant, so that values are equal."""
    coarse = torch.from_numpy(rng.normal(0, 3, (max(num, 1), 1, 4, 4))).float()
    maps = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[:num, 0].numpy()
    kind = rng.random()
    if kind < 0.3:
        return maps.round()
    if kind < 0.4:
        return np.broadcast_to(maps[:, :1, :1].round(), maps.shape).copy()
    return maps + rng.normal(0, 0.2, maps.shape)


def random_settings(rng, name):
    """Settings of a fusion, as in the metadata, with thresholds that decide."""
    thresholds = [0.0, 0.25, 0.5, float(rng.random()), 1.0]
    values = {
        "instances_confidence_thresh": float(rng.choice([0.0, 0.25, 0.5])),
        "overlap_thresh": float(rng.choice(thresholds)),
        "stuff_area_limit": int(rng.choice([0, 1, 20, 400])),
        "at_input_resolution": bool(rng.random() < 0.4),
        "stuff_channels_only": bool(rng.random() < 0.5),
        "stuff_area_of": str(rng.choice(["class", "region"])),
        "agreement": str(rng.choice(["coverage", "iou"])),
        "agreement_thresh": float(rng.choice(thresholds[:4])) * 0.6,
        "overlap": str(rng.choice(["coverage", "iou"])),
        "stride": int(rng.choice([1, 2, 4, 8])),
        "order_by": str(rng.choice(["ranking", "product"])),
        "score_over": str(rng.choice(["mask", "contested"])),
        "unknown": bool(rng.random() < 0.7),
        "keep_instance_classes": bool(rng.random() < 0.3),
        "test_sizes": [int(rng.integers(20, 120)), int(rng.integers(60, 300))] if rng.random() < 0.3 else None,
    }
    common = {"instances_confidence_thresh", "overlap_thresh", "stuff_area_limit", "at_input_resolution"}
    return {"name": name, **{key: values[key] for key in values if key in common | NEEDED[name]}}


def torch_fusion(settings, num_stuff, num_things, ontology):
    """The torch module of these settings."""
    categories = [
        {"id": i + 1, "name": f"c{i}", "isthing": int(i < num_things), "color": [i, 0, 1]}
        for i in range(num_things + num_stuff)
    ]
    values = {key: value for key, value in settings.items() if key not in ("name", "at_input_resolution")}
    if "keep_instance_classes" in values:
        values["class_assignment"] = not values.pop("keep_instance_classes")
    if settings["name"] == "SpatialRankingFusion" and ontology != "full":
        values["loss_weight"] = 0
    label_space = LabelSpace.from_categories(categories)
    fusion = PANOPTIC_FUSION_REGISTRY.get(settings["name"])(label_space=label_space, ontology=ontology, **values)
    return fusion.eval()


@torch.no_grad()
def fuse_with_torch(fusion, raw, at_input_resolution):
    instances = TorchInstances(
        raw.image_size,
        pred_boxes=Boxes(torch.from_numpy(raw.boxes)),
        scores=torch.from_numpy(raw.scores),
        pred_classes=torch.from_numpy(raw.classes),
        pred_mask_logits=torch.from_numpy(raw.mask_logits),
    )
    heads = ImageHeads(torch.from_numpy(raw.logits), instances, raw.padded_size, raw.image_size)
    found = image_outputs(
        heads, raw.output_size, fusion=fusion, outputs=["panoptic_seg"], fuse_at_input_resolution=at_input_resolution
    )["panoptic_seg"]
    return found[0].numpy(), found[1]


def fuse_without_torch(settings, raw, num_stuff, num_things, module=None):
    instances = Instances(raw.image_size, raw.boxes, raw.scores, raw.classes, raw.mask_logits)
    return fuse(
        SemSegLogits(raw.logits, raw.padded_size, raw.image_size, raw.output_size),
        instances.visible(raw.output_size),
        FusionSettings.from_json(settings),
        num_stuff=num_stuff,
        num_things=num_things,
        ranking_module=module,
    )


def ranking_module_of(fusion):
    """The torch ranking module as a function of numpy arrays, None for the other fusions."""
    if not hasattr(fusion, "srm"):
        return None

    @torch.no_grad()
    def module(channels):
        return fusion.srm(torch.from_numpy(channels)).numpy()

    return module

"""Small networks with random weights, and random training dicts for them."""

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances

from panoptic_fusion import config_file, get_cfg

CATEGORIES = [
    {"id": 7, "name": "sky", "isthing": 0, "color": [0, 0, 200]},
    {"id": 3, "name": "car", "isthing": 1, "color": [200, 0, 0]},
    {"id": 9, "name": "road", "isthing": 0, "color": [90, 0, 90]},
    {"id": 1, "name": "person", "isthing": 1, "color": [0, 200, 0]},
]


def small_cfg(**keys):
    cfg = get_cfg()
    cfg.merge_from_file(config_file("toy/panoptic_fpn_r18.yaml"))
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], ["meta_arch_test"]
    cfg.MODEL.CATEGORIES = CATEGORIES
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32  # a multiple of the head's 32 groups, where GN is used
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH = 0.0
    cfg.MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT = 1
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def example(seed: int, size=(64, 96), num_things: int = 2, ignore_all: bool = False) -> dict:
    """A training dict with boxes as masks."""
    rng = np.random.default_rng(seed)
    height, width = size
    instances = Instances(size)
    boxes, masks = [], np.zeros((num_things, height, width), bool)
    for i in range(num_things):
        x, y = rng.integers(0, width // 2), rng.integers(0, height // 2)
        w, h = rng.integers(8, width // 2), rng.integers(8, height // 2)
        boxes.append([x, y, x + w, y + h])
        masks[i, y : y + h, x : x + w] = True
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.from_numpy(rng.integers(0, 2, num_things))
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    sem_seg = torch.full(size, 255) if ignore_all else torch.from_numpy(rng.integers(0, 2, size))
    return {
        "image": torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8)),
        "sem_seg": sem_seg.long(),
        "instances": instances,
        "height": height,
        "width": width,
    }

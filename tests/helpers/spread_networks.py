"""Networks with random weights whose outputs vary: normalized activations, spread scores, boxes off their anchors."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from small_networks import CATEGORIES
from torch import nn

from panoptic_fusion import config_file, resolve_config
from panoptic_fusion.config import read_config

SYSTEMS = {
    name: f"toy/{name}_r18.yaml" for name in ("panoptic_fpn", "tascnet", "oanet", "seamless", "upsnet")
}  # {system: config}

TINY = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 60,
    "MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH": 0.3,
    "INPUT.MIN_SIZE_TEST": 96,
    "INPUT.MAX_SIZE_TEST": 192,
}


def spread_cfg(config: str, keys: dict | None = None) -> CfgNode:
    """The resolved config without weights and data."""
    own = {"MODEL.WEIGHTS": "", "MODEL.DEVICE": "cpu"}
    if config.startswith("toy/"):
        own |= {"MODEL.CATEGORIES": str(CATEGORIES), "DATASETS.REGISTER": "[]", "DATASETS.TRAIN": "[]"}
    words = [str(word) for pair in {**own, **(keys or {})}.items() for word in pair]
    return resolve_config(read_config(config_file(config), words))


def spread_network(cfg: CfgNode, seed: int = 0, scores: float = 2.0) -> nn.Module:
    """The network of a config in eval mode; `scores` is the deviation of the class logits of regions."""
    torch.manual_seed(seed)
    network = build_model(cfg).eval()
    hooks = [m.register_forward_pre_hook(_take_statistics) for m in network.modules() if _has_statistics(m)]
    size = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST * 4 // 3)
    image = torch.from_numpy(smooth_image(size, seed).transpose(2, 0, 1).astype(np.float32))
    boxes, masks, pixels = network.roi_heads.box_predictor, network.roi_heads.mask_head, network.sem_seg_head
    # The heads' last layers start close to zero, so that every region has the same class and its anchor's box.
    with torch.no_grad():
        network([{"image": image}])
        for hook in hooks:
            hook.remove()
        for layer, source, deviation in (
            (boxes.cls_score, boxes.cls_score, scores),
            (boxes.bbox_pred, boxes.bbox_pred, 0.5),
            (masks.predictor, masks.predictor, 1.0),
            (pixels.predictor, pixels, 1.0),
        ):
            layer.weight.mul_(deviation / _deviation(network, source, image))
    return network


def smooth_image(size: tuple[int, int], seed: int, noise: float = 12.0) -> np.ndarray:
    """(H, W, 3) uint8 of blobs with some noise, in gray levels."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 5, 7)))
    image = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[0].numpy().transpose(1, 2, 0)
    return (image + rng.normal(0, noise, image.shape)).clip(0, 255).astype(np.uint8)


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d))


def _take_statistics(norm: nn.Module, inputs: tuple) -> None:
    x = inputs[0]
    if x.numel():
        over = [d for d in range(x.dim()) if d != 1]
        norm.running_mean.copy_(x.mean(over))
        norm.running_var.copy_(x.var(over, correction=0) + 1e-3)


def _deviation(network: nn.Module, module: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Standard deviation of a module's outputs for `image`."""
    seen = []
    hook = module.register_forward_hook(lambda _, inputs, result: seen.append(result))
    network([{"image": image}])
    hook.remove()
    return (seen[0] - seen[0].mean(0)).std() if seen[0].dim() == 2 else seen[0].std()

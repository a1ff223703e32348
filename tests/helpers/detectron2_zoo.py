"""detectron2's own networks with random weights, as files of its model zoo: what the tests of the zoo compare with."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

CONFIGS = Path(detectron2.__file__).parent / "model_zoo" / "configs"  # detectron2.model_zoo needs pkg_resources
# Few proposals: the box head takes most of the time.
SMALL = ["MODEL.RPN.PRE_NMS_TOPK_TEST", "100", "MODEL.RPN.POST_NMS_TOPK_TEST", "30"]
# The same layers with fewer channels, where only the loading is of interest.
THIN = (
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"),
)


def zoo_config(name: str, opts: Sequence[str] = ()) -> CfgNode:
    """The config of `model_zoo.get_config(name)`, such as "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"."""
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / name))
    cfg.merge_from_list([*SMALL, "MODEL.DEVICE", "cpu", *opts])
    return cfg


def random_network(name: str, seed: int, opts: Sequence[str] = ()) -> nn.Module:
    """detectron2's network with random weights that give many semantic classes, and instances of many classes."""
    torch.manual_seed(seed)
    model = build_model(zoo_config(name, opts)).eval()
    heads = model.roi_heads
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("conv3.norm.weight"):
                buffer.fill_(0.2)  # so that the features do not grow from block to block
        for name, weight in model.named_parameters():
            if "fpn_lateral" in name:
                weight.mul_(0.05)
        for layer, std in ((heads.box_predictor.cls_score, 0.6), (heads.mask_head.predictor, 1.0)):
            spread(layer, std)
        heads.box_predictor.bbox_pred.weight.normal_(std=0.2)
        if hasattr(model, "sem_seg_head"):
            spread(model.sem_seg_head.predictor, 3.0)
    return model


def spread(layer: nn.Module, std: float) -> None:
    """Random weights without the mean over the inputs, so that no class wins everywhere; in place."""
    layer.weight.normal_(std=std)
    layer.weight.sub_(layer.weight.mean(1, keepdim=True))
    layer.bias.normal_()


def write_zoo_pkl(path: Path, model: nn.Module) -> Path:
    """Writes the model as the zoo's files are: arrays by name and `__author__`, with the buffers of 2019."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for level in range(5):
        state[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = np.zeros((3, 4), np.float32)
    with open(path, "wb") as file:
        pickle.dump({"model": state, "__author__": "Detectron2 Model Zoo"}, file, protocol=2)
    return path


def random_images(num: int, seed: int) -> list[dict]:
    """Inputs of many sizes, most of them no multiple of 32; each with an output of another, larger size."""
    random = np.random.default_rng(seed)
    inputs = []
    for i in range(num):
        height, width = (64, 96) if i == 0 else (int(n) for n in random.integers(33, 75, 2))
        coarse = torch.from_numpy(random.uniform(0, 255, (1, 3, 4, 5)).astype(np.float32))
        image = nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
        image += torch.from_numpy(random.normal(0, 20, (3, height, width)).astype(np.float32))
        size = (int(n) for n in random.integers(100, 300, 2))
        inputs.append({"image": image.clamp(0, 255), **dict(zip(("height", "width"), size, strict=True))})
    return inputs

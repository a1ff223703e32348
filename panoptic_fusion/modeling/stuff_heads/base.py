"""Interface of a stuff head, and the semantic loss that all of them share.

Shapes: N is the batch size, C the number of semantic channels of the ontology, H x W the padded network input, s the
stride of the head's logits (4).
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers import InPlaceABN, check_norm
from panoptic_fusion.layers.activated_norm import PLAIN_NAMES
from panoptic_fusion.layers.hard_pixel_loss import hard_pixel_cross_entropy


class StuffHead(nn.Module):
    """Base class of stuff heads, with the interface that the meta-architecture requires: `forward` and `losses`.

    A head defines its layers and implements `forward`. It may extend `losses`.

    Attributes:
        trains: {loss: names of the network's parts that it trains}, for every loss that `losses` returns. A subclass
            declares only the losses that it adds.
        weighted_losses: names of the losses that are multiplied by MODEL.SEM_SEG_HEAD.LOSS_WEIGHT.
    """

    trains: Mapping[str, Sequence[str]] = {"loss_sem_seg": ("sem_seg_head",)}
    weighted_losses: Sequence[str] = ("loss_sem_seg",)

    @configurable
    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
        common_stride: int = 4,
        hard_pixel_fraction: float = 1.0,
        class_weights: Sequence[float] = (),
    ):
        """Sets the parameters of the semantic loss.

        Args:
            loss_weight: weight of `loss_sem_seg`.
            ignore_value: label of ignored pixels.
            common_stride: stride of the logits, in pixels of the network's input.
            hard_pixel_fraction: fraction of pixels in the loss, see `semantic_loss`.
            class_weights: C weights of the pixel loss, one per class. Empty means 1 for all.
        """
        super().__init__()
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        self.common_stride = common_stride
        self.hard_pixel_fraction = hard_pixel_fraction
        self.register_buffer("class_weights", class_weight_tensor(class_weights), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict | None = None) -> dict:
        """Returns the constructor arguments from a config."""
        return {
            "loss_weight": cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "common_stride": cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE,
            "hard_pixel_fraction": cfg.MODEL.SEM_SEG_HEAD.HARD_PIXEL_FRACTION,
            "class_weights": class_weights_of(cfg),
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Computes the semantic logits.

        Args:
            features: feature maps of the backbone.

        Returns:
            (N, C, H/s, W/s) logits, in training and at inference.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward")

    def losses(self, logits: Tensor, gt_sem_seg: Tensor, gt_instances: list[Instances]) -> dict[str, Tensor]:
        """Computes the losses of the head.

        Args:
            logits: result of `forward`.
            gt_sem_seg: (N, H, W) int64 channels, `ignore_value` where there is no ground truth and on padding.
            gt_instances: ground-truth things of each image.
        """
        loss = semantic_loss(
            logits,
            gt_sem_seg,
            ignore_value=self.ignore_value,
            hard_pixel_fraction=self.hard_pixel_fraction,
            class_weights=self.class_weights,
            image_sizes=[x.image_size for x in gt_instances],
        )
        return {"loss_sem_seg": self.loss_weight * loss}


def levels_from_finest(input_shape: dict[str, ShapeSpec], common_stride: int, head: str) -> list[tuple[str, ShapeSpec]]:
    """Returns the feature maps of a head that upsamples all of them to the finest level, finest first.

    Raises:
        ConfigError: if the stride of the finest level is not `common_stride`. The message names `head` and the keys.
    """
    levels = sorted(input_shape.items(), key=lambda item: item[1].stride)
    if not levels or levels[0][1].stride != common_stride:
        raise ConfigError(
            f"{head}: the finest of MODEL.SEM_SEG_HEAD.IN_FEATURES ({[name for name, _ in levels]}) must have "
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE ({common_stride})"
        )
    return levels


def level_settings(cfg: CfgNode, input_shape: dict[str, ShapeSpec], known_norms: Sequence[str] = PLAIN_NAMES) -> dict:
    """Returns the config values of heads that treat all levels alike: input_shape, num_classes, conv_dim, norm.

    Raises:
        ConfigError: if a feature map or the norm does not exist. The message names the key and the available values.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    if not head.IN_FEATURES or not set(head.IN_FEATURES) <= set(input_shape):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(head.IN_FEATURES)}: name some of {', '.join(input_shape)}"
        )
    return {
        "input_shape": {name: input_shape[name] for name in head.IN_FEATURES},
        "num_classes": head.NUM_CLASSES,
        "conv_dim": head.CONVS_DIM,
        "norm": check_norm("MODEL.SEM_SEG_HEAD.NORM", head.NORM, known_norms),
    }


def conv_norm_relu(in_channels: int, out_channels: int, norm: nn.Module | None) -> Conv2d:
    """Builds a 3x3 convolution (with a bias if there is no norm), norm and ReLU."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=1,
        bias=norm is None,
        norm=norm,
        activation=F.relu if isinstance(norm, InPlaceABN) else torch.relu_,  # InPlaceABN's backward needs its result
    )
    weight_init.c2_msra_fill(conv)
    return conv


def stack_levels(levels: Iterable[Tensor]) -> Tensor:
    """Concatenates maps (N, D, h, w), upsampled bilinearly to the size of the first, to (N, levels x D, h, w)."""
    maps = []
    for x in levels:
        if maps and x.shape[-2:] != maps[0].shape[-2:]:
            x = F.interpolate(x, size=maps[0].shape[-2:], mode="bilinear", align_corners=False)
        maps.append(x)
    return torch.cat(maps, dim=1)


def predict_from_levels(levels: Iterable[Tensor], predictor: nn.Conv2d) -> Tensor:
    """Applies a 1x1 convolution to the concatenation of all levels, upsampled bilinearly to the size of the first.

    Both steps are linear and act on different axes, so each level is first multiplied by its part of the weight and
    then upsampled. The logits are the same up to rounding, without a map of levels x D channels at the size of the
    first level. The computation is in float32 even under autocast, because logits in half precision can tie, and the
    argmax then depends on the order of the classes.

    Args:
        levels: (N, D, h, w) float each, finest first. They are consumed one by one, so a generator saves memory.
        predictor: convolution from levels x D to C channels.

    Returns:
        (N, C, h, w) float32 (float64 with a float64 predictor), at the size of the first level.
    """
    dtype = torch.promote_types(predictor.weight.dtype, torch.float32)
    logits, start = None, 0
    for x in levels:
        end = start + x.shape[1]
        with _full_precision(x.device.type):
            part = F.conv2d(x.to(dtype), predictor.weight[:, start:end].to(dtype))
        if logits is None:
            logits = part + predictor.bias[:, None, None]
        else:
            logits = logits + F.interpolate(part, size=logits.shape[-2:], mode="bilinear", align_corners=False)
        start = end
    return logits


def _full_precision(device_type: str) -> contextlib.AbstractContextManager:
    """Returns a context without autocast; meta tensors have no autocast."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()


def semantic_loss(
    logits: Tensor,
    gt_sem_seg: Tensor,
    *,
    ignore_value: int = 255,
    hard_pixel_fraction: float = 1.0,
    class_weights: Tensor | None = None,
    image_sizes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Returns the cross entropy of the bilinearly upsampled logits.

    With `hard_pixel_fraction` 1, it is the mean over all labeled pixels (detectron2's semantic loss, but 0 instead of
    NaN for a batch without labeled pixels). Below 1, it is the mean over each image's hardest pixels.

    Args:
        logits: (N, C, h, w) float.
        gt_sem_seg: (N, H, W) int64 channels or `ignore_value`.
        hard_pixel_fraction: fraction of pixels in the loss, in (0, 1].
        class_weights: (C,) weights of the pixel loss per class (a mean is then a weighted mean). None means 1 for all.
        image_sizes: sizes of the images before padding, see `hard_pixel_cross_entropy`.

    Returns:
        A scalar with a gradient, even if no pixel is labeled.
    """
    logits = F.interpolate(logits.float(), size=gt_sem_seg.shape[-2:], mode="bilinear", align_corners=False)
    if hard_pixel_fraction < 1:
        return hard_pixel_cross_entropy(
            logits,
            gt_sem_seg,
            hard_pixel_fraction,
            ignore_value=ignore_value,
            class_weights=class_weights,
            image_sizes=image_sizes,
        )
    total = F.cross_entropy(logits, gt_sem_seg, class_weights, ignore_index=ignore_value, reduction="sum")
    labelled = gt_sem_seg != ignore_value
    if class_weights is None:
        return total / labelled.sum().clamp(min=1)
    weight = (class_weights[gt_sem_seg * labelled] * labelled).sum()
    return total / torch.where(weight > 0, weight, 1)


def class_weights_of(cfg: CfgNode) -> tuple[float, ...]:
    """Returns the values of MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS.

    Raises:
        ConfigError: if their number differs from the number of semantic channels, or if one is negative.
    """
    weights = tuple(float(w) for w in cfg.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS)
    if weights and (len(weights) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES or min(weights) < 0):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS has {len(weights)} numbers: pass one >= 0 for each of the "
            f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} semantic channels (stuff first, then things), or none"
        )
    return weights


def class_weight_tensor(class_weights: Sequence[float]) -> Tensor | None:
    """Returns the class weights as a (C,) float32 tensor, or None if there are none."""
    return torch.tensor(class_weights, dtype=torch.float32) if len(class_weights) else None

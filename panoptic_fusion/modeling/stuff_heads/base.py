"""The interface of a stuff head, and the semantic loss that all of them share.

Shape shorthand: N: images, C: semantic channels (of the ontology), H, W: size of the padded network input, s: stride of
the head's logits (4).
"""

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
    """What the meta-architecture expects of a stuff head: `forward` and `losses`.

    A head sets its layers and implements `forward`; `losses` may be extended.

    Attributes:
        trains: {loss: names of the network's parts that it trains}, of every loss that `losses` returns. A subclass
            declares only the losses that it adds.
        weighted_losses: names of the losses that MODEL.SEM_SEG_HEAD.LOSS_WEIGHT is a factor of.
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
        """
        Args:
            loss_weight: factor of `loss_sem_seg`.
            ignore_value: label of pixels without ground truth.
            common_stride: stride of the logits, in pixels of the network's input.
            hard_pixel_fraction: see `semantic_loss`.
            class_weights: C factors of the pixels' loss by their class; empty: all 1.
        """
        super().__init__()
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value
        self.common_stride = common_stride
        self.hard_pixel_fraction = hard_pixel_fraction
        self.register_buffer("class_weights", class_weight_tensor(class_weights), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict | None = None) -> dict:
        return {
            "loss_weight": cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "common_stride": cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE,
            "hard_pixel_fraction": cfg.MODEL.SEM_SEG_HEAD.HARD_PIXEL_FRACTION,
            "class_weights": class_weights_of(cfg),
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """
        Args:
            features: the backbone's feature maps.

        Returns:
            (N, C, H/s, W/s) logits, in training and in inference.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward")

    def losses(self, logits: Tensor, gt_sem_seg: Tensor, gt_instances: list[Instances]) -> dict[str, Tensor]:
        """
        Args:
            logits: what `forward` returned.
            gt_sem_seg: (N, H, W) int64 channels, `ignore_value` where there is no ground truth and on padding.
            gt_instances: for each image the ground-truth things.
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
    """The feature maps of a head that upsamples all of them to the finest, that one first.

    Raises:
        ConfigError: the finest one's stride is not `common_stride`; the message names `head` and the keys.
    """
    levels = sorted(input_shape.items(), key=lambda item: item[1].stride)
    if not levels or levels[0][1].stride != common_stride:
        raise ConfigError(
            f"{head}: the finest of MODEL.SEM_SEG_HEAD.IN_FEATURES ({[name for name, _ in levels]}) must have "
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE ({common_stride})"
        )
    return levels


def level_settings(cfg: CfgNode, input_shape: dict[str, ShapeSpec], known_norms: Sequence[str] = PLAIN_NAMES) -> dict:
    """What the heads that treat each pyramid level alike read from the config: input_shape, num_classes, conv_dim,
    norm.

    Raises:
        ConfigError: there is no such feature map or norm; the message names the key and those that there are.
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
    """3x3 convolution (with a bias if there is no norm), norm, ReLU."""
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
    """Concatenation of maps (N, D, h, w), each upsampled bilinearly to the size of the first: (N, levels x D, h, w)."""
    maps = []
    for x in levels:
        if maps and x.shape[-2:] != maps[0].shape[-2:]:
            x = F.interpolate(x, size=maps[0].shape[-2:], mode="bilinear", align_corners=False)
        maps.append(x)
    return torch.cat(maps, dim=1)


def predict_from_levels(levels: Iterable[Tensor], predictor: nn.Conv2d) -> Tensor:
    """1x1 convolution of the concatenation of all levels, each upsampled bilinearly to the size of the first.

    Both are linear and act on different axes, so each level is multiplied by its part of the weight first and upsampled
    then: the same logits up to rounding, without a map of levels x D channels at the size of the first. Under autocast,
    too, it is done in float32: logits that are rounded to half precision tie, and the argmax then decides by the order
    of the classes.

    Args:
        levels: (N, D, h, w) floating each, the finest first; taken one by one, so a generator saves memory.
        predictor: the convolution, from levels x D to C channels.

    Returns:
        (N, C, h, w) float32 (float64 with a float64 predictor), of the size of the first level.
    """
    dtype = torch.promote_types(predictor.weight.dtype, torch.float32)
    logits, start = None, 0
    for x in levels:
        end = start + x.shape[1]
        with torch.autocast(x.device.type, enabled=False):
            part = F.conv2d(x.to(dtype), predictor.weight[:, start:end].to(dtype))
        if logits is None:
            logits = part + predictor.bias[:, None, None]
        else:
            logits = logits + F.interpolate(part, size=logits.shape[-2:], mode="bilinear", align_corners=False)
        start = end
    return logits


def semantic_loss(
    logits: Tensor,
    gt_sem_seg: Tensor,
    *,
    ignore_value: int = 255,
    hard_pixel_fraction: float = 1.0,
    class_weights: Tensor | None = None,
    image_sizes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Cross entropy of the bilinearly upsampled logits.

    With `hard_pixel_fraction` 1 it is the mean over all pixels that have ground truth (detectron2's semantic loss, but
    0 instead of NaN for a batch without any); below 1 the mean over each image's hardest pixels.

    Args:
        logits: (N, C, h, w) float.
        gt_sem_seg: (N, H, W) int64 channels or `ignore_value`.
        hard_pixel_fraction: in (0, 1].
        class_weights: (C,) factors of the pixels' loss by their class (a mean is then a weighted mean); None: all 1.
        image_sizes: sizes of the images before padding, see `hard_pixel_cross_entropy`.

    Returns:
        A scalar with a gradient, also where no pixel has ground truth.
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
    """MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS.

    Raises:
        ConfigError: there are not as many as semantic channels, or one is negative.
    """
    weights = tuple(float(w) for w in cfg.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS)
    if weights and (len(weights) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES or min(weights) < 0):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS has {len(weights)} numbers: give one >= 0 for each of the "
            f"{cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES} semantic channels (stuff first, then things), or none"
        )
    return weights


def class_weight_tensor(class_weights: Sequence[float]) -> Tensor | None:
    """(C,) float32, or None if there are none."""
    return torch.tensor(class_weights, dtype=torch.float32) if len(class_weights) else None

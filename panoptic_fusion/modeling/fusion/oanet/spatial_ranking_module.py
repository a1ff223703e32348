"""Spatial ranking module (OANet, section 3.2), which maps masks to class probabilities at each cell.

Shapes: N is the batch size, T the number of thing classes, R the number of instances in an image, H x W the resolution
of the network's input, h x w the number of cells, each of stride x stride input pixels.
"""

from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.data.label_space import IGNORE_LABEL
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers.chunks import map_chunks

KERNELS = ("1x1", "3x3", "1x7+7x1")


class SpatialRankingModule(nn.Module):
    """Convolution on the class channels, linear as in the paper.

    "1x1" and "3x3" are a single convolution from T to T channels. "1x7+7x1" is the paper's "large kernel convolution
    [34]", read as the block of that reference (Peng et al., Large Kernel Matters), where the notation comes from. It
    sums two branches, a 1x7 convolution followed by a 7x1 and a 7x1 followed by a 1x7, without an activation in
    between. The receptive field is 7x7 cells. The paper does not specify the number of intermediate channels. This
    project uses T, because the reference uses the number of classes.
    """

    def __init__(self, num_classes: int, kernel: str = "1x7+7x1"):
        """Builds the convolution.

        Args:
            num_classes: T, the number of thing classes.
            kernel: one of `KERNELS`.

        Raises:
            ConfigError: if the kernel is not one of `KERNELS`.
        """
        super().__init__()
        self.num_classes = num_classes
        if kernel not in KERNELS:
            raise ConfigError(f"MODEL.PANOPTIC_FUSION.SRM.KERNEL is {kernel!r}: use one of {', '.join(KERNELS)}")
        if kernel == "1x7+7x1":
            self.branches = nn.ModuleList([_chain(num_classes, (1, 7), (7, 1)), _chain(num_classes, (7, 1), (1, 7))])
        else:
            side = int(kernel[0])
            self.branches = nn.ModuleList([_chain(num_classes, (side, side))])

    def forward(self, channels: Tensor) -> Tensor:
        """Computes the ranking score map.

        Args:
            channels: (N, T, h, w) float, see `class_channels`.

        Returns:
            The ranking score map as logits, (N, T, h, w). Instances are ranked by its softmax.
        """
        return reduce(torch.add, (branch(channels) for branch in self.branches))


def _chain(num_classes: int, *kernels: tuple[int, int]) -> nn.Sequential:
    convs = [nn.Conv2d(num_classes, num_classes, k, padding=(k[0] // 2, k[1] // 2)) for k in kernels]
    for conv in convs:
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)
    return nn.Sequential(*convs)


def cell_pixels(length: int, stride: int, image_length: int, device: torch.device | None = None) -> Tensor:
    """Returns the image pixel that each cell samples, along one axis.

    A cell covers `stride` pixels of the network's input and samples the middle one. If the number is even, it samples
    the second of the two middle pixels. A last cell that is cut off samples the last pixel.

    Args:
        length: number of pixels of the network's input, without padding.
        stride: number of input pixels per cell.
        image_length: number of pixels of the sampled image, which is the input or the input at another size.

    Returns:
        (ceil(length / stride),) int64.
    """
    middle = (torch.arange(0, length, stride, device=device) + stride // 2).clamp(max=length - 1)
    return ((middle + 0.5) * (image_length / length)).long().clamp(max=image_length - 1)


def class_channels(masks: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Maps instances to the channels of their classes: 1 where any instance of the class is present, else 0.

    Args:
        masks: (R, h, w) bool.
        classes: (R,) int64 in [0, T).
        num_classes: T, the number of thing classes.

    Returns:
        (T, h, w) float32 of zeros and ones.
    """
    size = tuple(masks.shape[1:])
    channels = torch.zeros(num_classes, *size, device=masks.device)
    for chunk in map_chunks(len(masks), size, masks.device):
        channels.index_add_(0, classes[chunk], masks[chunk].float())
    return channels.clamp_(max=1)


def ranking_targets(channels: Tensor, thing_labels: Tensor) -> Tensor:
    """Returns the training labels: the visible class at each contested cell, if it is one of the claiming classes.

    A cell is contested ("conflicting" in section 4.2) if more than one channel is set, as in figure 4. Instances of the
    same class share a channel, so the softmax cannot rank them.
    Contested cells are ignored if the label is not one of the claiming classes (stuff or void in front, a crowd region,
    contradictory annotations), because they do not tell which of the claiming classes is in front.

    Args:
        channels: (..., T, h, w) float of zeros and ones.
        thing_labels: (..., h, w) int64, the class in [0, T) of the visible thing, any other value where there is none.

    Returns:
        (..., h, w) int64: the label, or 255 (ignored).
    """
    num_classes = channels.shape[-3]
    index = thing_labels.clamp(0, num_classes - 1)
    claims = channels.gather(-3, index.unsqueeze(-3)).squeeze(-3) > 0
    learned = (channels.sum(-3) > 1) & claims & (thing_labels == index)
    return torch.where(learned, thing_labels, IGNORE_LABEL)


def ranking_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean cross entropy over the cells that have a label (equation 2).

    Args:
        logits: (N, T, h, w) float.
        labels: (N, h, w) int64, 255 where ignored.

    Returns:
        A scalar; 0, with gradients of 0, if no cell has a label.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE_LABEL, reduction="sum")
    return total / (labels != IGNORE_LABEL).sum().clamp(min=1)

"""The spatial ranking module (OANet, section 3.2): masks in, a probability of every thing class at each cell out.

Shape shorthand: N: images, T: thing classes, R: instances of an image, H, W: size of the network's input, h, w: cells,
one for stride x stride pixels of it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.data.label_space import IGNORE_LABEL
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.layers.chunks import chunks_of_maps

KERNELS = ("1x1", "3x3", "1x7+7x1")


class SpatialRankingModule(nn.Module):
    """The convolution behind the class channels, linear as in the paper.

    "1x1" and "3x3" are one convolution from T to T channels. "1x7+7x1" is the paper's "large kernel convolution [34]",
    read as the block of that reference (Peng et al., Large Kernel Matters), which this notation is taken from: a 1x7
    convolution followed by a 7x1, beside a 7x1 followed by a 1x7, both summed, without an activation between them.
    Together they see 7x7 cells. The paper does not say how many channels are between: T, as there, where they are as
    many as classes.
    """

    def __init__(self, num_classes: int, kernel: str = "1x7+7x1"):
        """
        Args:
            num_classes: T.
            kernel: one of `KERNELS`.

        Raises:
            ConfigError: for another kernel.
        """
        super().__init__()
        if kernel not in KERNELS:
            raise ConfigError(f"MODEL.PANOPTIC_FUSION.SRM.KERNEL is {kernel!r}: use one of {', '.join(KERNELS)}")
        if kernel == "1x7+7x1":
            self.branches = nn.ModuleList([_chain(num_classes, (1, 7), (7, 1)), _chain(num_classes, (7, 1), (1, 7))])
        else:
            side = int(kernel[0])
            self.branches = nn.ModuleList([_chain(num_classes, (side, side))])

    def forward(self, channels: Tensor) -> Tensor:
        """
        Args:
            channels: (N, T, h, w) float, see `class_channels`.

        Returns:
            the ranking score map as logits, (N, T, h, w); its softmax is what instances are ranked by.
        """
        return sum(branch(channels) for branch in self.branches)


def _chain(num_classes: int, *kernels: tuple[int, int]) -> nn.Sequential:
    convs = [nn.Conv2d(num_classes, num_classes, k, padding=(k[0] // 2, k[1] // 2)) for k in kernels]
    for conv in convs:
        nn.init.xavier_uniform_(conv.weight)
        nn.init.zeros_(conv.bias)
    return nn.Sequential(*convs)


def cell_pixels(length: int, stride: int, image_length: int, device: torch.device | None = None) -> Tensor:
    """Which pixel of an image stands for each cell, along one axis.

    A cell stands for `stride` pixels of the network's input and looks at the middle one (of an even number, at the
    second of the middle two; the last cell, where it is cut off, at the last pixel).

    Args:
        length: pixels of the network's input, without padding.
        stride: pixels of it per cell.
        image_length: pixels of the image that is looked at, which is the input or that at another size.

    Returns:
        (ceil(length / stride),) int64.
    """
    middle = (torch.arange(0, length, stride, device=device) + stride // 2).clamp(max=length - 1)
    return ((middle + 0.5) * (image_length / length)).long().clamp(max=image_length - 1)


def class_channels(masks: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Maps instances to the channels of their classes: 1 where an instance of the class is, however many are.

    Args:
        masks: (R, h, w) bool.
        classes: (R,) int64 in [0, T).
        num_classes: T.

    Returns:
        (T, h, w) float32 of zeros and ones.
    """
    size = tuple(masks.shape[1:])
    channels = torch.zeros(num_classes, *size, device=masks.device)
    for chunk in chunks_of_maps(len(masks), size, masks.device):
        channels.index_add_(0, classes[chunk], masks[chunk].float())
    return channels.clamp_(max=1)


def contested_labels(channels: Tensor, thing_labels: Tensor) -> Tensor:
    """What the module learns: the class that is seen at each contested cell, of those that claim it.

    Contested ("conflicting" in section 4.2) is a cell with more than one channel set, as figure 4 shows it. Where all
    instances are of one class they share a channel, which no class of the softmax can win from another.
    Not learned from, besides: contested cells where the label is none of the claiming classes (stuff or void in front,
    a crowd, annotations that contradict each other); they do not tell which of the claimants is in front.

    Args:
        channels: (..., T, h, w) float of zeros and ones.
        thing_labels: (..., h, w) int64, the class in [0, T) of the thing that is seen, any other value where there is
            none.

    Returns:
        (..., h, w) int64: the label, or 255 (ignored).
    """
    num_classes = channels.shape[-3]
    index = thing_labels.clamp(0, num_classes - 1)
    claims = channels.gather(-3, index.unsqueeze(-3)).squeeze(-3) > 0
    learned = (channels.sum(-3) > 1) & claims & (thing_labels == index)
    return torch.where(learned, thing_labels, IGNORE_LABEL)


def ranking_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Equation 2: mean cross entropy over the cells that have a label.

    Args:
        logits: (N, T, h, w) float.
        labels: (N, h, w) int64, 255 where ignored.

    Returns:
        A scalar; 0, with gradients of 0, if no cell has a label.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE_LABEL, reduction="sum")
    return total / (labels != IGNORE_LABEL).sum().clamp(min=1)


def ranking_scores(probabilities: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
    """Equation 3: the mean over an instance's mask of the probability of its class.

    Equation 4 prints the mask indicator inverted (0 in the instance, 1 outside); it is 1 in the instance here.

    Args:
        probabilities: (T, h, w) float, softmax of the ranking score map.
        masks: (R, h, w) bool.
        classes: (R,) int64.

    Returns:
        (R,) float64 in [0, 1], for masks without a cell 1: what is smaller than a cell is painted first, since it takes
        little of others and they would take all of it.
    """
    scores = torch.ones(len(masks), dtype=torch.float64, device=masks.device)
    for chunk in chunks_of_maps(len(masks), tuple(masks.shape[1:]), masks.device):
        total = (probabilities[classes[chunk]] * masks[chunk]).sum((1, 2), dtype=torch.float64)
        count = masks[chunk].sum((1, 2))
        scores[chunk] = torch.where(count > 0, total / count.clamp(min=1), 1.0)
    return scores

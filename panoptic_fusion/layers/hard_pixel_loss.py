"""Cross entropy over each image's hardest pixels (Seamless, section 3.4; TASCNet's "weighted, bootstrapped loss")."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def hard_pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    fraction: float = 0.25,
    *,
    ignore_value: int = 255,
    class_weights: Tensor | None = None,
    image_sizes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Returns the mean over the images of the mean cross entropy of their hardest pixels.

    The ceil(fraction * h * w) pixels with the largest loss are used per image of h x w pixels. As in the published
    code, pixels without ground truth are among the h * w with loss 0, so the mean of an image with little ground truth
    includes zeros. For TASCNet, this is our reading of "bootstrapped". Its reference (Reed et al.) mixes predictions
    into the labels instead. Padding is excluded if `image_sizes` is given.

    Args:
        logits: (N, C, H, W) float.
        target: (N, H, W) int64 in [0, C) or `ignore_value`.
        fraction: fraction of pixels to use, in (0, 1].
        class_weights: (C,) weights of the pixel loss per class, applied before the selection. None means 1 for all.
        image_sizes: size (h, w) of each image without padding, which is the part [:h, :w]. None means no padding.

    Returns:
        A scalar float32 tensor (float64 for float64 logits); 0 with a gradient for an empty batch.

    Raises:
        ValueError: if fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of hard pixels is {fraction}; it must be in (0, 1]")
    if logits.numel() == 0:
        return logits.sum() * 0.0
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if class_weights is not None:
        class_weights = class_weights.to(logits)
    losses = F.cross_entropy(logits, target, class_weights, ignore_index=ignore_value, reduction="none")
    sizes = image_sizes if image_sizes is not None else [losses.shape[-2:]] * len(losses)
    means = []
    for loss, (height, width) in zip(losses, sizes, strict=True):
        valid = loss[:height, :width].flatten()
        # torch.topk is exact; sorted=False because only their mean counts.
        hardest = valid.topk(math.ceil(fraction * valid.numel()), sorted=False).values
        means.append(hardest.mean())
    return torch.stack(means).mean()

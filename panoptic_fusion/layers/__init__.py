"""Paper-independent operations: pure functions and thin modules that wrap them."""

from .activated_norm import check_norm, freeze_norm_parameters, get_activated_norm, resolve_norm
from .box_pool import box_average
from .deform_conv import DeformConv2d, compute_offsets_fp32, deform_conv2d, offset_conv
from .hard_pixel_loss import hard_pixel_cross_entropy
from .in_place_abn import InPlaceABN, in_place_abn
from .roi_flatten import roi_flatten
from .tracing import at_most

__all__ = [
    "DeformConv2d",
    "InPlaceABN",
    "at_most",
    "box_average",
    "check_norm",
    "deform_conv2d",
    "compute_offsets_fp32",
    "freeze_norm_parameters",
    "get_activated_norm",
    "hard_pixel_cross_entropy",
    "in_place_abn",
    "offset_conv",
    "resolve_norm",
    "roi_flatten",
]

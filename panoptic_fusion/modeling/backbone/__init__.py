"""Backbones: variants of ResNet and FPN for the papers and the small configs, and timm models.

Importing this package registers the builders. timm itself is imported only if a config uses it.
"""

from . import (  # noqa: F401
    abn_fpn,
    abn_narrow_resnet,
    abn_resnet,
    branches,
    context_fpn,
    deform_resnet,
    gap_fpn,
    narrow_resnet,
    pyramid,
    timm_backbone,
)

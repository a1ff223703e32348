"""What the papers and the small configs change in ResNet and FPN, and the networks of timm. Importing this package
registers the builders; timm itself is imported when a config asks for it."""

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

"""What the papers and the small configs change in ResNet and FPN. Importing this package registers the builders."""

from . import (  # noqa: F401
    abn_fpn,
    abn_narrow_resnet,
    abn_resnet,
    branches,
    context_fpn,
    deform_resnet,
    gap_fpn,
    narrow_resnet,
)

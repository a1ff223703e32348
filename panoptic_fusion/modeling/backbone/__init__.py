"""What the papers and the small configs change in ResNet and FPN. Importing this package registers the builders."""

from . import abn_fpn, abn_narrow_resnet, abn_resnet, context_fpn, deform_resnet, gap_fpn, narrow_resnet  # noqa: F401

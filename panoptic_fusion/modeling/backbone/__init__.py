"""What the papers and the small configs change in ResNet and FPN. Importing this package registers the builders."""

from . import abn_fpn, abn_resnet, narrow_resnet  # noqa: F401

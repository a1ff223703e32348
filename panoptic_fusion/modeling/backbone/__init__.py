"""What the papers and the small configs change in ResNet and FPN. Importing this package registers the builders."""

from . import narrow_resnet  # noqa: F401

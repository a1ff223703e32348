"""Panoptic segmentation on detectron2: TASCNet, Seamless Scene Segmentation, UPSNet and OANet as one network with
two exchangeable parts, the stuff head and the fusion.

Importing the package registers its meta-architectures, heads and fusions in detectron2's registries.
"""

import warnings

__version__ = "0.1.0"

try:
    # detectron2's own use of torch.jit.script, which torch 2.14 deprecates: nothing that a user could act on
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "panoptic_fusion needs detectron2, which PyPI does not have under that name. In a clone of this project "
        "`make setup` installs it without a compiler; README.md, section Installation, has the one command for your "
        "own environment."
    ) from error

from . import modeling  # noqa: F401  (registers the parts)
from .config import add_panoptic_fusion_config, config_file, get_cfg
from .data import datasets  # noqa: F401  (registers Cityscapes, Vistas, IDD and COCO by name; reads nothing)
from .resolve import load_trained, resolve_config

__all__ = ["add_panoptic_fusion_config", "config_file", "get_cfg", "load_trained", "resolve_config"]

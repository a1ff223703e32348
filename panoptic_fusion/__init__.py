"""Panoptic segmentation on detectron2: TASCNet, Seamless Scene Segmentation, UPSNet and OANet as one network with
two exchangeable parts, the stuff head and the fusion.

Importing the package is cheap: torch and detectron2 are loaded when one of the names below is used first. That also
registers the meta-architectures, heads, fusions and data sets in detectron2's registries.
"""

import importlib
import warnings
from typing import Any

__version__ = "0.2.0"

_EXPORTS = {
    "add_panoptic_fusion_config": "config",
    "config_file": "config",
    "get_cfg": "config",
    "load_trained": "networks",
    "load_zoo": "networks",
    "resolve_config": "config",
}
__all__ = ["add_panoptic_fusion_config", "config_file", "get_cfg", "load_trained", "load_zoo", "resolve_config"]

# detectron2's own use of torch.jit.script, which torch 2.14 deprecates: nothing that a user could act on
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import detectron2  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "panoptic_fusion needs detectron2, which PyPI does not have under that name. In a clone of this project "
            "`make setup` installs it without a compiler; README.md, section Installation, has the one command for "
            "your own environment."
        ) from error
    importlib.import_module("panoptic_fusion.config.registration").register_parts()
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])

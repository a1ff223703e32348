"""The parts of networks: backbones, heads for things, stuff heads, fusions. Importing this package registers them."""

from . import backbone, stuff_heads, things  # noqa: F401
from .fusion import PANOPTIC_FUSION_REGISTRY, PanopticFusion

__all__ = ["PANOPTIC_FUSION_REGISTRY", "PanopticFusion"]

"""The networks. Importing this package registers them."""

from . import meta_arch  # noqa: F401
from .fusion import PANOPTIC_FUSION_REGISTRY, PanopticFusion
from .independent import IndependentPanoptic, InstanceNetwork, SemanticNetwork
from .meta_arch import PanopticRCNN

__all__ = [
    "PANOPTIC_FUSION_REGISTRY",
    "IndependentPanoptic",
    "InstanceNetwork",
    "PanopticFusion",
    "PanopticRCNN",
    "SemanticNetwork",
]

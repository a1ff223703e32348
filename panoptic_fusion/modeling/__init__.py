"""The networks. Importing this package registers them."""

from . import meta_arch  # noqa: F401
from .fusion import PANOPTIC_FUSION_REGISTRY, PanopticFusion
from .independent import IndependentPanoptic
from .meta_arch import PanopticRCNN
from .single_task import InstanceNetwork, SemanticNetwork

__all__ = [
    "PANOPTIC_FUSION_REGISTRY",
    "IndependentPanoptic",
    "InstanceNetwork",
    "PanopticFusion",
    "PanopticRCNN",
    "SemanticNetwork",
]

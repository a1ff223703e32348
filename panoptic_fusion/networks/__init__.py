"""Networks: complete models built from the parts in `modeling`. Importing this package registers them in detectron2."""

from .independent import IndependentPanoptic
from .panoptic_rcnn import PanopticRCNN
from .single_task import InstanceNetwork, SemanticNetwork
from .trained import build_predictor, load_trained
from .zoo import load_zoo

__all__ = [
    "IndependentPanoptic",
    "InstanceNetwork",
    "PanopticRCNN",
    "SemanticNetwork",
    "build_predictor",
    "load_trained",
    "load_zoo",
]

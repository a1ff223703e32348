"""Selects the evaluators of a dataset from TEST.EVALUATORS, the model's outputs and the dataset's metadata."""

import contextlib
import logging
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators
from torch import nn

from ..config import get_cfg
from ..data.label_space import LabelSpace
from ..errors import ConfigError
from ..networks.inference import only_outputs
from .cityscapes import build_cityscapes_evaluators
from .evaluator import PanopticQualityEvaluator
from .instances import InstancesEvaluator
from .residual import ResidualEvaluator
from .semantic import SemanticEvaluator

logger = logging.getLogger(__name__)

NEEDED_OUTPUT = {
    "panoptic": "panoptic_seg",
    "instances": "instances",
    "cityscapes": "panoptic_seg",
    "residual": "things_masks",
    "semantic": "sem_seg",
}
ALSO_READ = {"cityscapes": "instances"}  # outputs that an evaluator reads if the model has them


def restrict_outputs(model: nn.Module, evaluators: Sequence[str]) -> contextlib.AbstractContextManager[None]:
    """Restricts a model to the outputs that evaluators (names as in TEST.EVALUATORS) read; see `only_outputs`."""
    return only_outputs(
        model, {table[name] for name in evaluators for table in (NEEDED_OUTPUT, ALSO_READ) if name in table}
    )


def check_evaluators(cfg: CfgNode) -> None:
    """Checks before a training run that every evaluator in TEST.EVALUATORS can be used.

    Evaluators in the default list may lack the output they read (they are skipped with a warning). An evaluator that
    the user adds must have it, and at least one evaluator overall must have it.

    Args:
        cfg: resolved config.

    Raises:
        ConfigError: TEST.EVALUATORS names an unknown evaluator, or MODEL.PANOPTIC_FUSION.OUTPUTS lacks its output.
    """
    names, outputs = list(cfg.TEST.EVALUATORS), list(cfg.MODEL.PANOPTIC_FUSION.OUTPUTS)
    for name in names:
        if name not in NEEDED_OUTPUT:
            raise ConfigError(f"TEST.EVALUATORS has {name!r}; it can list {', '.join(NEEDED_OUTPUT)}")
    lacking = [name for name in names if NEEDED_OUTPUT[name] not in outputs]
    for name in lacking:
        if len(lacking) == len(names) or name not in get_cfg().TEST.EVALUATORS:
            raise ConfigError(
                f"TEST.EVALUATORS has {name!r}, which needs {NEEDED_OUTPUT[name]!r}, but the network returns "
                f"{outputs} (see MODEL.PANOPTIC_FUSION.OUTPUTS and MODEL.META_ARCHITECTURE)"
            )


def build_evaluators(cfg: CfgNode, dataset_name: str, output_dir: str) -> DatasetEvaluators:
    """Builds the evaluators of TEST.EVALUATORS for a dataset.

    "cityscapes" adds nothing for a dataset that is not Cityscapes according to its metadata. Evaluators whose output is
    not in MODEL.PANOPTIC_FUSION.OUTPUTS are skipped with a warning, and so is "instances" for a dataset without thing
    classes.

    Raises:
        ConfigError: see `check_evaluators`.
    """
    check_evaluators(cfg)
    evaluators = []
    for name in cfg.TEST.EVALUATORS:
        needed = NEEDED_OUTPUT[name]
        if needed not in cfg.MODEL.PANOPTIC_FUSION.OUTPUTS:
            logger.warning("evaluator %r is left out: MODEL.PANOPTIC_FUSION.OUTPUTS has no %r", name, needed)
        elif name == "panoptic":
            evaluators.append(
                PanopticQualityEvaluator(
                    dataset_name,
                    output_dir=output_dir,
                    write_predictions=cfg.TEST.WRITE_PREDICTIONS,
                    max_pixels=cfg.INPUT.MAX_PIXELS,
                    boundary=cfg.TEST.BOUNDARY_PQ,
                )
            )
        elif name == "cityscapes":
            instances = ALSO_READ[name] in cfg.MODEL.PANOPTIC_FUSION.OUTPUTS
            evaluators += build_cityscapes_evaluators(
                dataset_name, output_dir, cfg.TEST.WRITE_PREDICTIONS, instances=instances
            )
        elif name == "residual":
            evaluators.append(ResidualEvaluator(dataset_name, max_pixels=cfg.INPUT.MAX_PIXELS))
        elif name == "semantic":
            ontology = cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY
            evaluators.append(SemanticEvaluator(dataset_name, ontology, max_pixels=cfg.INPUT.MAX_PIXELS))
        elif LabelSpace.from_metadata(MetadataCatalog.get(dataset_name)).num_things == 0:
            logger.warning("evaluator %r is left out: dataset %s has no thing class", name, dataset_name)
        else:
            evaluators.append(InstancesEvaluator(dataset_name, output_dir, max_pixels=cfg.INPUT.MAX_PIXELS))
    return DatasetEvaluators(evaluators)

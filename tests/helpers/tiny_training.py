"""What tests that train share: settings of a network that trains in seconds, and the project's scripts as modules."""

import importlib.util
import logging
import sys
from pathlib import Path

from detectron2.utils.logger import setup_logger

ROOT = Path(__file__).resolve().parents[2]

# 8 channels in the first stage instead of 64; one iteration takes about 60 ms with one thread.
TINY_NETWORK = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 30,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MAX_SIZE_TRAIN": 128,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 128,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.MAX_ITER": 4,
    "SOLVER.CHECKPOINT_PERIOD": 100,
    "DATALOADER.NUM_WORKERS": 0,
    "SEED": 3,
}

# Enough for some stuff segments to be right.
TRAINED = ("SOLVER.MAX_ITER", "40", "SOLVER.CHECKPOINT_PERIOD", "25", "VIS_PERIOD", "20")


def as_opts(settings: dict) -> list[str]:
    """KEY VALUE pairs of a command line."""
    return [str(text) for pair in settings.items() for text in pair]


def import_script(name: str):
    """A script of the repository, such as "train" or "tools/ablation", as a module; imported once."""
    module_name = Path(name).name
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, ROOT / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return sys.modules[module_name]


def remove_log_handlers() -> None:
    """Takes back what `setup_logger` did in this process: its handlers write to pytest's stdout of one test."""
    for name in ("detectron2", "fvcore", "panoptic_fusion"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = True
    setup_logger.cache_clear()

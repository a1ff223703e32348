"""Console output of a job: only the lines that a person needs. log.txt keeps everything."""

import logging
import sys

from detectron2.config import CfgNode
from tabulate import tabulate

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import counted, plain_line
from panoptic_fusion.other_packages import silence_other_packages

LOGGERS = ("detectron2", "fvcore", "panoptic_fusion")
# Loggers whose progress lines reach the console, and the text that marks such a line.
PROGRESS = {"detectron2.evaluation.evaluator": "ETA"}
MAX_WIDTH = 88  # maximum number of characters of a list of class names


class ConsoleFilter(logging.Filter):
    """Logging filter that passes warnings, this project's messages and progress lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether a record is shown on the console."""
        if record.levelno >= logging.WARNING or record.name.split(".")[0] in ("panoptic_fusion", "pf"):
            return True
        return PROGRESS.get(record.name, "\0") in record.getMessage()


def shorten_console() -> None:
    """Filters the console output of the existing loggers, and silences deprecation notices of other packages.

    `log.txt` still gets every record.
    """
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            to_console = getattr(handler, "stream", None) in (sys.stdout, sys.stderr)
            if to_console and not any(isinstance(f, ConsoleFilter) for f in handler.filters):
                handler.addFilter(ConsoleFilter())
    silence_other_packages()


def run_table(cfg: CfgNode, *, parameters: int, processes: int) -> str:
    """Returns a table that describes a training run before it starts.

    Args:
        cfg: resolved config.
        parameters: number of parameters of the model.
        processes: number of processes of the job.
    """
    label_space = LabelSpace.from_categories(cfg.MODEL.CATEGORIES)
    model, solver = cfg.MODEL, cfg.SOLVER
    on_device = f"{processes} processes" if processes > 1 else "1 process"
    images = counted(solver.IMS_PER_BATCH, "image")
    rows = [
        ("training data", ", ".join(cfg.DATASETS.TRAIN)),
        ("test data", ", ".join(cfg.DATASETS.TEST) or "none"),
        ("thing classes", class_list(label_space.thing_classes)),
        ("stuff classes", class_list(label_space.stuff_classes)),
        ("network", f"{model.META_ARCHITECTURE}, {parameters / 1e6:.1f} M parameters"),
        ("backbone", f"{model.BACKBONE.NAME} on {model.TIMM.NAME or model.BACKBONE.BOTTOM_UP}"),
        ("stuff head, fusion", f"{model.SEM_SEG_HEAD.NAME}, {model.PANOPTIC_FUSION.NAME}"),
        ("initial weights", model.WEIGHTS or model.TIMM.WEIGHTS or "random"),
        ("schedule", f"{counted(solver.MAX_ITER, 'iteration')} of {images}, learning rate {solver.BASE_LR}"),
        ("device", f"{model.DEVICE}, {on_device}"),
        ("output", f"{cfg.OUTPUT_DIR} (log.txt has all messages)"),
    ]
    return tabulate(rows, tablefmt="plain")


def class_list(names: list[str]) -> str:
    """Returns the number of classes and as many of their names as fit on a line."""
    text, shown = f"{len(names)}", []
    for name in map(plain_line, names):
        if len(", ".join([*shown, name])) > MAX_WIDTH:
            return f"{text}: {', '.join(shown)}, ..."
        shown.append(name)
    return f"{text}: {', '.join(shown)}" if names else text

"""Setup of a job: log files, random seeds, the config in OUTPUT_DIR."""

import logging
import os
import shlex
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from panoptic_fusion.checkpoint import last_checkpoint
from panoptic_fusion.errors import DISK_ERRORS, UserError, one_line
from panoptic_fusion.files import write_atomically

from .console import LOGGERS, shorten_console


def setup_job(cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """Sets up a process of a job, like detectron2's `default_setup`; each process of the job calls it.

    Unlike `default_setup`, it also logs the package's own messages, does not write the config yet (see `write_config`),
    and does not repeat the random numbers of the start in a resumed run (see `process_seed`). `restored_process` undoes
    what it changes in the process.

    Args:
        cfg: resolved config.
        resume: whether to continue from the last checkpoint in OUTPUT_DIR, if any.
        eval_only: whether to evaluate without training.

    Raises:
        UserError: if the last checkpoint in OUTPUT_DIR must be resumed but cannot be read.
    """
    rank = comm.get_rank()
    for name in LOGGERS:
        log_to(cfg.OUTPUT_DIR, name, rank)
    logger = logging.getLogger("detectron2")
    _log_user_errors_without_traceback()
    for name in LOGGERS:
        drop_log_on_full_disk(logging.getLogger(name))
    shorten_console()
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line: %s", shlex.join(sys.argv))
    logger.info("Running with full config:\n%s", cfg.dump())
    resumed = last_checkpoint(cfg.OUTPUT_DIR) if resume and not eval_only else None
    start_iter = resumed[1] + 1 if resumed else 0
    seed_all_rng(process_seed(cfg.SEED, rank, start_iter))
    if not eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def process_seed(seed: int, rank: int, start_iter: int) -> int | None:
    """Returns the random seed of a process, for the order of the images, the augmentations and the sampling.

    The seed depends on SEED, the rank and, when resuming, the start iteration. A resumed run therefore does not repeat
    the images and augmentations of its start, but resuming twice from the same checkpoint produces the same ones. An
    uninterrupted run produces different ones.

    Args:
        seed: SEED of the config; negative: a different seed each time.
        rank: rank of the process.
        start_iter: first iteration; 0 unless the run is resumed.

    Returns:
        A seed from 0 to 2**32 - 1, or None to derive one from the time and the process.
    """
    if seed < 0:
        return None
    if start_iter == 0:
        return seed + rank
    return int(np.random.SeedSequence([seed, rank, start_iter]).generate_state(1)[0])


def write_config(cfg: CfgNode, *, eval_only: bool) -> None:
    """Writes OUTPUT_DIR/config.yaml in the main process; call this after loading the weights.

    A config that does not fit the checkpoint in OUTPUT_DIR therefore never replaces its config. The file is
    written atomically. An evaluation does not replace the file of the training run whose OUTPUT_DIR it uses.
    """
    path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    if comm.is_main_process() and not (eval_only and os.path.isfile(path)):
        write_atomically(path, lambda file: file.write(cfg.dump().encode()))
        logging.getLogger(__name__).info("Full config saved to %s", path)


def log_to(folder: str, name: str, rank: int) -> None:
    """Adds the handlers of detectron2's `setup_logger` to a logger: the console, unless it has one, and `log.txt`.

    `setup_logger` itself does nothing for arguments that it has seen before, and keeps files open.
    """
    logger = logging.getLogger(name)
    on_console = any(getattr(handler, "stream", None) in (sys.stdout, sys.stderr) for handler in logger.handlers)
    abbreviation = {"panoptic_fusion": "pf"}.get(name)
    setup_logger.__wrapped__(None, rank, name=name, abbrev_name=abbreviation, configure_stdout=not on_console)
    os.makedirs(folder, exist_ok=True)
    handler = logging.FileHandler(os.path.join(folder, f"log.txt.rank{rank}" if rank else "log.txt"), encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
    logger.addHandler(handler)


def drop_log_on_full_disk(logger: logging.Logger) -> None:
    """Makes the handlers of a logger say once that their disk is full, and drop the rest of their log.

    Otherwise each message prints a traceback. The run continues; the next file that it needs ends it in one line.
    """
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.handleError = partial(_handle_error, handler, handler.handleError)


def _handle_error(
    handler: logging.StreamHandler, otherwise: Callable[[logging.LogRecord], None], record: logging.LogRecord
) -> None:
    error = sys.exc_info()[1]
    if not isinstance(error, OSError) or error.errno not in DISK_ERRORS:
        otherwise(record)
        return
    print(f"cannot write {handler.stream.name}: {error.strerror}; the run continues without it", file=sys.stderr)
    # Closing the stream later flushes its buffer, which would fail again: send it to the null device.
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), handler.stream.fileno())


class _UserErrorsInOneLine(logging.Filter):
    """Logging filter that removes the traceback from records of user errors; the command line shows their message."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], UserError):
            record.msg, record.args = f"{record.getMessage()} {one_line(record.exc_info[1])}", ()
            record.exc_info = record.exc_text = None
        return True


def _log_user_errors_without_traceback() -> None:
    logger = logging.getLogger("detectron2.engine.train_loop")
    if not any(isinstance(f, _UserErrorsInOneLine) for f in logger.filters):
        logger.addFilter(_UserErrorsInOneLine())

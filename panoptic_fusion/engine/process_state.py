"""Restores what a job changes in its process, so that the calls of one program do not affect each other."""

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from panoptic_fusion.other_packages import LOGGERS as SILENCED

from .console import LOGGERS

FILTERED = "detectron2.engine.train_loop"  # gets a filter, see `setup_job`
HASH_SEED = "PYTHONHASHSEED"  # set by detectron2's `seed_all_rng`


@contextlib.contextmanager
def restored_process() -> Iterator[None]:
    """Restores loggers, random states, warning filters, cudnn.benchmark and PYTHONHASHSEED at the end.

    Without it, the log file of one job would also get the messages of the next job in the process, the console would
    show each of them twice, and the program would continue with the job's random seed.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    hash_seed, benchmark = os.environ.get(HASH_SEED), torch.backends.cudnn.benchmark
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with warnings.catch_warnings(), torch.random.fork_rng(devices), _restored_loggers():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.backends.cudnn.benchmark = benchmark
            os.environ.pop(HASH_SEED, None)
            if hash_seed is not None:
                os.environ[HASH_SEED] = hash_seed


@contextlib.contextmanager
def _restored_loggers() -> Iterator[None]:
    """Restores the level, the propagation, the filters and the handlers of loggers; closes new handlers."""
    loggers = [logging.getLogger(name) for name in (*LOGGERS, *SILENCED, FILTERED)]
    before = [(x.level, x.propagate, list(x.filters), {h: list(h.filters) for h in x.handlers}) for x in loggers]
    try:
        yield
    finally:
        for logger, (level, propagate, filters, handlers) in zip(loggers, before, strict=True):
            for handler in set(logger.handlers) - handlers.keys():
                logger.removeHandler(handler)
                handler.close()
            for handler, own_filters in handlers.items():
                handler.filters = own_filters
            logger.setLevel(level)
            logger.propagate, logger.filters = propagate, filters

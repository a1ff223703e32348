"""Starts the processes of a job and ends them in a way that prevents aborts after the work is done."""

import atexit
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from ..errors import UserError

# A process of a job imports detectron2 before this package, whose `__init__` silences this warning.
_SILENCED = "ignore:`torch.jit.script` is deprecated:FutureWarning"


def launch(main_func: Callable[..., object], num_processes: int, *, args: tuple = (), **options: Any) -> None:
    """Runs `main_func(*args)` in each process of a job: detectron2's `launch` with an orderly end.

    detectron2 leaves the process group to the shutdown of the interpreter. At that point, a gloo thread that still
    holds a finished collective releases its tensors and requests the interpreter's lock. The interpreter ends the
    thread within C++ code, and the process aborts with "terminate called without an active exception" (SIGABRT),
    although all work was done (pytorch/pytorch#179291). It only shows on a busy machine. To prevent it, each process
    waits for the others, destroys the process group, runs its exit handlers, and exits without that shutdown.
    (Destroying the group alone is not enough, because DistributedDataParallel keeps references to the group and thus
    its threads.)

    Args:
        main_func: module-level function.
        num_processes: number of processes on this machine; on a machine with GPUs, the number of GPUs to use. If the
            job has only 1 process, `main_func` runs in the current one.
        args: arguments of `main_func`.
        options: forwarded to detectron2's `launch`: num_machines, machine_rank, dist_url, timeout.

    Raises:
        ProcessRaisedException: if `main_func` raised an error in one of several processes.
        UserError: if one of several processes was killed; the others are ended.
    """
    silenced = os.environ.get("PYTHONWARNINGS", "")
    if _SILENCED not in silenced:
        os.environ["PYTHONWARNINGS"] = f"{silenced},{_SILENCED}".lstrip(",")
    try:
        detectron2_launch(partial(_run, main_func, os.getpid()), num_processes, args=args, **options)
    except ProcessExitedException as error:
        how = f"was killed by {error.signal_name}" if error.signal_name else f"ended with exit code {error.exit_code}"
        raise UserError(
            f"process {error.error_index + 1} of {num_processes} {how}, possibly because memory ran out: "
            "start again with fewer processes or images per batch (training runs: with --resume)"
        ) from error


def _run(main_func: Callable[..., object], parent: int, *args: Any) -> None:
    """Runs `main_func`, then ends a process that `launch` has started. torch's spawn handles errors."""
    main_func(*args)
    if os.getpid() == parent:
        return
    comm.synchronize()
    dist.destroy_process_group()
    atexit._run_exitfuncs()  # logging and multiprocessing flush in these
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)

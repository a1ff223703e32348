"""Starts the processes of a job, and ends them so that none aborts after its work is done."""

import atexit
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.distributed as dist
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm


def launch(main_func: Callable[..., object], num_processes: int, *, args: tuple = (), **options: Any) -> None:
    """Runs `main_func(*args)` in each process of a job: detectron2's `launch` with an orderly end.

    detectron2 leaves the process group to the interpreter's shutdown. A thread of gloo that still holds a finished
    collective then drops its tensors, asks for the interpreter's lock, is ended by the interpreter within C++ code, and
    the process aborts: "terminate called without an active exception", SIGABRT, although all work was done
    (pytorch/pytorch#179291). It needs a busy machine to be seen. Here each process waits for the others, destroys the
    process group, runs its exit handlers, and leaves without that shutdown. (Destroying alone is not enough:
    DistributedDataParallel keeps references to the group, and so its threads.)

    Args:
        main_func: a function of a module.
        num_processes: on this machine; on a machine with GPUs, the number of GPUs to use. With 1 process in all,
            `main_func` runs in this one.
        args: arguments of `main_func`.
        options: forwarded to detectron2's `launch`: num_machines, machine_rank, dist_url, timeout.

    Raises:
        ProcessRaisedException: `main_func` has raised in one of several processes.
    """
    detectron2_launch(partial(_run, main_func, os.getpid()), num_processes, args=args, **options)


def _run(main_func: Callable[..., object], parent: int, *args: Any) -> None:
    """Runs `main_func`, then ends a process that `launch` has started. Errors are left to torch's spawn."""
    main_func(*args)
    if os.getpid() == parent:
        return
    comm.synchronize()
    dist.destroy_process_group()
    atexit._run_exitfuncs()  # logging and multiprocessing flush there
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)

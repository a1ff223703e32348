"""Runs a function in two processes of a job, as a training with two processes does."""

from collections.abc import Callable
from unittest import mock

import torch

from panoptic_fusion.engine.spawn import launch


def run_in_two_processes(function: Callable[..., object], *args: object) -> None:
    """Runs `function(rank, *args)` in two processes on the CPU, with one thread each and a gloo process group.

    Args:
        function: of a module; what it returns is lost.
        args: can be pickled.

    Raises:
        ProcessRaisedException: `function` has raised.
    """
    with mock.patch.dict("os.environ", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1"):
        launch(_run, 2, dist_url="auto", args=(function, args))


def _run(function: Callable[..., object], args: tuple) -> None:
    torch.set_num_threads(1)
    function(torch.distributed.get_rank(), *args)

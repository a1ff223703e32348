"""Maps over several processes, with a progress line."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2
from tqdm import tqdm

from .children import exit_with
from .errors import UserError


class WorkerKilledError(UserError):
    """Error of a map whose process was killed."""


def default_workers() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_one_thread() -> None:
    """Limits torch to one thread if this is one of several processes."""
    if multiprocessing.parent_process() is not None:
        import torch  # not installed for exported models alone

        torch.set_num_threads(1)


def map_in_processes(
    function: Callable[[Any], Any], tasks: Sequence[Any], processes: int | None = None
) -> Iterator[Any]:
    """Yields `function(task)` for each task, in order, computed by several processes.

    Args:
        function: function that can be pickled; its results must be picklable as well.
        tasks: picklable arguments of `function`.
        processes: number of processes; None: `default_workers`. With 1 or less, everything runs in this process.

    Raises:
        WorkerKilledError: if a process was killed.
    """
    processes = min(default_workers() if processes is None else processes, len(tasks))
    if processes <= 1:
        yield from map(function, tasks)
        return
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=(os.getpid(),))
    try:
        yield from pool.map(function, tasks, chunksize=max(1, min(16, len(tasks) // (4 * processes))))
    except BrokenProcessPool as error:
        raise WorkerKilledError(
            "a process was killed, possibly because memory ran out: use fewer processes (--workers)"
        ) from error
    finally:
        # With wait=False, the pool's thread may close its pipe while Python exits, which prints a traceback.
        pool.shutdown(cancel_futures=True)


def _start(parent: int) -> None:
    """Prepares a process of `map_in_processes`: one thread, and it ends with its parent even if that is killed."""
    exit_with(parent)
    cv2.setNumThreads(0)


def with_progress(results: Iterable[Any], total: int, doing: str, per_result: int = 1) -> Iterator[Any]:
    """Yields the results; shows a bar on a terminal, otherwise a line with the remaining time every 30 seconds.

    Args:
        results: any iterable.
        total: number of results.
        doing: description of the work, such as "checking".
        per_result: number of images per result.
    """
    if sys.stderr.isatty():
        with tqdm(total=total * per_result, desc=doing, unit="image", dynamic_ncols=True) as bar:
            for result in results:
                yield result
                bar.update(per_result)
        return
    start = last = time.monotonic()
    for done, result in enumerate(results, start=1):
        yield result
        now = time.monotonic()
        if now - last >= 30:
            last = now
            left = (now - start) / done * (total - done)
            text = f"{doing}: {done * per_result} of {total * per_result} images, about {left:.0f} s left"
            print(text, file=sys.stderr, flush=True)

"""Processes many images in several processes, with a journal so that an interrupted run resumes.

A journal is a file of JSON lines, one per finished image, appended by the worker that finished it. Callers hold a
lock, so that one run at a time works on it. Workers do not hold it. When their parent is killed, they end within a
fraction of a second. Files that they still write are complete and identical to the ones that the next run writes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2

from ..children import exit_with
from ..errors import DISK_ERRORS, DiskError, UserError

T = TypeVar("T")
R = TypeVar("R")


def map_unordered(
    function: Callable[[T], R],
    tasks: Sequence[T],
    workers: int,
    start: Callable[..., None] | None = None,
    arguments: tuple = (),
) -> Iterator[R]:
    """Yields `function(task)` for each task, as they finish.

    Args:
        function: module-level function or a partial of one, since it is sent to other processes.
        tasks: arguments of `function`; only a few are queued at a time.
        workers: number of processes; 1 runs in the current process.
        start: called with `arguments` in each process before its first task.

    Raises:
        UserError: if a process was killed.
    """
    if workers <= 1 or len(tasks) <= 1:
        if start is not None:
            start(*arguments)
        yield from map(function, tasks)
        return
    # fork is fast; on systems other than Linux it is not safe.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    workers = min(workers, len(tasks))
    executor = ProcessPoolExecutor(workers, context, _start_worker, (os.getpid(), start, arguments))
    try:
        pending, rest = set(), iter(tasks)
        while True:
            while len(pending) < 4 * workers and (task := next(rest, _END)) is not _END:
                pending.add(executor.submit(function, task))
            if not pending:
                break
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, possibly because memory ran out: run the same command again to resume, "
            f"with fewer --workers (now: {workers})"
        ) from error
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


_END: Any = object()


def append_record(journal: str | os.PathLike, record: Any) -> None:
    """Appends one JSON line.

    Raises:
        DiskError: if the disk is full; the journal keeps its other lines.
    """
    # A single write, which O_APPEND places at the end as a whole. The line feed comes first, so that a line truncated
    # by a kill or a full disk does not corrupt the next one.
    line = b"\n" + json.dumps(record).encode()
    try:
        with open(journal, "ab", buffering=0) as file:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise DiskError.of(error, journal) from error
        raise


def read_records(journal: str | os.PathLike) -> Iterator[Any]:
    """Yields the records of a journal, without lines that were truncated by a kill."""
    with open(journal, "rb") as file:
        for line in file:
            with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
                yield json.loads(line)


def _start_worker(parent: int, start: Callable[..., None] | None, arguments: tuple) -> None:
    """Makes a worker use one thread, leave Ctrl-C to its parent, and exit soon after the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with(parent)
    cv2.setNumThreads(0)
    if start is not None:
        start(*arguments)

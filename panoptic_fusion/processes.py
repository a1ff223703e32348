"""Work in several processes: one per folder, none without its parent, maps with a progress line."""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
from filelock import FileLock, Timeout
from tqdm import tqdm

from .errors import UserError

LOCK_NAME = ".lock"
PARENT_VARIABLE = "PANOPTIC_FUSION_PARENT"  # id of the process that a child must not outlive


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike, what: str, *, patience: float = 5.0) -> Iterator[None]:
    """Holds the lock of a folder; the operating system releases it when the process ends, however it ends.

    Args:
        folder: an existing folder; gets a file `.lock`, which stays.
        what: names the folder in the error, such as "OUTPUT_DIR output/toy".
        patience: seconds to wait for the processes of a killed run to end.

    Raises:
        UserError: another process holds the lock.
    """
    lock = FileLock(Path(folder) / LOCK_NAME, timeout=patience, poll_interval=0.1)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{what} is in use by another run. Wait until it ends, or choose a different folder.") from None
    try:
        yield
    finally:
        lock.release()


def run_child(command: Sequence[str], **options) -> int:
    """Runs a command that ends with this process, and returns its exit code.

    Args:
        command: program and arguments. A child that calls `end_with_parent` ends within a second of this process, even
            if this process is killed.
        options: forwarded to `subprocess.Popen`; `env` defaults to the environment of this process.
    """
    env = {**(options.pop("env", None) or os.environ), PARENT_VARIABLE: str(os.getpid())}
    process = subprocess.Popen(command, env=env, **options)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        raise


def end_with_parent() -> None:
    """Ends this process when the one that started it by `run_child` is gone; does nothing in other processes."""
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if parent.isdigit():
        exit_with(int(parent))


def exit_with(parent: int, interval: float = 0.2) -> None:
    """Starts a thread that ends this process as soon as its parent is another one than `parent`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(interval)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def map_in_processes(
    function: Callable[[Any], Any], tasks: Sequence[Any], processes: int | None = None
) -> Iterator[Any]:
    """Yields `function(task)` for each task, in order, computed by several processes.

    Args:
        function: can be pickled, and so can its results.
        tasks: can be pickled.
        processes: number of processes; None: one per CPU core. With 1, everything runs in this process.
    """
    processes = min(processes or os.cpu_count() or 1, len(tasks))
    if processes <= 1:
        yield from map(function, tasks)
        return
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        try:
            yield from pool.map(function, tasks)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def show_progress(results: Iterable[Any], total: int, doing: str, per_result: int = 1) -> Iterator[Any]:
    """Passes results on; shows a bar on a terminal, otherwise a line with the remaining time every 30 seconds.

    Args:
        results: any iterable.
        total: number of results.
        doing: what is being done, such as "checking".
        per_result: number of images that a result stands for.
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
            print(
                f"{doing}: {done * per_result} of {total * per_result} images, about {left:.0f} s left", file=sys.stderr
            )

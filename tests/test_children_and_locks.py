"""Locks of folders, and child processes that end with their parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from panoptic_fusion.children import run_child
from panoptic_fusion.errors import UserError
from panoptic_fusion.locks import locked_folder
from panoptic_fusion.processes import WorkerKilledError, map_in_processes

HOLD = "import sys, time; from panoptic_fusion.locks import locked_folder\n"
HOLD += "with locked_folder(sys.argv[1], 'it'): print('held', flush=True); time.sleep(60)"
CHILD = "import os, sys, time; from panoptic_fusion.children import end_with_parent\n"
CHILD += "end_with_parent(); print(os.getpid(), flush=True); time.sleep(60)"
PARENT = "import sys; from panoptic_fusion.children import run_child\n"
PARENT += "run_child([sys.executable, '-c', sys.argv[1]])"
MAP = """
import os, time
from panoptic_fusion.processes import WorkerKilledError, map_in_processes

def task(number):
    time.sleep(0.3 if number < 2 else 60)  # each of the two processes gets one of the short tasks
    return os.getpid()

for pid in map_in_processes(task, range(4), 2):
    print(pid, flush=True)
"""


def start(child_env, *arguments) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", *arguments], env=child_env, stdout=subprocess.PIPE, text=True)


def test_a_lock_is_held_by_one_process_and_released_when_it_is_killed(tmp_path, child_env):
    with start(child_env, HOLD, str(tmp_path)) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="OUTPUT_DIR out is in use by another run"):
            with locked_folder(tmp_path, "OUTPUT_DIR out", patience=0):
                pass
        holder.kill()
        with locked_folder(tmp_path, "OUTPUT_DIR out"):
            pass


def test_a_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(KeyError), locked_folder(tmp_path, "it"):
        raise KeyError
    with locked_folder(tmp_path, "it", patience=0):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_child_ends_with_its_parent(child_env, number):
    with start(child_env, PARENT, CHILD) as parent:
        child = int(parent.stdout.readline())
        parent.send_signal(number)
        parent.wait(20)
        deadline = time.monotonic() + 20
        while alive(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(child)


def test_the_processes_of_a_map_end_with_a_killed_parent(child_env):
    with start(child_env, MAP) as parent:
        children = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(alive, children)) and parent.pid not in children
        parent.kill()
        parent.wait(20)
        deadline = time.monotonic() + 20
        while any(map(alive, children)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(alive, children))


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_exit_code_of_a_child_is_returned_and_its_parent_is_not_inherited():
    assert run_child([sys.executable, "-c", "raise SystemExit(7)"]) == 7
    assert "PANOPTIC_FUSION_PARENT" not in os.environ


def end_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_of_a_map_is_one_clear_error():
    """Every command that maps over processes gets the same line, not a traceback."""
    with pytest.raises(WorkerKilledError, match="a process was killed.*--workers"):
        list(map_in_processes(end_at_three, range(8), 2))


def slow_after_the_first(number: int) -> int:
    time.sleep(0.05 * min(number, 1))
    return number


def test_a_map_that_ends_early_leaves_no_thread_and_no_process():
    """A thread of the pool that is left may close its pipe while Python exits: a traceback after the error's line."""
    results = map_in_processes(slow_after_the_first, range(40), 2)
    assert next(results) == 0
    results.close()
    assert multiprocessing.active_children() == []
    assert [thread for thread in threading.enumerate() if "ExecutorManager" in type(thread).__name__] == []

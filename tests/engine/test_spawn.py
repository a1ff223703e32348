"""The processes of a job end in order: exit handlers run, and the interpreter's shutdown is not reached."""

import atexit
import logging
import logging.handlers
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from detectron2.engine import launch as detectron2_launch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from panoptic_fusion.engine.spawn import launch
from panoptic_fusion.errors import UserError


class AbortsAtShutdown:
    """Stands for gloo's thread: it aborts the process if the interpreter is shut down while it is alive."""

    def __del__(self):
        os.abort()


def work(folder: str, fail: bool) -> None:
    torch.set_num_threads(1)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    net(torch.ones(2, 4)).sum().backward()
    if fail and rank == 1:
        raise RuntimeError("this one fails")
    sys.modules["kept_until_shutdown"] = AbortsAtShutdown()
    handler = logging.handlers.MemoryHandler(100, target=logging.FileHandler(Path(folder, f"log{rank}")))
    logging.getLogger("launch_test").addHandler(handler)
    logging.getLogger("launch_test").error("last words")
    atexit.register(Path(folder, f"exit{rank}").write_text, "handlers ran")


def killed() -> None:
    if torch.distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(5)


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_processes_leave_without_the_shutdown(tmp_path, on_cpu, capfd):
    launch(work, 2, dist_url="auto", args=(str(tmp_path), False))
    assert "torch.jit.script" not in capfd.readouterr().err  # detectron2's use of it is no news to a user
    for rank in range(2):
        assert (tmp_path / f"exit{rank}").read_text() == "handlers ran"
        assert "last words" in (tmp_path / f"log{rank}").read_text()


@pytest.mark.slow
def test_the_stand_in_aborts_without_it(tmp_path, on_cpu):
    """What the test above would see with detectron2's launch."""
    with pytest.raises(ProcessExitedException, match="SIGABRT"):
        detectron2_launch(work, 2, dist_url="auto", args=(str(tmp_path), False))


def test_an_error_is_reported(tmp_path, on_cpu):
    with pytest.raises(ProcessRaisedException, match="this one fails"):
        launch(work, 2, dist_url="auto", args=(str(tmp_path), True))


def test_one_process_is_this_one(tmp_path):
    seen = []
    launch(seen.append, 1, args=(7,))
    assert seen == [7]


def test_a_process_that_is_killed_is_one_line(on_cpu):
    with pytest.raises(UserError, match="process 2 of 2 was killed by SIGKILL.*--resume") as error:
        launch(killed, 2, dist_url="auto")
    assert "\n" not in str(error.value)

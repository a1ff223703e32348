"""What a killed process leaves half-written is removed by the next run, what a running one writes is not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from panoptic_fusion.files import remove_partial_files, temporary_folder, write_text
from panoptic_fusion.locks import locked_folder

KILLED_WRITE = """
import os, signal, sys
from panoptic_fusion.files import write_atomically
def write(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), int(sys.argv[2]))
write_atomically(sys.argv[1] + "/a [1]*.json", write)
"""
KILLED_FOLDER = """
import os, sys
from panoptic_fusion.files import temporary_folder
with temporary_folder("work[1].", sys.argv[1]) as folder:
    (folder / "x").write_text("x")
    os.kill(os.getpid(), int(sys.argv[2]))
"""


def run_killed(code: str, folder: Path, env: dict) -> None:
    command = [sys.executable, "-c", code, str(folder), str(int(signal.SIGKILL))]
    assert subprocess.run(command, env=env, capture_output=True).returncode == -signal.SIGKILL
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("by_lock", [False, True])
def test_partial_files(tmp_path: Path, child_env, by_lock: bool):
    run_killed(KILLED_WRITE, tmp_path, child_env)
    kept = {f".own.json.{os.getpid()}.partial", ".a.partial", "b.1.partial", ".hidden"}
    for name in kept:
        (tmp_path / name).touch()
    if by_lock:
        with locked_folder(tmp_path, "the folder"):
            pass
        kept.add(".lock")
    else:
        remove_partial_files(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} - {".lock"} == kept - {".lock"}


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="only Linux shows that a process has ended")
def test_partial_file_of_a_killed_process_that_is_not_yet_collected(tmp_path: Path):
    process = subprocess.Popen(["sleep", "60"])
    partial = tmp_path / f".a.json.{process.pid}.partial"
    partial.touch()
    remove_partial_files(tmp_path)
    assert partial.exists()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended and remains a zombie
    remove_partial_files(tmp_path)
    assert not partial.exists()
    process.wait()


def test_temporary_folders(tmp_path: Path, child_env):
    run_killed(KILLED_FOLDER, tmp_path, child_env)
    for name in ("work[1].mine", "work1.1.x", "other"):
        (tmp_path / name).mkdir()
    with temporary_folder("work[1].", tmp_path) as folder:
        assert list(folder.iterdir()) == []
        with temporary_folder("work[1].", tmp_path) as second:
            assert folder.is_dir() and second != folder
        assert not second.exists()
    assert {p.name for p in tmp_path.iterdir()} == {"work[1].mine", "work1.1.x", "other"}


def test_the_next_write_of_the_same_file_removes_what_a_killed_one_left(tmp_path: Path, child_env):
    """Of other files it does not: a process of another machine may be writing them to a shared folder."""
    run_killed(KILLED_WRITE, tmp_path, child_env)
    (partial,) = tmp_path.iterdir()
    other, own = tmp_path / partial.name.replace("a [1]", "b"), tmp_path / f".a [1]*.json.{os.getppid()}.partial"
    other.touch()
    own.touch()
    write_text(tmp_path / "a [1]*.json", "whole")
    assert {p.name for p in tmp_path.iterdir()} == {"a [1]*.json", other.name, own.name}

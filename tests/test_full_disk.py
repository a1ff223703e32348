"""A disk that is full: one line that says so, and what was finished is kept."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from panoptic_fusion import files
from panoptic_fusion.errors import DISK_ERRORS, DiskError, run_cli
from panoptic_fusion.files import write_atomically, write_image


@pytest.fixture
def small_disk(tmp_path: Path):
    """Mounts a file system of the given number of KiB; skips where this process may not."""
    mounted: list[Path] = []

    def mount(kib: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this process may not mount a file system")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_after(room: int, number: int) -> type[files._Raw]:
    """The class of a file that takes `room` bytes."""

    class Full(files._Raw):
        left = room

        def write(self, data):
            if len(data) > self.left:
                self.error = OSError(number, os.strerror(number))
                raise self.error
            self.left -= len(data)
            return super().write(data)

    return Full


WRITERS = {
    "bytes": lambda path: write_atomically(path, lambda file: file.write(bytes(100_000))),
    "torch": lambda path: write_atomically(path, lambda file: torch.save({"a": torch.zeros(100_000)}, file)),
    "image": lambda path: write_image(path, np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)),
}


@pytest.mark.parametrize("number", DISK_ERRORS)
@pytest.mark.parametrize("writer", WRITERS)
def test_each_writer(tmp_path, monkeypatch, writer: str, number: int):
    path = tmp_path / "x.png"
    path.write_text("old")
    monkeypatch.setattr(files, "_Raw", full_after(5000, number))
    with pytest.raises(DiskError, match=f"cannot write {path}: {os.strerror(number)}") as error:
        WRITERS[writer](path)
    assert "\n" not in str(error.value)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "x", lambda file: 1 / 0)
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "x", lambda file: file.write(b""))


@pytest.mark.parametrize("number", DISK_ERRORS)
def test_the_command_line_says_it_in_one_line(capsys, number: int):
    """Also where a library writes: a log, TensorBoard."""

    def main():
        raise OSError(number, os.strerror(number), "some/file")

    with pytest.raises(SystemExit) as end:
        run_cli(main, "x")
    err = capsys.readouterr().err
    assert end.value.code == 2 and os.strerror(number) in err and "some/file" in err and err.count("\n") == 1


def test_another_error_of_the_system_is_not_hidden():
    def main():
        raise OSError(errno.ENOTCONN, "not connected")

    with pytest.raises(OSError, match="not connected"):
        run_cli(main, "x")


def test_training_on_a_small_disk_and_resumed_with_room(small_disk, toy_config, tiny_opts, child_env):
    disk = small_disk(2000)
    words = [*tiny_opts, "OUTPUT_DIR", str(disk / "run"), "SOLVER.MAX_ITER", "8", "SOLVER.CHECKPOINT_PERIOD", "2"]
    command = [sys.executable, "-m", "panoptic_fusion", "train", "--config-file", toy_config, "--resume", *words]
    first = subprocess.run(command, env=child_env, capture_output=True, text=True)
    assert first.returncode == 2 and "No space left on device" in first.stderr.strip().splitlines()[-1]
    assert "Traceback" not in first.stderr, first.stderr[-3000:]
    subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
    second = subprocess.run(command, env=child_env, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr[-3000:]
    assert (disk / "run" / "model_final.pth").is_file() and not list((disk / "run").glob(".*.partial"))


def test_a_file_object_of_the_writer_is_binary(tmp_path):
    write_atomically(tmp_path / "x", lambda file: file.write(io.BytesIO(b"abc").getbuffer()))
    assert (tmp_path / "x").read_bytes() == b"abc"

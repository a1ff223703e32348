"""Video files: what was written can be read again, also after a kill; a full disk is noticed."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from limited_files import room_for

from panoptic_fusion.data.frames import DEFAULT_RATE, count_frames, frame_rate
from panoptic_fusion.errors import DiskError, UserError
from panoptic_fusion.visualization import VideoFile, video

MJPG = video.FORMATS[1:]


def scene(size: tuple[int, int], number: int) -> np.ndarray:
    """(h, w, 3) uint8: a smooth picture that differs from frame to frame."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([(x + 9 * number) % 200, (y + 5 * number) % 200, np.full_like(x, 20 * number % 250)], 2).astype(
        "u1"
    )


def read(path: Path) -> list[np.ndarray]:
    """All frames, RGB."""
    opened, frames = cv2.VideoCapture(str(path)), []
    while (frame := opened.read())[0]:
        frames.append(frame[1][:, :, ::-1])
    opened.release()
    return frames


@pytest.mark.parametrize("formats", [video.FORMATS, MJPG])
@pytest.mark.parametrize(
    ("size", "rate", "num"), [((96, 128), 10, 12), ((97, 131), 29.97, 30), ((64, 48), 0.5, 3), ((240, 320), 59.94, 1)]
)
def test_what_is_written_can_be_read(tmp_path: Path, monkeypatch, formats, size, rate, num):
    """Frame rate, size (even) and each frame in its place."""
    monkeypatch.setattr(video, "FORMATS", formats)
    with VideoFile(tmp_path / "a.b", rate, size) as file:
        for number in range(num):
            file.write(scene(size, number))
    assert [p.name for p in tmp_path.iterdir()] == [f"a.b{formats[0][1]}"] == [file.path.name]
    assert frame_rate(file.path) == pytest.approx(rate, rel=1e-3) and count_frames(file.path) == num
    frames = read(file.path)
    assert len(frames) == num and frames[0].shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    for number, frame in enumerate(frames):
        errors = [np.abs(frame[: size[0], : size[1]] - scene(size, n).astype(int)).mean() for n in range(num)]
        assert np.argmin(errors) == number and errors[number] < 15


def test_a_frame_of_another_size_is_resized(tmp_path: Path):
    with VideoFile(tmp_path / "a", 10, (96, 128)) as file:
        file.write(np.full((96, 128, 3), 50, np.uint8))
        file.write(np.full((48, 64, 3), 200, np.uint8))
    assert [round(frame.mean(), -1) for frame in read(file.path)] == [50, 200]


def test_an_error_leaves_an_unfinished_file_that_plays(tmp_path: Path):
    (tmp_path / "a.webm").write_bytes(b"of the previous run")
    with pytest.raises(KeyboardInterrupt), VideoFile(tmp_path / "a", 10, (96, 128)) as file:
        for number in range(5):
            file.write(scene((96, 128), number))
        raise KeyboardInterrupt
    assert file.path.read_bytes() == b"of the previous run"
    assert len(read(tmp_path / "a (unfinished).webm")) == 5
    with VideoFile(tmp_path / "a", 10, (96, 128)) as file:
        file.write(scene((96, 128), 0))
    assert [p.name for p in tmp_path.iterdir()] == ["a.webm"] and len(read(tmp_path / "a.webm")) == 1


KILLED = """
import os, signal, sys
import numpy as np
from panoptic_fusion.visualization import VideoFile
file = VideoFile(sys.argv[1], 25, (96, 128))
rng = np.random.default_rng(0)
for number in range(400):
    file.write(rng.integers(0, 255, (96, 128, 3), np.uint8))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_file_plays_up_to_its_last_seconds(tmp_path: Path, child_env):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], env=child_env)
    assert done.returncode == -9 and [p.name for p in tmp_path.iterdir()] == ["a (unfinished).webm"]
    assert 200 <= len(read(tmp_path / "a (unfinished).webm")) <= 400


@pytest.mark.parametrize("formats", [video.FORMATS, MJPG])
def test_a_full_disk(tmp_path: Path, monkeypatch, formats):
    """OpenCV drops the frames without an error."""
    monkeypatch.setattr(video, "FORMATS", formats)
    rng = np.random.default_rng(0)
    with room_for(20_000), pytest.raises(DiskError, match="a.(webm|avi): frames are missing"):
        with VideoFile(tmp_path / "a", 25, (96, 128)) as file:
            for _ in range(100):
                file.write(rng.integers(0, 255, (96, 128, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_another_format_without_an_encoder(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setattr(video, "FORMATS", (("ZZZZ", ".webm"), *MJPG))
    with VideoFile(tmp_path / "a", 10, (96, 128)) as file:
        file.write(scene((96, 128), 0))
    assert [p.name for p in tmp_path.iterdir()] == ["a.avi"] and len(read(tmp_path / "a.avi")) == 1
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / 'a.avi'}: this OpenCV cannot write ZZZZ.webm"
    ]
    monkeypatch.setattr(video, "FORMATS", (("ZZZZ", ".webm"),))
    with pytest.raises(UserError, match="128x96 pixels"):
        VideoFile(tmp_path / "b", 10, (96, 128))
    with pytest.raises(UserError, match="cannot write"):
        VideoFile(tmp_path / "missing" / "b", 10, (96, 128))


def test_nothing_is_printed(tmp_path: Path, capfd):
    with VideoFile(tmp_path / "a", 10, (96, 128)) as file:
        file.write(scene((96, 128), 0))
    assert capfd.readouterr() == ("", "")


def test_a_rate_that_is_not_plausible(tmp_path: Path):
    (tmp_path / "a.avi").write_bytes(b"not a video")
    assert frame_rate(tmp_path / "a.avi") == DEFAULT_RATE

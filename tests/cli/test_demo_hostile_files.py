"""`panoptic-fusion demo` over files that are no photos, over a full disk, and killed."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hostile_images import write_refused, write_unusual, write_video

from panoptic_fusion import files as files_module
from panoptic_fusion.cli import demo_images
from panoptic_fusion.data import frames
from panoptic_fusion.errors import plain_line


@pytest.fixture
def photo(tiny_data) -> Path:
    return min(Path(tiny_data["val"]["images"]).glob("*.jpg"))


def test_hostile_files(run_script, trained, photo: Path, tmp_path: Path):
    folder, output = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    refused = write_refused(folder, photo)
    good = write_unusual(folder, photo)
    assert len(refused) + len(good) >= 50
    code, _, err = run_script("demo", "--model", trained, "--input", folder, "--output", output)
    assert code == 1 and "Traceback" not in err
    skipped = [line for line in err.splitlines() if line.startswith("skipped: ")]
    for name in refused:
        assert any(plain_line(name) in line for line in skipped), name
    assert len(skipped) == len(refused)
    content = json.loads((output / "panoptic.json").read_text())
    assert {Path(a["image"]).name for a in content["annotations"]} == {demo_images.printable(Path(n)) for n in good}
    for entry in content["annotations"]:
        assert (output / entry["file_name"]).is_file()
        assert cv2.imread(str(output / entry["file_name"]).replace(".png", ".jpg")) is not None


@pytest.mark.parametrize("name", ["pipe.jpg", "loop.jpg", "folder.avi", "huge.png", "to_zero.png"])
def test_hostile_files_by_name_and_by_glob(run_script, trained, photo: Path, tmp_path: Path, name: str):
    folder = tmp_path / "photos"
    folder.mkdir()
    write_refused(folder, photo)
    shutil.copy(photo, folder / f"{name.split('.')[0]}_good.jpg")
    pattern = f"{folder}/{name.split('.')[0]}*"
    words = [pattern] if name.startswith("folder") else [folder / name, pattern]
    code, _, err = run_script("demo", "--model", trained, "--input", *words, "--output", tmp_path / "out")
    assert code == 1 and name in err and "Traceback" not in err
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert len(content["annotations"]) == 1


def test_a_video_that_breaks_off(tmp_path: Path, monkeypatch):
    """Its header says 12 frames, 5 can be read."""
    video = tmp_path / "cut.avi"
    write_video(video, 12)

    open_video = cv2.VideoCapture

    class Broken:  # not a subclass: OpenCV frees those in a way that corrupts Python's memory
        def __init__(self, path):
            self.video, self.left = open_video(path), 5
            self.get, self.release = self.video.get, self.video.release

        def read(self):
            self.left -= 1
            return self.video.read() if self.left >= 0 else (False, None)

    monkeypatch.setattr(frames.cv2, "VideoCapture", Broken)
    skipped: list[str] = []
    assert [name for _, name, _ in frames.frames_of([video], skipped)] == [f"cut_{n:06d}" for n in range(5)]
    assert skipped == [f"{video}: only the first 5 of 12 frames can be read"]
    video.write_bytes(video.read_bytes()[:3000])
    skipped.clear()
    assert list(frames.frames_of([video], skipped)) == [] and skipped == [f"{video} is not a readable video"]


def test_max_pixels_and_a_video_that_breaks_off(run_script, trained, photo, tmp_path):
    """The command line skips both by name, and does everything else, the first frames of the video included."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.jpg", "z.jpg"):
        shutil.copy(photo, folder / name)
    cv2.imwrite(str(folder / "large.png"), np.zeros((125, 161, 3), np.uint8))
    cv2.imwrite(str(folder / "limit.png"), np.zeros((125, 160, 3), np.uint8))
    write_video(folder / "cut.avi", 12)
    os.truncate(folder / "cut.avi", int(0.7 * (folder / "cut.avi").stat().st_size))
    write_video(folder / "large.avi", 3, (176, 144))
    video = cv2.VideoCapture(str(folder / "cut.avi"))
    readable = 0
    while video.read()[0]:
        readable += 1
    video.release()
    assert 2 <= readable <= 8
    words = ["demo", "--model", trained, "--input", folder, "--output", output]
    code, _, err = run_script(*words, "--opts", "INPUT.MAX_PIXELS", "20000")
    skipped = [line for line in err.splitlines() if line.startswith("skipped: ")]
    assert code == 1 and "Traceback" not in err and len(skipped) == 3, err
    assert "cut.avi: only the first" in skipped[0] and "large.avi" in skipped[1] and "large.png" in skipped[2]
    assert all("INPUT.MAX_PIXELS" in line for line in skipped[1:])
    done = ["a", *(f"cut_{number:06d}" for number in range(readable)), "limit", "z"]
    content = json.loads((output / "panoptic.json").read_text())
    assert [a["file_name"] for a in content["annotations"]] == [f"{name}.png" for name in done]
    assert all((output / f"{name}.{suffix}").is_file() for name in done for suffix in ("png", "jpg"))


def test_a_file_that_vanishes_or_may_not_be_read(run_script, trained, photo, tmp_path, monkeypatch):
    for name in "abc":
        shutil.copy(photo, tmp_path / f"{name}.jpg")
    whole = frames.read_frames

    def with_faults(file, *args):
        if file.name == "a.jpg":
            os.unlink(file)
        if file.name == "b.jpg":
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return whole(file, *args)

    monkeypatch.setattr(frames, "read_frames", with_faults)
    code, _, err = run_script("demo", "--model", trained, "--input", tmp_path, "--output", tmp_path / "out")
    lines = [line for line in err.splitlines() if line.startswith("skipped: ")]
    assert code == 1 and len(lines) == 2 and "a.jpg" in lines[0] and "b.jpg: Permission denied" in lines[1]
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [Path(a["image"]).name for a in content["annotations"]] == ["c.jpg"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_a_full_disk_keeps_what_is_done(run_script, trained, photo, tmp_path, monkeypatch, number: int):
    """The third picture finds no room."""
    for name in "abcd":
        shutil.copy(photo, tmp_path / f"{name}.jpg")

    class Full(files_module._Raw):
        def write(self, data):
            if ".c.jpg." in str(self.name):
                self.error = OSError(number, os.strerror(number))
                raise self.error
            return super().write(data)

    monkeypatch.setattr(files_module, "_Raw", Full)
    output = tmp_path / "out"
    code, _, err = run_script("demo", "--model", trained, "--input", tmp_path, "--output", output)
    last = err.strip().splitlines()[-1]
    assert code == 2 and "2 images are done" in last and os.strerror(number) in last and "Traceback" not in err
    content = json.loads((output / "panoptic.json").read_text())
    assert [a["file_name"] for a in content["annotations"]] == ["a.png", "b.png"]
    assert not list(output.glob(".*"))


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_killed(trained, photo, tmp_path, child_env, kind: signal.Signals):
    """The json is valid and names finished files; the next run removes half-written ones."""
    for number in range(300):
        os.link(photo, tmp_path / f"{number:03d}.jpg") if photo.stat().st_dev == tmp_path.stat().st_dev else (
            shutil.copy(photo, tmp_path / f"{number:03d}.jpg")
        )
    output = tmp_path / "out"
    command = [sys.executable, "-m", "panoptic_fusion", "demo", "--model", trained, "--input", tmp_path]
    process = subprocess.Popen([*map(str, command), "--output", str(output)], env=child_env, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (output / "003.png").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(kind)
        process.wait()
    content = json.loads((output / "panoptic.json").read_text())
    done = [a["file_name"] for a in content["annotations"]]
    listed = [image["id"] for image in content["images"]]  # a kill between the two writes leaves one image more
    assert listed[: len(done)] == [a["image_id"] for a in content["annotations"]] and len(listed) <= len(done) + 1
    assert 3 <= len(done) < 300 and done == [f"{number:03d}.png" for number in range(len(done))]
    assert all(cv2.imread(str(output / name)) is not None for name in done)
    assert len(list(output.glob("*.png"))) <= len(done) + 1
    (output / f".x.png.{process.pid}.partial").write_bytes(b"half")
    (output / f".y.png.{os.getpid()}.partial").write_bytes(b"of a process that runs")
    files_module.remove_partial_files(output)
    assert [p.name for p in output.glob(".*")] == [f".y.png.{os.getpid()}.partial"]


def test_strips_do_not_end_the_run(run_script, trained, photo, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((1, 4000, 3), np.uint8))
    shutil.copy(photo, tmp_path / "b.jpg")
    code, _, err = run_script("demo", "--model", trained, "--input", tmp_path, "--output", tmp_path / "out")
    assert code == 1 and "skipped" in err and "a.png" in err
    assert len(json.loads((tmp_path / "out" / "panoptic.json").read_text())["annotations"]) == 1


PEAK = """
import resource, sys
from panoptic_fusion.cli.entry import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_of_a_large_image(trained, tmp_path, child_env):
    """An image that is tiny as a file takes at most 35 bytes per pixel more than a small one."""
    rng, peaks = np.random.default_rng(0), {}
    for side in (100, 2000):
        image = tmp_path / f"{side}.png"
        cv2.imwrite(str(image), cv2.resize(rng.integers(0, 256, (20, 20, 3), np.uint8), (side, side)))
        words = ["demo", "--model", trained, "--input", image, "--output", tmp_path / f"out_{side}"]
        command = [sys.executable, "-c", PEAK, *map(str, words)]
        done = subprocess.run(command, env=child_env, capture_output=True, text=True, check=True)
        peaks[side] = int(done.stdout.split()[-1])
    assert (peaks[2000] - peaks[100]) / 2000**2 <= 35

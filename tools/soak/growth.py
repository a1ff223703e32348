"""Measures memory and open files over long runs: they must not grow with the number of images."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from hostile_images import write_video

from .attempts import Attempt, Place
from .processes import AttackFailed, Started

ROW = "Memory and open files over a long run, at 50 % and at its end"
POINTS = 10
MIDDLE = 4  # of the points: by half of a run, all caches are full
SLACK = 0.1  # growth of memory that counts as flat: less than a tenth


def attempts(quick: bool) -> list[Attempt]:
    """Returns the long runs."""
    runs = {"1,000 images": _images, "a video of 500 frames": _video, "2,000 evaluated images": _evaluation,
            "a report of 2,000": _report}  # fmt: skip
    return [] if quick else [Attempt(ROW, name, run) for name, run in runs.items()]


def _images(place: Place) -> tuple[int, str]:
    photos = place.folder / "photos"
    _copies(Path(place.material.splits["train"]["images"]), photos, 1000)
    words = ["demo", "--model", place.material.model, "--input", photos, "--output", place.folder / "out"]
    return 1, "1,000 demo images: " + _measure(place, words, lambda: _count(place.folder / "out", "png") / 1000)


def _video(place: Place) -> tuple[int, str]:
    write_video(place.folder / "drive.avi", 500)
    words = ["demo", "--model", place.material.model, "--input", place.folder / "drive.avi", "--video"]
    words += ["--output", place.folder / "out"]
    return 1, "a video of 500 frames: " + _measure(place, words, lambda: _count(place.folder / "out", "png") / 500)


def _evaluation(place: Place) -> tuple[int, str]:
    words = ["evaluate", *_many_predictions(place, 2000), "--output", place.folder / "out", "--workers", 1]
    return 1, "2,000 evaluated images: " + _measure(place, words, None)


def _report(place: Place) -> tuple[int, str]:
    out = place.folder / "out"
    words = ["report", *_many_predictions(place, 2000), "--output", out, "--workers", 1]
    words += ["--photos", place.folder / "many" / "images"]
    images = out / "report_files" / "images"
    return 1, "a report of 2,000: " + _measure(place, words, lambda: _count(images, "js") / 2000)


def _measure(place: Place, words: list, progress: Callable[[], float] | None) -> str:
    """Runs a command and returns memory and open files; without `progress`, time after the first file counts."""
    command = Started(words, place.folder / "long.log")
    samples: list[tuple[float, float, int]] = []
    began = time.monotonic()
    while command.is_running():
        if (found := _usage(command.process.pid)) is not None:
            samples.append((progress() if progress else time.monotonic() - began, *found))
        time.sleep(0.2)
    outcome = command.wait()
    if outcome.code:
        raise AttackFailed(f"exit code {outcome.code}: {outcome.end()}")
    last = max(sample[0] for sample in samples)
    at = [min(samples, key=lambda sample: abs(sample[0] - last * share / POINTS)) for share in range(1, POINTS + 1)]
    (_, memory, files), (_, end_memory, end_files) = at[MIDDLE], max(at[-3:], key=lambda sample: sample[1])
    text = f"{memory:.0f} → {end_memory:.0f} MiB, {files} → {end_files} files"
    if end_memory > (1 + SLACK) * memory or end_files > files + 2:
        raise AttackFailed(f"{text}; at {POINTS} points: {[round(sample[1]) for sample in at]} MiB")
    return text


def _usage(pid: int) -> tuple[float, int] | None:
    """Returns the memory of a process in MiB, without files that it shares, and the number of its open files."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, IndexError):
        return None


def _count(folder: Path, suffix: str) -> int:
    return sum(entry.name.endswith(suffix) for entry in os.scandir(folder)) if folder.is_dir() else 0


def _copies(source: Path, target: Path, count: int) -> None:
    files = sorted(source.iterdir())
    target.mkdir(parents=True)
    for number in range(count):
        shutil.copy(files[number % len(files)], target / f"{number:05d}{files[0].suffix}")


def _many_predictions(place: Place, count: int) -> list:
    """Repeats the predictions of the four images; returns the options that name them."""
    folder, val = place.folder / "many", place.material.splits["val"]
    given = {"gt": (val["panoptic_json"], val["panoptic_root"])}
    given["pred"] = place.material.predictions[1], place.material.predictions[3]
    _copies(Path(val["images"]), folder / "images", count)
    words = []
    for kind, (json_file, root) in given.items():
        content = json.loads(Path(json_file).read_text())
        images = sorted(content["images"], key=lambda image: image["file_name"])
        by_id = {entry["image_id"]: entry for entry in content["annotations"]}
        (folder / kind).mkdir()
        new: dict[str, list] = {"images": [], "annotations": []}
        for number in range(count):
            image = images[number % len(images)]
            entry = by_id[image["id"]]
            shutil.copy(Path(root, entry["file_name"]), folder / kind / f"{number:05d}.png")
            name = f"{number:05d}{Path(image['file_name']).suffix}"
            new["images"].append({**image, "id": number, "file_name": name})
            new["annotations"].append({**entry, "image_id": number, "file_name": f"{number:05d}.png"})
        (folder / f"{kind}.json").write_text(json.dumps({**content, **new}))
        words += [f"--{kind}-json", folder / f"{kind}.json", f"--{kind}-root", folder / kind]
    return words

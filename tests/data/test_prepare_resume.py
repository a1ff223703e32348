"""The runner: kill -9 at any moment and again, equal results, nothing done twice, one run at a time."""

import functools
import json
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import dataset_trees
import numpy as np
import pytest
from PIL import Image

from panoptic_fusion.data.prepare import idd, prepare, runner
from panoptic_fusion.data.prepare.camvid import split_of
from panoptic_fusion.data.prepare.runner import run_split
from panoptic_fusion.errors import DiskError, UserError
from panoptic_fusion.locks import locked_file

CONVERT = idd.convert


def slow_convert(log: str, images: str, source: runner.Source) -> runner.Converted:
    """The conversion, each one noted in a log."""
    with open(log, "ab", buffering=0) as file:
        file.write(f"{source.image_id}\n".encode())
    time.sleep(0.01)
    return CONVERT(images, source)


def content(root: Path) -> dict[str, bytes]:
    """The JSON files and PNGs."""
    files = sorted((root / "gtFine").rglob("*panoptic*"))
    return {p.name: p.read_bytes() for p in files if p.suffix in (".json", ".png") and p.is_file()}


def in_background(function, *args, **kwargs) -> multiprocessing.Process:
    def target():
        os.setpgid(0, 0)
        function(*args, **kwargs)

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    return process


def any_alive(group: int) -> bool:
    """Whether a process of a group is at work: neither ended nor a zombie."""
    states = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return any(line.split()[0] == str(group) and line.split()[1][0] != "Z" for line in states.splitlines())


def journal_ids(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [json.loads(line)["annotation"]["image_id"] for line in path.read_bytes().split(b"\n") if line[-1:] == b"}"]


@pytest.mark.parametrize("whole_group", [True, False], ids=["with its workers", "only the parent"])
def test_killed_again_and_again(tmp_path, monkeypatch, whole_group):
    rng = np.random.default_rng(0)
    for name in ("killed", "calm"):
        dataset_trees.make_idd(tmp_path / name, np.random.default_rng(3), frames=60)
    prepare("idd", tmp_path / "calm", ["train"], workers=1, progress=False)
    log, root = tmp_path / "log", tmp_path / "killed"
    log.touch()
    journal = root / "gtFine/idd_panoptic_train.json.journal"
    monkeypatch.setattr(idd, "convert", functools.partial(slow_convert, str(log)))
    workers = 2
    finished: dict[str, int] = {}  # image id -> time of its PNG, of all that were done when a run was killed
    for _ in range(4):
        process = in_background(prepare, "idd", root, ["train"], workers=workers, progress=False)
        goal, deadline = len(finished) + int(rng.integers(5, 30)), time.monotonic() + 20
        while len(set(journal_ids(journal))) < goal and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        assert process.is_alive()
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
        process.join()
        while not whole_group and any_alive(process.pid):  # the workers notice
            time.sleep(0.01)
        started = log.read_text().split()
        done = journal_ids(journal)
        assert len(done) == len(set(done)) >= goal and not (root / "gtFine/idd_panoptic_train.json").exists()
        assert len(set(started)) - len(done) <= workers
        pngs = root / "gtFine/idd_panoptic_train"
        times = {i: (pngs / f"{i}_gtFine_panoptic.png").stat().st_mtime_ns for i in done}
        assert finished.items() <= times.items()
        finished = times
    summary = prepare("idd", root, ["train"], workers=workers, progress=False)[0]
    assert (summary.converted, summary.kept) == (120 - len(finished), len(finished))
    # Only what was being converted at a kill, at most one image a worker, was begun again.
    started = log.read_text().split()
    assert len(set(started)) == 120 and len(started) <= 120 + 4 * workers
    assert set(started[-summary.converted :]).isdisjoint(finished)
    assert content(root) == content(tmp_path / "calm") and not list(root.rglob(".*.partial"))
    # And once more: nothing to do.
    before = content(root), {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    summary = prepare("idd", root, ["train"], workers=workers, progress=False)[0]
    assert (summary.converted, summary.kept) == (0, 120) and log.read_text().split() == started
    files = {p: t for p, t in before[1].items() if p.is_file()}
    assert content(root) == before[0] and files == {p: p.stat().st_mtime_ns for p in files}


@pytest.fixture
def tree(tmp_path):
    dataset_trees.make_idd(tmp_path, np.random.default_rng(0), frames=4)
    return tmp_path


def test_workers_give_the_same_bytes(tree, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    dataset_trees.make_idd(other, np.random.default_rng(0), frames=4)
    prepare("idd", tree, workers=1, progress=False)
    prepare("idd", other, workers=3, progress=False)
    assert content(tree) == content(other)


def test_kill_between_png_and_journal_and_cut_journal_line(tree):
    prepare("idd", tree, ["train"], progress=False)
    before = content(tree)
    journal = tree / "gtFine/idd_panoptic_train.json.journal"
    data = json.loads((tree / "gtFine/idd_panoptic_train.json").read_text())
    (tree / "gtFine/idd_panoptic_train.json").unlink()
    lines = [
        json.dumps({"image": i, "annotation": a, "notes": {}}).encode()
        for i, a in zip(data["images"], data["annotations"], strict=True)
    ]
    journal.write_bytes(b"\n" + lines[0] + b"\n" + lines[1][:50] + b"\n" + lines[2])  # the second was cut short
    killed = subprocess.Popen(["true"])
    killed.wait()
    partial = tree / "gtFine/idd_panoptic_train" / f".x.png.{killed.pid}.partial"
    partial.write_bytes(b"half")
    summary = prepare("idd", tree, ["train"], workers=1, progress=False)[0]
    assert (summary.converted, summary.kept) == (6, 2) and content(tree) == before and not partial.exists()


def test_lost_png_and_new_annotation_are_done_alone(tree):
    prepare("idd", tree, ["train"], progress=False)
    before = content(tree)
    (tree / "gtFine/idd_panoptic_train/0_000007_gtFine_panoptic.png").unlink()
    summary = prepare("idd", tree, ["train"], progress=False)[0]
    assert (summary.converted, summary.kept) == (1, 7) and content(tree) == before
    for kind in ("leftImg8bit", "gtFine"):
        for path in (tree / kind / "train/0").glob("000000_*"):
            path.rename(path.with_name(path.name.replace("000000", "999999")))
    summary = prepare("idd", tree, ["train"], progress=False)[0]
    assert (summary.images, summary.converted, summary.kept) == (8, 1, 7)
    ids = [a["image_id"] for a in json.loads((tree / "gtFine/idd_panoptic_train.json").read_text())["annotations"]]
    assert "0_999999" in ids and "0_000000" not in ids


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "interrupted"])
def test_changed_annotation_is_converted_again(tree, finished):
    prepare("idd", tree, ["train"], progress=False)
    before = content(tree)
    if not finished:
        (tree / "gtFine/idd_panoptic_train.json").unlink()
    changed = tree / "gtFine/train/0/000007_gtFine_polygons.json"
    annotation = json.loads(changed.read_text())
    annotation["objects"] = []
    changed.write_text(json.dumps(annotation))
    pngs = tree / "gtFine/idd_panoptic_train"
    times = {p.name: p.stat().st_mtime_ns for p in pngs.iterdir()}
    summary = prepare("idd", tree, ["train"], progress=False)[0]
    assert (summary.converted, summary.kept) == (1, 7)
    name = "0_000007_gtFine_panoptic.png"
    assert {p.name for p in pngs.iterdir() if p.stat().st_mtime_ns != times[p.name]} == {name}
    after = content(tree)
    with Image.open(pngs / name) as png:
        assert not np.asarray(png).any()
    annotations = json.loads(after["idd_panoptic_train.json"])["annotations"]
    assert [a["segments_info"] for a in annotations if a["file_name"] == name] == [[]]
    assert {n for n in after if after[n] != before[n]} == {name, "idd_panoptic_train.json"}
    assert prepare("idd", tree, ["train"], progress=False)[0].converted == 0


@pytest.mark.parametrize("journal", [True, False], ids=["journal", "only the json"])
def test_no_json_next_to_newer_pngs(tree, monkeypatch, journal):
    """The first of two changed annotations is converted, then the run ends."""
    prepare("idd", tree, ["train"], progress=False)
    path = tree / "gtFine/idd_panoptic_train.json"
    if not journal:  # as written by an earlier version, which sees a lost PNG only
        (tree / "gtFine/idd_panoptic_train.json.journal").unlink()
    for frame in ("000000", "000007"):
        changed = tree / f"gtFine/train/0/{frame}_gtFine_polygons.json"
        changed.write_text(json.dumps({**json.loads(changed.read_text()), "objects": []}))
        if not journal:
            (tree / f"gtFine/idd_panoptic_train/0_{frame}_gtFine_panoptic.png").unlink()

    def convert(images, source):
        if source.image_id == "0_000007":
            raise DiskError("full")
        return CONVERT(images, source)

    monkeypatch.setattr(idd, "convert", convert)
    with pytest.raises(DiskError):
        prepare("idd", tree, ["train"], workers=1, progress=False)
    assert not path.exists()
    monkeypatch.undo()
    summary = prepare("idd", tree, ["train"], progress=False)[0]
    assert (summary.converted, summary.kept) == (1, 7)
    after = content(tree)
    prepare("idd", tree, ["train"], force=True, progress=False)
    assert content(tree) == after


def test_same_size_with_another_time_is_converted_again(tree):
    prepare("idd", tree, ["train"], progress=False)
    changed = tree / "gtFine/train/0/000007_gtFine_polygons.json"
    time_ns = changed.stat().st_mtime_ns
    os.utime(changed, ns=(time_ns, time_ns - 1))  # older than its PNG
    assert prepare("idd", tree, ["train"], progress=False)[0].converted == 1


def test_camvid_image_or_colors_changed(tmp_path):
    """The result holds a copy of the image, and the colors decide on the classes."""
    dataset_trees.make_camvid_cambridge(tmp_path, np.random.default_rng(0))
    total = prepare("camvid", tmp_path, ["train"], progress=False)[0].images
    image = next(p for p in sorted((tmp_path / "701_StillsRaw_full").iterdir()) if split_of(p.stem) == "train")
    with Image.open(image) as photo:
        Image.fromarray(255 - np.asarray(photo)).save(image)
    assert prepare("camvid", tmp_path, ["train"], progress=False)[0].converted == 1
    with open(tmp_path / "label_colors.txt", "a") as file:
        file.write("\n")
    assert prepare("camvid", tmp_path, ["train"], progress=False)[0].converted == total
    assert prepare("camvid", tmp_path, ["train"], progress=False)[0].converted == 0


def test_force_does_all_again(tree):
    prepare("idd", tree, ["train"], progress=False)
    before = content(tree)
    assert prepare("idd", tree, ["train"], force=True, progress=False)[0].converted == 8
    assert content(tree) == before


def test_other_json_in_the_place_is_not_overwritten(tree):
    path = tree / "gtFine/idd_panoptic_train.json"
    for text in ("no json", '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a", "isthing": 1}]}'):
        path.write_text(text)
        with pytest.raises(UserError, match="--force"):
            prepare("idd", tree, ["train"], progress=False)
        assert path.read_text() == text
    assert prepare("idd", tree, ["train"], force=True, progress=False)[0].converted == 8


def test_two_runs_of_a_split_exclude_each_other(tree, monkeypatch):
    monkeypatch.setattr(runner, "locked_file", functools.partial(locked_file, patience=0.3))
    plan = idd.plan_split(tree, "train")
    with locked_file(plan.panoptic_json), pytest.raises(UserError, match="idd_panoptic_train.json .* another run"):
        run_split(plan, workers=1, progress=False)
    assert run_split(plan, workers=1, progress=False).converted == 8


def test_killed_worker_is_a_clear_error(tree, monkeypatch):
    monkeypatch.setattr(idd, "convert", kill_me)
    with pytest.raises(UserError, match="run the same command again"):
        prepare("idd", tree, ["train"], workers=2, progress=False)
    monkeypatch.undo()
    assert prepare("idd", tree, ["train"], progress=False)[0].images == 8


def kill_me(images: str, source: runner.Source) -> None:
    os.kill(os.getpid(), signal.SIGKILL)

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

from panoptic_fusion.data.prepare import idd, prepare, runner
from panoptic_fusion.data.prepare.runner import run_split
from panoptic_fusion.errors import UserError
from panoptic_fusion.locks import locked_file

CONVERT = idd.convert


def slow_convert(log: str, images: str, source: runner.Source) -> runner.Converted:
    """The conversion, each one noted in a log."""
    with open(log, "ab", buffering=0) as file:
        file.write(f"{source.image_id}\n".encode())
    time.sleep(0.01)
    return CONVERT(images, source)


def content(root: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((root / "gtFine").rglob("*panoptic*")) if p.is_file()}


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
    assert content(root) == content(tmp_path / "calm") and not list(root.rglob("*.tmp")) and not journal.exists()
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
    (tree / "gtFine/idd_panoptic_train" / ".x.png.77.tmp").write_bytes(b"half")
    summary = prepare("idd", tree, ["train"], workers=1, progress=False)[0]
    assert (summary.converted, summary.kept) == (6, 2) and content(tree) == before


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
